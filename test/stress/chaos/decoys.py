"""Processes that must not be touched (test/fixtures/decoy.py). Each notes every signal that
reaches it."""

import os
import subprocess
import sys

from look import identity, lives
from vm import FIXTURES

DECOY = os.path.join(FIXTURES, "decoy.py")


def own_tag(run_id):
    """Returns a LEASH_RUN whose owner is this very process."""
    me = identity(os.getpid())
    namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot = file.read().replace("-", "")[:8]
    return f"{run_id}.1.{me[0]}.{me[1]}.{namespace}.{boot}"


def mark(run_id, worker):
    """Returns both halves of a mark at the outermost depth (native/tag)."""
    common = 0x4C << 56 | 7 << 53 | int(run_id, 36) << 16
    return common | worker, common | 0x7FFF


class Decoys:
    def __init__(self, work, seconds):
        self.work, self.seconds, self.all = work, seconds, []

    def start(self, title, words=(), env=None, locks=None):
        log = os.path.join(self.work, f"decoy-{len(self.all)}")
        argv = [sys.executable, "-E", "-s", "-S", "-B", DECOY, log, str(self.seconds)]
        if locks:
            argv.append(f"--locks={locks[0]}:{locks[1]}")
        argv += ["--", *words]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, env=dict(os.environ, **(env or {})), start_new_session=True)
        process.stdout.readline()
        self.all.append((title, identity(process.pid), log, process))

    def touched(self):
        """Returns [title and the signals it got], and reports each decoy once."""
        found = []
        for decoy in list(self.all):
            title, who, log, process = decoy
            with open(log) as file:
                said = file.read().split()
            if process.poll() is not None or not lives(who) or said:
                found.append((title, said))
                self.all.remove(decoy)
                self.end_one(process)
        return found

    @staticmethod
    def end_one(process):
        process.kill()
        process.wait()
        process.stdout.close()

    def end(self):
        for _title, _who, _log, process in self.all:
            self.end_one(process)
