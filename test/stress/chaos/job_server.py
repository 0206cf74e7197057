"""A daemon that starts jobs with their senders' environment, as at, pm2, sbatch and tmux servers
do.

job_server.py serve DIR SECONDS LIMIT child,orphan   answers at DIR/socket, until its stdin ends
                                                     or SECONDS have passed
job_server.py hand SOCKET                            sends its environment and lives on

The judge starts it before any VM, so neither the daemon nor a job is part of a tree. A job has
the variable LEASH_RUN of a worker, but neither its mark nor its ancestors. A job is
test/fixtures/decoy.py, as a child of the daemon or as an orphan.

DIR gets a description of each job (N.json) and the signals that the job got (N.log). The daemon
takes jobs as long as DIR holds fewer than LIMIT. It notes its own signals in DIR/daemon.log."""

import json
import os
import select
import signal
import socket
import sys
import time

from look import identity

HERE = os.path.dirname(os.path.abspath(__file__))
DECOY = os.path.join(HERE, "..", "..", "fixtures", "decoy.py")
# A sender may be stopped by a fault while it sends.
SENDER_SECONDS = 0.5
LIFE = 90


class Daemon:
    def __init__(self, directory, seconds, limit, kinds):
        self.directory, self.seconds, self.limit, self.kinds = directory, seconds, int(limit), kinds.split(",")
        self.end = time.monotonic() + float(seconds)
        self.count = 0
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(os.path.join(directory, "socket"))
        self.socket.listen(64)

    def note_signals(self):
        log = open(os.path.join(self.directory, "daemon.log"), "ab", buffering=0)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
            signal.signal(number, lambda number, _frame: log.write(b"%d\n" % number))

    def serve(self):
        self.note_signals()
        print("ready", flush=True)
        while time.monotonic() < self.end:
            ready = select.select([self.socket, 0], [], [], 0.2)[0]
            if 0 in ready:
                break
            if self.socket in ready:
                self.answer(self.socket.accept()[0])
            self.reap()

    def answer(self, connection):
        with connection:
            connection.settimeout(SENDER_SECONDS)
            try:
                environment = b"".join(iter(lambda: connection.recv(65536), b""))
                if self.has_room():
                    self.start(environment)
                # A sender that a fault ended must not become a signal to the daemon.
                connection.sendall(b"answered\n", socket.MSG_NOSIGNAL)
            except OSError:
                pass

    def has_room(self):
        return sum(name.endswith(".json") for name in os.listdir(self.directory)) < self.limit

    def start(self, environment):
        self.count += 1
        kind = self.kinds[self.count % len(self.kinds)]
        path = os.path.join(self.directory, str(self.count))
        variables = dict(pair.split(b"=", 1) for pair in environment.split(b"\0") if b"=" in pair)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            self.become_job(kind, path, variables, write)
        os.close(write)
        with os.fdopen(read) as said:
            pid = int(said.readline())
        # The entry has no start ticks if the job is gone already. For the judge it then never
        # lived.
        job = identity(pid) or (pid, 0)
        if kind == "orphan":
            os.waitpid(child, 0)
        tag = variables.get(b"LEASH_RUN", b"").decode(errors="replace")
        with open(f"{path}.new", "w") as file:
            json.dump({"kind": kind, "pid": job[0], "ticks": job[1], "tag": tag}, file)
        os.rename(f"{path}.new", f"{path}.json")

    def become_job(self, kind, path, variables, write):
        try:
            os.setsid()
            if kind == "orphan" and os.fork():
                os._exit(0)
            os.write(write, b"%d\n" % os.getpid())
            null = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(null, number)
            argv = [sys.executable, "-E", "-s", "-S", "-B", DECOY, f"{path}.log", self.seconds]
            os.execve(sys.executable, argv, variables)
        finally:
            os._exit(1)

    @staticmethod
    def reap():
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass


def hand(path):
    """Sends the environment. If no answer comes, the job was not taken, which is no failure."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(path)
            connection.sendall(b"\0".join(name + b"=" + value for name, value in os.environb.items()))
            connection.shutdown(socket.SHUT_WR)
            connection.recv(64)
    except OSError:
        pass


def main():
    if sys.argv[1] == "serve":
        Daemon(*sys.argv[2:]).serve()
    else:
        hand(sys.argv[2])
        time.sleep(LIFE)


if __name__ == "__main__":
    main()
