"""Leash under a VM that is built against musl. The trial judges it from outside its chroot, by
/proc alone and by no report of the VM.

Usage: trial.py ROOT, in a pid namespace of its own with ROOT's /dev, /proc and so on mounted
(script/musl). It exits with 1 at the first rule that does not hold.

Decoys live beside the VM: trees with the very words of the workers' trees. No signal may reach
them."""

import os
import select
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "chaos"))

from look import cmdline, describe, identity, lives, living, pids, send, shims, wardens  # noqa: E402

ROOT = sys.argv[1]
INSIDE = ["chroot", ROOT, "/bin/env", "-i", "PATH=/usr/bin:/bin", "HOME=/root", "LC_ALL=C.UTF-8"]
GUEST = ["elixir", "--erl", "+sbwt none", "-pa", "/leash/ebin", "/trial/guest.exs"]
LEASH = "/leash/priv/leash"
# These numbers tell the processes from all others in the namespace.
TREE = "setsid sleep 86401 & sleep 86402 & wait"
STUBBORN = f"trap '' TERM; {TREE}"
# The time limit of a step that promises none of its own. Loaded machines are slow.
PATIENCE = 60.0
# The time that the README promises for the warden.
WARDEN_SECONDS = 2.0


class Failed(Exception):
    pass


def check(title, holds, seen=""):
    if not holds:
        raise Failed(f"{title}: {seen}")
    print(f"ok   {title}", flush=True)


def until(title, condition, seconds=PATIENCE):
    """Waits for a condition; returns how long that took."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise Failed(f"{title}: not within {seconds:g} s")
        time.sleep(0.01)
    took = time.monotonic() - began
    print(f"ok   {title} ({took:.2f} s)", flush=True)
    return took


def program(pid):
    return os.path.basename(b"".join(cmdline(pid)[:1]))


def members():
    """Returns the living processes of all trees, the workers' and the decoys'. Shims and VMs have
    the words in their arguments, too."""
    named = [pid for pid in pids() if b"8640" in b" ".join(cmdline(pid))]
    return living(pid for pid in named if program(pid) in (b"sh", b"setsid", b"sleep"))


def sleepers(these):
    return [who for who in these if program(who[0]) == b"sleep"]


class Decoys:
    def __init__(self):
        self.processes = [subprocess.Popen([*INSIDE, "/bin/sh", "-c", TREE], stdin=subprocess.DEVNULL) for _ in range(2)]
        until("two decoys of three processes each", lambda: len(sleepers(members())) == 4)
        self.all = members()
        check("six decoys in all", len(self.all) == 6, list(map(describe, self.all)))

    def others(self):
        known = {who[:2] for who in self.all}
        return [who for who in members() if who[:2] not in known]

    def untouched(self):
        hurt = [who for who in self.all if not lives(who) or identity(who[0])[2] != "S"]
        check("the decoys are untouched", not hurt, [(who, identity(who[0])) for who in hurt])


class VM:
    def __init__(self, *arguments):
        self.process = subprocess.Popen([*INSIDE, *GUEST, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.run_id, self.said = None, b""

    def until(self, name):
        deadline = time.monotonic() + PATIENCE
        while True:
            line, newline, rest = self.said.partition(b"\n")
            if newline:
                self.said, text = rest, line.decode()
                if text.startswith("run "):
                    self.run_id = text.split()[1]
                if text == f"at {name}":
                    # elixir, erl and erlexec are one process, which has become the VM by now.
                    self.identity = identity(self.process.pid)
                    print(f"ok   VM {self.run_id}: {name}", flush=True)
                    return self
                if not text.startswith("run "):
                    print(f"   | {text}", flush=True)
                continue
            if not select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise Failed(f"the VM is not at {name} within {PATIENCE:g} s")
            part = os.read(self.process.stdout.fileno(), 65536)
            if not part:
                raise Failed(f"the VM ended with {self.process.wait(PATIENCE)} before {name}")
            self.said += part

    def go_on(self):
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def shims(self):
        return shims(self.identity)

    def wardens(self):
        return wardens(self.identity)

    def leaves_nothing(self):
        self.go_on()
        check("the VM ends by itself", self.process.wait(PATIENCE) == 0, self.process.returncode)
        until("its shims and its warden are gone", lambda: not shims() and not wardens())


def kill_at_once(these):
    """Kills them so that none of them sees another one die."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for who in these:
            send(who, number)


