"""The jobs of another service (job_server.py). They have the environment of workers and must not
be touched."""

import json
import os
import signal
import subprocess
import sys

from look import identity, lives, send

HERE = os.path.dirname(os.path.abspath(__file__))
SERVER = os.path.join(HERE, "job_server.py")
# The number of jobs at once. The judge ends them after each round, so that each round has new
# ones.
LIMIT = 24
CAP_SYS_RESOURCE = 24


def marks_can_be_reset():
    """Whether a process below this one may raise a hard limit, and so drop its mark."""
    with open("/proc/self/status") as file:
        bounding = next(line for line in file if line.startswith("CapBnd:"))
    return bool(int(bounding.split()[1], 16) >> CAP_SYS_RESOURCE & 1)


class Jobs:
    def __init__(self, work, seconds):
        self.directory = os.path.join(work, "jobs")
        self.socket = os.path.join(self.directory, "socket")
        self.seconds, self.process = seconds, None
        # Where programs can reset marks, the origin of an orphan without a mark is unknown.
        self.orphans = not marks_can_be_reset()
        # Jobs that were judged, and the runs whose environment they had.
        self.judged, self.runs = 0, set()

    def start(self):
        """Starts the daemon before the first VM: a daemon that is older than a run cannot belong
        to it."""
        os.mkdir(self.directory, 0o700)
        kinds = "child,orphan" if self.orphans else "child"
        argv = [sys.executable, "-E", "-s", "-B", SERVER, "serve", self.directory, str(self.seconds)]
        argv += [str(LIMIT), kinds]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(argv, start_new_session=True, **pipes)
        assert self.process.stdout.readline() == b"ready\n", "the daemon of the jobs did not start"
        self.daemon = identity(self.process.pid)

    def all(self):
        """Returns every job: (its file's name without an ending, what it is, its identity)."""
        found = []
        for name in os.listdir(self.directory):
            if name.endswith(".json"):
                path = os.path.join(self.directory, name)
                with open(path) as file:
                    job = json.load(file)
                found.append((path[:-5], job, (job["pid"], job["ticks"])))
        return found

    def runs_now(self):
        """Returns the ids of the runs that living jobs have in their environment."""
        return {job["tag"].split(".")[0] for _path, job, who in self.all() if job["tag"] and lives(who)}

    @staticmethod
    def signals(path):
        """Returns the signals that a job noted, and nothing for a job that ended before it could
        note any."""
        try:
            with open(f"{path}.log") as file:
                return file.read().split()
        except FileNotFoundError:
            return []

    def touched(self):
        """Returns [what it is and what it got] of the daemon and its jobs."""
        jobs = self.all()
        self.judged += len(jobs)
        self.runs |= self.runs_now()
        everything = [("the daemon itself", os.path.join(self.directory, "daemon"), self.daemon)]
        everything += [(f"{job['kind']} with {job['tag']}", path, who) for path, job, who in jobs]
        found = []
        for title, path, who in everything:
            alive, signals = lives(who), self.signals(path)
            if not alive or signals:
                state = "lives" if alive else "is gone"
                found.append(f"{title}: {who[0]} {state}, signals {' '.join(signals) or 'none'}")
            if who == self.daemon and signals:
                # The job goes on, and the judge reports each job once.
                os.truncate(f"{path}.log", 0)
        return found

    def end_all(self):
        """Ends the jobs, each by its identity."""
        for path, _job, who in self.all():
            send(who, signal.SIGKILL)
            for ending in (".log", ".json"):
                if os.path.exists(path + ending):
                    os.unlink(path + ending)

    def end(self):
        """Ends the daemon first, so that it starts no other job."""
        if self.process:
            self.process.stdin.close()
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.end_all()
