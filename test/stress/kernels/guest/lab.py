"""What the situations share: VMs under trial, the observer, decoys, and the lines of the result."""

import collections
import itertools
import os
import signal
import subprocess
import time

HERE = os.path.dirname(os.path.abspath(__file__))
VMS = "/trial/vms"
# Processes start slowly under emulation, so these are the bounds of a wait and no measure.
START_SECONDS = 60
END_SECONDS = 15
RUN_DIR = "/trial/run"

Seen = collections.namedtuple("Seen", "number pid start uid parent mark env cgroup")
numbers = itertools.count(100_000)


def say(kind, name, detail=""):
    """Writes one line of the result: kind is ok, red, skip or note."""
    print("TRIAL\t%s\t%s\t%s" % (kind, name, " ".join(str(detail).split())), flush=True)


def note(name, detail):
    say("note", name, detail)


def check(name, holds, detail=""):
    say("ok" if holds else "red", name, "" if holds else detail)
    return holds


def look():
    """Returns what the observer sees now."""
    lines = subprocess.run([os.path.join(HERE, "look")], capture_output=True, text=True, check=True).stdout
    fields = [line.split(" ", 7) for line in lines.splitlines()]
    return [Seen(int(f[0]), int(f[1]), int(f[2]), int(f[3]), int(f[4]), *f[5:]) for f in fields]


def alive(wanted):
    return [seen for seen in look() if seen.number in wanted]


