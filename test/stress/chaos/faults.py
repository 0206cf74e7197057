"""The faults. Each uses a random generator of its own, so that the same seed makes the same plan
on any machine. The processes that a fault finds differ. `later` holds the actions that take
faults back."""

import os
import resource
import shutil
import signal
import time

from look import identity, living, pids, send, shims, wardens

WEIGHTS = {
    "shim": 30,
    "worker": 30,
    "warden": 4,
    "all_wardens": 1,
    "flood": 1,
    "server": 2,
    "vm_stop": 6,
    "vm_kill": 3,
    "vm_term": 2,
    "vm_crash": 1,
    "vm_halt": 1,
    "shims_and_vm": 2,
    "everybody": 2,
    "record": 4,
    "descriptors": 3,
    "forks": 4,
    "disk": 2,
    "run_dir": 1,
}
FOR_SHIMS = ["SIGKILL", "SIGKILL", "SIGSTOP", "SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGCONT"]
FOR_WORKERS = ["SIGKILL", "SIGSTOP", "SIGTERM", "SIGCONT", "SIGSEGV", "SIGINT"]
FOR_WARDENS = ["SIGKILL", "SIGKILL", "SIGSTOP", "SIGCONT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1"]
# SIGABRT and SIGUSR1 write a dump. SIGSEGV ends the VM without one.
CRASHES = ["SIGABRT", "SIGSEGV", "SIGUSR1"]


