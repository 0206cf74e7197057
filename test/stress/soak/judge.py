"""Soak: nothing of a VM may grow, however many programs it starts and however many bytes it
moves.

judge.py MINUTES CYCLES RATE ELIXIR_ARGUMENTS…

The VM (guest.exs) makes CYCLES starts and stops. Then it moves RATE bytes a second for MINUTES
through one worker. After each tenth of both, the judge looks at the VM. From outside it reads
memory, descriptors by kind, threads, children and records. From the VM itself it gets atoms,
ports, processes, tables and workers. A pidfd, socket or pipe is a resource of the NIF, so the
descriptors count those resources, too.

The first look follows a warm-up. Counts have to be the same at the end. Memory may differ by 5 %
and 4 MB."""

import collections
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
STEPS = 10
MEMORY = {"rss_kb": 4_096, "anonymous_kb": 4_096, "binary_bytes": 4_194_304}
# Modules that are loaded late bring atoms and entries in the VM's own tables. A leak of one entry
# for each of 20,000 starts would be 20,000 entries.
FEW = {"atoms": 50, "other_ets_objects": 50}
# Things that exist for a moment, such as a timer's process or a datagram. They have to be gone at
# the next look.
PATIENCE = 15.0


def sh(path, default=""):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return default


def number(name, text):
    found = re.search(rf"^{name}:\s+(\d+)", text, re.M)
    return int(found.group(1)) if found else 0


def descriptors(pid):
    kinds = collections.Counter()
    folder = f"/proc/{pid}/fd"
    for name in os.listdir(folder):
        try:
            kinds["fd " + re.sub(r"\d+", "", os.readlink(os.path.join(folder, name)))] += 1
        except OSError:
            pass
    return kinds


def descendants(root):
    children = collections.defaultdict(list)
    for name in filter(str.isdigit, os.listdir("/proc")):
        stat = sh(f"/proc/{name}/stat")
        if stat:
            children[int(stat.rpartition(")")[2].split()[1])].append(int(name))
    found, left = [], [root]
    while left:
        more = children[left.pop()]
        found += more
        left += more
    return found


class Guest:
    def __init__(self, run_dir, elixir):
        environment = dict(os.environ, LEASH_RUN_DIR=run_dir, ERL_CRASH_DUMP_SECONDS="0")
        self.run_dir = run_dir
        self.process = subprocess.Popen(
            elixir + [os.path.join(HERE, "guest.exs")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=environment, text=True)

    def ask(self, command, expected):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            words = line.split()
            if words and words[0] == expected:
                return words[1:]
            print("  VM:", line.rstrip())
        sys.exit(f"soak: the VM ended during {command!r} with {self.process.wait()}")

    def look(self):
        pid = self.process.pid
        seen = {}
        for pair in self.ask("sample", "sample"):
            key, value = pair.split("=")
            seen[key] = int(value)
        status, rollup = sh(f"/proc/{pid}/status"), sh(f"/proc/{pid}/smaps_rollup")
        seen["rss_kb"] = number("VmRSS", status)
        seen["anonymous_kb"] = number("Anonymous", rollup)
        seen["threads"] = number("Threads", status)
        seen["children"] = len(descendants(pid))
        seen["records"] = len(os.listdir(self.run_dir))
        seen.update(descriptors(pid))
        return seen

    def settled(self, first):
        """Waits until the counts are as before, or until its patience is over."""
        until = time.monotonic() + PATIENCE
        while True:
            seen = self.look()
            if not growth(first, seen, memory=False) or time.monotonic() > until:
                return seen
            time.sleep(0.2)

    def calm(self):
        """Waits until two looks count the same: what still ends after the warm-up, and what the
        look itself loads, is no measure."""
        until = time.monotonic() + PATIENCE
        seen = self.look()
        while time.monotonic() < until:
            time.sleep(0.5)
            before, seen = seen, self.look()
            if not growth(before, seen, memory=False) and not growth(seen, before, memory=False):
                break
        return seen


def growth(first, last, memory=True):
    grown = []
    for key in sorted(set(first) | set(last)):
        before, now = first.get(key, 0), last.get(key, 0)
        if key in MEMORY:
            most = before * 1.05 + MEMORY[key] if memory else now
        else:
            most = before + FEW.get(key, 0)
        if now > most:
            grown.append(f"{key}: {before} -> {now}")
    return grown


def phase(guest, name, steps):
    """Runs the steps, the first of which is the warm-up; returns the growth since."""
    first = seen = None
    for index, step in enumerate(steps):
        said = step()
        if first is None:
            first = seen = guest.calm()
        else:
            seen = guest.settled(first) if index + 1 == len(steps) else guest.look()
        shown = " ".join(f"{key}={seen.get(key, 0)}" for key in ("rss_kb", "atoms", "ports", "processes", "leash_ets_objects", "other_ets_objects"))
        fds = sum(count for key, count in seen.items() if key.startswith("fd "))
        print(f"soak {name} {index + 1}/{len(steps)}: {said}; {shown} descriptors={fds}", flush=True)
    return [f"{name}: {line}" for line in growth(first, seen)]


def main():
    minutes, cycles, rate, elixir = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    run_dir = tempfile.mkdtemp(prefix="leash-soak-")
    guest = Guest(run_dir, elixir)

    def some_cycles():
        began = time.monotonic()
        count, = guest.ask(f"cycles {cycles // STEPS}", "done")
        return f"{count} cycles in {time.monotonic() - began:.1f} s"

    def some_bytes():
        moved, took = map(int, guest.ask(f"stream {int(minutes * 60_000 / STEPS)} {rate}", "done"))
        return f"{moved / max(took, 1) / 1000:.2f} million bytes a second"

    try:
        grown = phase(guest, "cycles", [some_cycles] * STEPS) + phase(guest, "stream", [some_bytes] * STEPS)
        guest.process.stdin.close()
        guest.process.wait(60)
        left = os.listdir(run_dir)
        if left:
            grown.append(f"at the end: {len(left)} files in the run directory")
    finally:
        guest.process.kill()
        guest.process.wait()
        shutil.rmtree(run_dir, ignore_errors=True)
    for line in grown:
        print(f"soak: GROWN {line}")
    if grown:
        sys.exit(1)
    print("soak: nothing has grown")


if __name__ == "__main__":
    main()