def leash(*arguments):
    done = subprocess.run([*INSIDE, LEASH, *arguments], capture_output=True, text=True, timeout=PATIENCE)
    check(f"leash {arguments[0]} succeeds", done.returncode == 0, done)
    return done.stdout


def only_musl(vm):
    with open(f"/proc/{vm.identity[0]}/maps") as file:
        mapped = {line.split()[-1] for line in file if "/" in line}
    names = {os.path.basename(path) for path in mapped}
    check("the VM has musl and Leash's library mapped", {"beam.smp", "leash_nif.so"} < names and any("ld-musl" in name for name in names), mapped)
    alien = [path for path in mapped if path.rpartition("/")[2].startswith(("libc.so", "libc-", "libgcc_s", "ld-linux"))]
    check("and no other C library", not alien, alien)


def uses(decoys):
    vm = VM("uses", TREE).until("worker")
    only_musl(vm)
    until("the worker's three processes live", lambda: len(sleepers(decoys.others())) == 2)
    tree = decoys.others()
    check("and no others", len(tree) == 3, list(map(describe, tree)))
    check("beside them one shim and one warden", (len(vm.shims()), len(vm.wardens())) == (1, 1))
    for command in ("ps", "tree"):
        said = leash(command)
        check("and names the run and its three processes, no decoy", vm.run_id in said and said.count("864") - said.count(TREE) == 3, said)
    vm.go_on()
    vm.until("stopped")
    check("none of the tree lives", not any(map(lives, tree)), list(map(describe, tree)))
    decoys.untouched()
    vm.go_on()
    vm.until("used")
    until("of what it started the last worker is left alone", lambda: not decoys.others() and len(vm.shims()) == 1)
    vm.leaves_nothing()


def held(decoys):
    vm = VM("hold", STUBBORN).until("up")
    until("its tree lives", lambda: len(sleepers(decoys.others())) == 2)
    return vm


def all_killed(decoys):
    vm = held(decoys)
    # The worker itself ends with its shim. The processes that it started do not.
    tree = sleepers(decoys.others())
    killed = [vm.identity, *vm.shims(), *vm.wardens()]
    check("VM, shim and warden live", len(killed) == 3, killed)
    kill_at_once(killed)
    vm.process.wait(PATIENCE)
    until("VM, shim and warden are gone", lambda: not any(map(lives, killed)))
    runs = leash("runs")
    check("and says that the run is dead", any(vm.run_id in line and "DEAD" in line for line in runs.splitlines()), runs)
    check("the tree outlives them", len(tree) == 2 and all(map(lives, tree)), list(map(describe, tree)))
    following = VM("idle").until("up")
    check("the next start has swept it", not any(map(lives, tree)), list(map(describe, tree)))
    decoys.untouched()
    following.leaves_nothing()


def all_but_the_warden_killed(decoys):
    vm = held(decoys)
    warden, killed = vm.wardens(), [vm.identity, *vm.shims()]
    check("VM, shim and warden live", (len(warden), len(killed)) == (1, 2))
    kill_at_once(killed)
    until(f"the warden ends the tree within {WARDEN_SECONDS:g} s", lambda: not decoys.others(), WARDEN_SECONDS)
    until("and goes", lambda: not any(map(lives, warden)))
    vm.process.wait(PATIENCE)


def vm_killed(decoys):
    vm = held(decoys)
    kill_at_once([vm.identity])
    until("the shim ends the tree", lambda: not decoys.others())
    until("shim and warden go", lambda: not shims() and not wardens())
    vm.process.wait(PATIENCE)


def shim_killed(decoys):
    vm = held(decoys)
    kill_at_once(vm.shims())
    until("the VM ends the tree", lambda: not decoys.others())
    vm.leaves_nothing()


def main():
    decoys = Decoys()
    for title, part in (
        ("what a program does with Leash", uses),
        ("VM, shim and warden killed at once: the next start sweeps", all_killed),
        ("VM and shim killed at once: the warden", all_but_the_warden_killed),
        ("VM killed: the shim", vm_killed),
        ("shim killed: the VM", shim_killed),
    ):
        print(f"-- {title}", flush=True)
        part(decoys)
        check("nothing is left", not decoys.others() and not shims() and not wardens())
        decoys.untouched()
    print(f"musl: all held, {time.monotonic() - BEGAN:.0f} s")


BEGAN = time.monotonic()
try:
    main()
except (Failed, subprocess.TimeoutExpired) as failure:
    print(f"FAIL {failure}")
    for living_one in living(pids()):
        print(f"   {describe(living_one)}")
    sys.exit(1)