class Faults:
    def __init__(self, chaos):
        self.chaos, self.later, self.counts = chaos, [], {}

    def one(self, rng):
        kind = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        vm = self.chaos.vms[rng.randrange(len(self.chaos.vms))]
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.chaos.note(f"{kind} {vm.prefix}")
        getattr(self, kind)(vm, rng)

    def take_back(self, everything=False):
        now = time.monotonic()
        due = [act for at, act in self.later if everything or at <= now]
        self.later = [(at, act) for at, act in self.later if not everything and at > now]
        for act in due:
            act()

    def after(self, seconds, act):
        self.later.append((time.monotonic() + seconds, act))

    def one_of(self, found, names, rng):
        place, name = rng.random(), rng.choice(names)
        if found:
            who = found[int(place * len(found))]
            self.chaos.note(f"  {name} {who[0]}")
            send(who, getattr(signal, name))
        return name

    # Processes

    def shim(self, vm, rng):
        self.one_of(shims(vm.owner), FOR_SHIMS, rng)

    def worker(self, vm, rng):
        found = self.chaos.living(vm.prefix + "-")
        self.one_of([who for label in sorted(found) for who in found[label]], FOR_WORKERS, rng)

    def warden(self, vm, rng):
        vm.warden_lost |= self.one_of(wardens(vm.owner), FOR_WARDENS, rng) == "SIGKILL"

    def all_wardens(self, vm, _rng):
        """Kills both wardens if the VM has just let go of one."""
        vm.warden_lost = True
        for who in wardens(vm.owner):
            send(who, signal.SIGKILL)

    def flood(self, vm, rng):
        """Sends more starts than the control socket of a stopped warden holds."""
        found = wardens(vm.owner)
        for who in found:
            send(who, signal.SIGSTOP)
        if vm.ready(0):
            vm.say("flood")
        self.after(rng.uniform(0.2, 4.0), lambda: [send(who, signal.SIGCONT) for who in found])

    def server(self, vm, rng):
        """Stops or kills the VM's fork server. While it is stopped, nothing can start; without it
        the VM ends."""
        found = [who for who in living(pids()) if who[3] == vm.identity[0]]
        stop = rng.random() < 0.8
        self.one_of(found, ["SIGSTOP" if stop else "SIGKILL"], rng)
        if stop:
            self.after(0.5, lambda: [send(who, signal.SIGCONT) for who in found])

    # VMs

    def vm_stop(self, vm, rng):
        send(vm.identity, signal.SIGSTOP)
        self.after(rng.uniform(0.0, 0.5), lambda: send(vm.identity, signal.SIGCONT))

    def vm_kill(self, vm, _rng):
        send(vm.identity, signal.SIGKILL)
        self.chaos.replace(vm)

    def vm_term(self, vm, _rng):
        # Erlang loses a SIGTERM that comes before its own applications run.
        vm.ready(0)
        send(vm.identity, signal.SIGTERM if vm.run_id else signal.SIGKILL)
        self.wake(vm)
        self.chaos.replace(vm)

    def vm_crash(self, vm, rng):
        vm.ready(0)
        name = rng.choice(CRASHES)
        send(vm.identity, getattr(signal, name) if vm.run_id else signal.SIGKILL)
        self.wake(vm)
        self.chaos.replace(vm)

    def vm_halt(self, vm, _rng):
        if not (vm.ready(0) and vm.say("halt")):
            send(vm.identity, signal.SIGKILL)
        self.wake(vm)
        self.chaos.replace(vm)

    @staticmethod
    def wake(vm):
        send(vm.identity, signal.SIGCONT)

    def shims_and_vm(self, vm, _rng):
        end_together(vm, shims)
        self.chaos.replace(vm)

    def everybody(self, vm, _rng):
        vm.warden_lost = True
        end_together(vm, lambda owner: wardens(owner) + shims(owner))
        self.chaos.replace(vm)

    # Resources

    def record(self, vm, rng):
        path = os.path.join(self.chaos.run_dir, f"{vm.run_id}.json")
        act, size = rng.choice(["unlink", "truncate", "copy"]), rng.randrange(200)
        try:
            if act == "unlink":
                os.unlink(path)
            elif act == "truncate":
                os.truncate(path, size)
            else:
                shutil.copyfile(path, path + ".copy")
                os.rename(path + ".copy", path)
            self.chaos.damaged.add(vm.run_id)
        except OSError:
            pass
        finally:
            if os.path.exists(path + ".copy"):
                os.unlink(path + ".copy")

    def descriptors(self, vm, _rng):
        """Leaves the VM no free descriptor for a moment."""
        used = vm.descriptors()
        if used is None or not vm.alive():
            return
        _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

        def set_limit(soft):
            try:
                if identity(vm.identity[0]) and vm.alive():
                    resource.prlimit(vm.identity[0], resource.RLIMIT_NOFILE, (soft, hard))
            except (OSError, ValueError):
                pass

        set_limit(used + 2)
        self.after(0.3, lambda: set_limit(_soft))

    def forks(self, vm, rng):
        """Makes fork(2) fail with EAGAIN for a moment in the VM, its fork server, its shims and
        its workers."""
        if vm.cgroup:
            self.chaos.cgroups.limit(vm.cgroup, rng.choice([0, 0, 1, 3]))
            self.after(0.3, lambda: self.chaos.cgroups.limit(vm.cgroup, None))

    def disk(self, _vm, _rng):
        """Fills the disk of the run directory for a moment."""
        if not self.chaos.mounted:
            return
        filler = os.path.join(self.chaos.disk, ".full")
        try:
            with open(filler, "wb", buffering=0) as file:
                while file.write(b"x" * 4096):
                    pass
        except OSError:
            pass
        self.after(0.3, lambda: os.path.exists(filler) and os.unlink(filler))

    def run_dir(self, _vm, rng):
        """Makes the run directory unusable for a while, or until the round is judged."""
        act, seconds = rng.choice(self.chaos.directory.acts()), rng.uniform(0.2, 2.0)
        stays, comes_back = rng.random() < 0.3, rng.random() < 0.5
        if self.chaos.spoil(act, comes_back):
            self.chaos.note(f"  {act} {'until judged' if stays else f'{seconds:.1f} s'}, then {'back' if comes_back else 'lost'}")
            if not stays:
                self.after(seconds, self.chaos.mend)


def end_together(vm, others):
    """Kills the VM and others at one instant. It stops all before it kills the first. The VM is
    stopped first, so that it starts no process."""
    send(vm.identity, signal.SIGSTOP)
    everybody = [vm.identity, *others(vm.owner)]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for who in everybody:
            send(who, number)
