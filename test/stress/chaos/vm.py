"""A VM under chaos, and the commands and answers between it and the judge (guest.exs)."""

import os
import select
import signal
import subprocess
import time

from look import TICKS, identity, send

HERE = os.path.dirname(os.path.abspath(__file__))
FIXTURES = os.path.join(HERE, "..", "..", "fixtures")
# The time by which the clocks of a time namespace are ahead.
SHIFT_SECONDS = 100_000
SHIFT = ["unshare", "--time", f"--monotonic={SHIFT_SECONDS}", f"--boottime={SHIFT_SECONDS}"]


def shift_works():
    try:
        return subprocess.run([*SHIFT, "true"], stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


class VM:
    count = 0

    def __init__(self, chaos, workers, name, temper="wild", seed=0, shifted=False):
        VM.count += 1
        self.slot, self.prefix = name, f"{name}.{VM.count}"
        self.shifted = shifted
        self.cgroup = chaos.cgroups.make(self.prefix)
        self.log_path = os.path.join(chaos.work, f"{self.prefix}.log")
        self.dump = os.path.join(chaos.work, f"{self.prefix}.dump")
        argv = [*chaos.elixir, os.path.join(HERE, "guest.exs"), str(seed), str(workers), chaos.carriers, self.prefix]
        argv += [FIXTURES, temper, str(int(chaos.lifetime()))]
        if shifted:
            argv = [*SHIFT, *argv]
        if self.cgroup:
            argv = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', os.path.join(self.cgroup, "cgroup.procs"), *argv]
        env = dict(os.environ, LEASH_RUN_DIR=chaos.run_dir, ERL_CRASH_DUMP=self.dump, ERL_CRASH_DUMP_SECONDS="20")
        env["CHAOS_JOBS"] = chaos.jobs.socket
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=env, start_new_session=True
            )
        self.identity = identity(self.process.pid)
        # The identity as the VM's shims have it.
        shift = SHIFT_SECONDS * TICKS if shifted else 0
        self.owner = (self.identity[0], self.identity[1] + shift)
        self.run_id = None
        # Whether the run may have begun without a record, because the run directory could not be
        # used.
        self.unrecorded = chaos.directory.spoiled is not None
        # Whether a warden of the VM was killed. Only that warden knows, by descent, what the VM's
        # shims have left.
        self.warden_lost = False
        # Whether the VM ended without a record, since a fault had damaged it.
        self.record_lost = False
        self.said = b""

    def line(self, beginning, seconds=60):
        """Returns the next line that begins so, or None if the VM ends first or says nothing for
        so long."""
        deadline = time.monotonic() + seconds
        while True:
            line, newline, rest = self.said.partition(b"\n")
            if newline:
                self.said = rest
                if line.decode(errors="replace").startswith(beginning):
                    return line.decode().split()
                continue
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                # A line that is there already counts even if no time is left.
                if not select.select([self.process.stdout], [], [], 0)[0]:
                    return None
            part = os.read(self.process.stdout.fileno(), 65536)
            if not part:
                return None
            self.said += part

    def ready(self, seconds=60):
        if self.run_id is None:
            words = self.line("run ", seconds)
            self.run_id = words[1] if words else None
        return self.run_id is not None

    def say(self, command):
        try:
            self.process.stdin.write(command.encode() + b"\n")
            self.process.stdin.flush()
            return True
        except OSError:
            return False

    def ask(self, command, beginning, seconds=60):
        return self.line(beginning, seconds) if self.say(command) else None

    def descriptors(self):
        try:
            return len(os.listdir(f"/proc/{self.identity[0]}/fd"))
        except OSError:
            return None

    def alive(self):
        return self.process.poll() is None

    def end(self):
        if self.alive():
            send(self.identity, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            try:
                pipe.close()
            except OSError:
                pass
