"""What /proc and pidfds alone show of processes from outside."""

import os
import signal

CARRIER_FD = 9
TICKS = os.sysconf("SC_CLK_TCK")


def identity(pid):
    """Returns (pid, start ticks, state, parent), or None where no process has the number."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return pid, int(fields[19]), fields[0].decode(), int(fields[1])
    except (OSError, IndexError):
        return None


def lives(known):
    now = identity(known[0])
    return now is not None and now[1] == known[1] and now[2] not in "ZX"


def pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def living(numbers):
    return [who for who in map(identity, numbers) if who and who[2] not in "ZX"]


def cmdline(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read(4096).split(b"\0")
    except OSError:
        return []


def has_tag(pid):
    """Whether the environment names a run. True also if the environment cannot be read."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            environment = file.read()
    except OSError:
        return True
    return environment.startswith(b"LEASH_RUN=") or b"\0LEASH_RUN=" in environment


def has_shed_mark(pid):
    """Whether the process has set the limit that carries the mark to 1, as the guest's own shape
    does."""
    try:
        with open(f"/proc/{pid}/limits") as file:
            return any(line.split()[:4] == ["Max", "file", "locks", "1"] for line in file)
    except OSError:
        return False


def carrier(pid):
    try:
        return os.readlink(f"/proc/{pid}/fd/{CARRIER_FD}")
    except OSError:
        return ""


def carriers(directory):
    """Returns the processes that hold each carrier: {name: [identity]}."""
    found = {}
    for pid in pids():
        target = carrier(pid)
        if target.startswith(directory):
            for who in living([pid]):
                found.setdefault(os.path.basename(target), []).append(who)
    return found


def watched_by(words, owner):
    """Whether a shim's words name this owner; its start may be rounded in a time namespace."""
    for word in words:
        if word.startswith(b"--owner="):
            pid, _, ticks = word[8:].partition(b":")
            return int(pid) == owner[0] and abs(int(ticks) - owner[1]) <= 1
        if word == b"--":
            return False
    return False


def programs(warden, owner=None):
    """Returns every shim, or every warden, which is the same program. With an owner, only those
    of that VM."""
    found = []
    for pid in pids():
        words = cmdline(pid)
        if len(words) > 2 and words[1].startswith((b"--run-id=", b"--warden")) and words[0].endswith(b"leash-shim"):
            if (b"--warden" in words[1:3]) == warden and (owner is None or watched_by(words, owner)):
                found += living([pid])
    return found


def shims(owner=None):
    return programs(False, owner)


def wardens(owner=None):
    return programs(True, owner)


def send(who, number):
    """Sends a signal to an identity, never to a number that another process has now."""
    try:
        fd = os.pidfd_open(who[0])
    except OSError:
        return
    try:
        if lives(who):
            signal.pidfd_send_signal(fd, number)
    except OSError:
        pass
    finally:
        os.close(fd)


def describe(who):
    words = b" ".join(cmdline(who[0]))[:150].decode(errors="replace")
    limits = ""
    try:
        with open(f"/proc/{who[0]}/limits") as file:
            limits = [line for line in file if line.startswith("Max file locks")][0].split("locks")[1].strip()
    except (OSError, IndexError):
        pass
    return f"{who[0]} {who[2]} ppid {who[3]} {words} [{limits}]"