def wait_until(condition, seconds):
    """Returns the first true value of the condition, else its last one."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value or time.monotonic() > deadline:
            return value
        time.sleep(0.05)


def await_alive(wanted, seconds=START_SECONDS):
    """Returns whether each number lived within the time, and those that did not."""
    missing = set(wanted)
    wait_until(lambda: not missing.difference_update(seen.number for seen in look()) and not missing, seconds)
    return missing


def await_gone(wanted, seconds=END_SECONDS):
    """Returns what still lives after the time, and how long it took."""
    began = time.monotonic()
    wait_until(lambda: not alive(wanted), seconds)
    return alive(wanted), time.monotonic() - began


def describe(seen):
    return "; ".join(
        f"sleep {s.number} (pid {s.pid}, uid {s.uid}, parent {s.parent}, {s.mark}, {s.env}, {s.cgroup})" for s in seen
    )


def is_process(pid):
    return os.path.isdir(f"/proc/{pid}")


def command_line(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().decode(errors="replace").split("\0")
    except OSError:
        return []


def shims_of(run):
    """Returns the shims of a run, and its wardens."""
    shims, wardens = [], []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        argv = command_line(pid)
        if argv and argv[0].endswith("leash-shim") and f"--run-id={run}" in argv:
            (wardens if any(word.startswith("--warden") for word in argv) else shims).append(int(pid))
    return shims, wardens


def ancestors(pid):
    """Returns the living ancestors of a process, without pid 1."""
    found = []
    while True:
        try:
            with open(f"/proc/{pid}/stat") as file:
                pid = int(file.read().rpartition(")")[2].split()[1])
        except OSError:
            return found
        if pid <= 1:
            return found
        found.append(pid)


def kill(pids, number=signal.SIGKILL):
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def wipe(wanted):
    """Ends what a fault has left, so that it disturbs nothing that comes after it."""
    kill(seen.pid for seen in alive(wanted))


class Decoys:
    """Strangers that look like workers, and have to live unsignalled until the end."""

    def __init__(self):
        self.numbers = [next(numbers) for _ in range(4)]
        plain, named, junk, session = self.numbers
        env = dict(os.environ, LEASH_RUN="junk")
        self.processes = [
            subprocess.Popen(["sleep", str(plain)]),
            # An operator's command line has the id of a run in it.
            subprocess.Popen(["sh", "-c", f"sleep {named}; : --run-id=aaaaaaa"]),
            subprocess.Popen(["sleep", str(junk)], env=env),
            subprocess.Popen(["setsid", "sleep", str(session)], user=65534, group=65534),
        ]
        await_alive(self.numbers)
        self.before = {(seen.number, seen.pid, seen.start) for seen in alive(self.numbers)}

    def check(self):
        now = {(seen.number, seen.pid, seen.start) for seen in alive(self.numbers)}
        check("the decoys live", now == self.before and len(now) == 4, f"before {self.before}, now {now}")

    def end(self):
        wipe(self.numbers)
        for process in self.processes:
            process.kill()
            process.wait()


class VM:
    """A VM with workers. `workers` maps a label to a shell command, in which {name} is a number of
    its own for each name of `keys`. A pair adds options of Leash.Worker, as Elixir text."""

    def __init__(self, name, workers=None, keys="abc", env=None, prefix=(), user=None):
        self.name, self.dir = name, f"{VMS}/{name}"
        self.numbers, lines = {}, []
        for label, worker in (workers or {}).items():
            command, options = worker if isinstance(worker, tuple) else (worker, "[]")
            own = {key: next(numbers) for key in keys if "{" + key + "}" in command}
            self.numbers[label] = list(own.values())
            lines.append(f"{label}\t{options}\t{command.format(**own)}\n")
        os.makedirs(self.dir, exist_ok=True)
        os.chmod(self.dir, 0o777)
        with open(f"{self.dir}/workers", "w") as file:
            file.writelines(lines)
        for stale in ("log", "order", "console"):
            if os.path.exists(f"{self.dir}/{stale}"):
                os.unlink(f"{self.dir}/{stale}")
        self.env, self.prefix, self.user, self.process = env or {}, list(prefix), user, None
        self.run = self.pid = self.took = self.swept = None

    @property
    def all(self):
        return [number for own in self.numbers.values() for number in own]

    def start(self):
        env = {"PATH": os.environ["PATH"], "HOME": "/tmp", "LANG": "C.UTF-8", "LEASH_RUN_DIR": RUN_DIR}
        env.update(TRIAL_VM=self.dir, **self.env)
        self.process = subprocess.Popen(
            [*self.prefix, f"{HERE}/run-vm"], env={k: v for k, v in env.items() if v is not None},
            stdin=subprocess.DEVNULL, start_new_session=True, user=self.user, group=self.user,
        )
        return self.await_up()

    def await_up(self):
        """Waits for the end of the start, and for every process of the workers."""
        up = wait_until(lambda: self.said("up ") or self.said("failed "), START_SECONDS)
        if not up or not up[-1].startswith("up "):
            check(f"{self.name}: the VM comes up", False, f"{up} {self.console()[-600:]}")
            return None
        _, self.run, *numbers_said = up[-1].split()
        self.pid, self.took, self.swept = map(int, numbers_said)
        missing = await_alive(self.all)
        if missing:
            check(f"{self.name}: the workers come up", False, f"missing {missing}: {self.log()[-600:]}")
        return self

    def read(self, file):
        try:
            with open(f"{self.dir}/{file}", errors="replace") as opened:
                return opened.read()
        except FileNotFoundError:
            return ""

    def log(self):
        return self.read("log")

    def console(self):
        return self.read("console")

    def said(self, beginning):
        return [line for line in self.log().splitlines() if line.startswith(beginning)]

    def order(self, words, seconds=45):
        """Gives an order, and returns the answer, or None."""
        before = len(self.said("done "))
        with open(f"{self.dir}/new", "w") as file:
            file.write(words)
        os.chmod(f"{self.dir}/new", 0o666)
        os.rename(f"{self.dir}/new", f"{self.dir}/order")
        wait_until(lambda: len(self.said("done ")) > before or not self.alive(), seconds)
        answers = self.said("done ")
        return answers[-1][5:] if len(answers) > before else None

    def alive(self):
        if self.process:
            return self.process.poll() is None
        return is_process(self.pid)

    def beam(self):
        """The VM's number as seen from here, where it has another one inside of its namespace."""
        wanted = f"TRIAL_VM={self.dir}\0".encode()
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/comm") as comm, open(f"/proc/{pid}/environ", "rb") as environ:
                    if comm.read().startswith("beam") and wanted in environ.read():
                        return int(pid)
            except OSError:
                continue
        return self.pid

    def shims(self):
        return shims_of(self.run)[0]

    def wardens(self):
        return shims_of(self.run)[1]

    def end(self):
        """Ends the VM in order."""
        if self.alive():
            self.order("init_stop")
        wait_until(lambda: not self.alive(), 30)
        if self.alive():
            check(f"{self.name}: the VM ends", False, self.log()[-400:])
            kill([self.pid])
        if self.process:
            self.process.wait()


def start_and_end(name, **options):
    """The next start of the same user: its sweep is over when it is up. Returns the VM, ended."""
    vm = VM(name, **options)
    if vm.start():
        vm.end()
    return vm
