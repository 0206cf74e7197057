"""Chaos: VMs full of random trees, a random fault every 50 ms (faults.py), and a judge that looks
from outside.

judge.py MINUTES SEED WORKERS ELIXIR_ARGUMENTS…

A round is some seconds of faults. Then the judge kills the VM of one slot together with its shims
and starts nothing. The VM's warden has to end what they left within two seconds. Then another VM
starts and sweeps, and these rules have to hold:

  nothing of a dead VM is alive: no VM, no shim, no warden, and no process of any tree. The judge
    sees the trees by a descriptor that each tree inherits. Where there are pids cgroups, it
    also sees them by the cgroup of the VM.
  two neighbours, VMs that no fault is aimed at, have every process of their workers, and none of
    these got a signal. One neighbour lives in a time namespace whose clocks are ahead.
  every decoy lives and got no signal.
  every job that a program handed to another service's daemon, with a copy of its environment,
    lives and got no signal.
  no zombie is older than the round's end.
  a VM that lived through the round has its warden. If the VM is told to end everything, it has
    nothing left, and no more descriptors than an idle VM.
  while the run directory cannot be used, a warden still ends what VM and shims left, and stop_all
    leaves nothing.
  the run directory holds records and sockets of living runs, and of runs that a living job names,
    and of no others.
  the judge counts and reports what is left of a run whose record a fault had damaged, or whose
    record went with the run directory. Leash deletes no record that it cannot trust.
  the judge counts a process of such a run, too, if VM, shim and warden were killed and nothing
    else says to which run it belongs.

The same seed makes the same plan. The effect of the plan differs from machine to machine."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from decoys import Decoys, mark, own_tag
from faults import Faults, end_together
from jobs import Jobs
from look import carrier, carriers, cmdline, describe, has_shed_mark, has_tag, identity, living, pids, send, shims, wardens
from pids_cgroup import Cgroups
from run_directory import RunDirectory
from vm import VM, shift_works

VMS = 3
ROUND_FAULTS = 160
FAULT_EVERY = 0.05
# The time from the end of the faults until everything of dead runs has to be gone. It covers the
# deadline of a sweep on a loaded machine.
BOUND_SECONDS = 30.0
# The same for a warden, on a machine with nothing else to do.
WARDEN_SECONDS = 2.0
# A warden that is killed again and again comes back after a pause that doubles.
WARDEN_AGAIN_SECONDS = 35.0
# The time within which the table, the processes and the descriptors of a VM show that stop_all
# ended everything.
SETTLE_SECONDS = 15.0
ANSWER_SECONDS = 60.0
NEIGHBOUR_TREES = 6
# The number of descriptors that a VM may have open beyond those of an idle VM: a /proc file, a
# connection.
SPARE_DESCRIPTORS = 4


class Chaos:
    def __init__(self, minutes, seed, workers, elixir):
        self.minutes, self.seed, self.workers, self.elixir = minutes, seed, workers, elixir
        self.began = time.monotonic()
        self.work = tempfile.mkdtemp(prefix="leash-chaos-")
        self.disk = os.path.join(self.work, "disk")
        # The mount point itself cannot be moved away.
        self.run_dir = os.path.join(self.disk, "runs")
        self.directory = RunDirectory(self.run_dir)
        self.comes_back = True
        self.carriers = os.path.join(self.work, "carriers")
        for path in (self.disk, self.carriers):
            os.mkdir(path, 0o700)
        self.plan = open(os.path.join(self.work, "plan"), "w")
        self.cgroups = Cgroups(os.path.basename(self.work))
        self.decoys = Decoys(self.work, self.lifetime())
        self.jobs = Jobs(self.work, self.lifetime())
        self.faults = Faults(self)
        self.mounted = False
        self.failures = []
        self.vms, self.dead, self.neighbours = [], [], []
        # The factor by which a loaded machine may exceed the time limits of a quiet machine.
        self.patience = 8.0
        # Runs whose record a fault has changed, and the number of files and processes that they
        # left.
        self.damaged, self.damaged_files, self.unprovable = set(), 0, 0
        self.wardened = 0
        self.slowest_warden = 0.0
        self.starts = 0
        self.bound, self.warden_again, self.settle, self.answer = BOUND_SECONDS, WARDEN_AGAIN_SECONDS, SETTLE_SECONDS, ANSWER_SECONDS

    def lifetime(self):
        """Returns the seconds after which everything that this starts ends by itself."""
        return self.minutes * 60 + 900

    def note(self, text):
        self.plan.write(f"{time.monotonic() - self.began:.3f} {text}\n")
        self.plan.flush()

    def begin(self):
        if os.geteuid() == 0:
            mount = ["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=256,mode=0700", "tmpfs", self.disk]
            self.mounted = subprocess.run(mount, stderr=subprocess.DEVNULL).returncode == 0
        os.mkdir(self.run_dir, 0o700)
        self.jobs.start()
        self.shifted = shift_works()
        for name in ("neighbour", "offset"):
            vm = VM(self, NEIGHBOUR_TREES, name, "calm", shifted=self.shifted and name == "offset")
            assert vm.ready(), f"the {name} did not start, see {vm.log_path}"
            vm.has = None
            self.neighbours.append(vm)
        for vm in self.neighbours:
            assert self.eventually(60, lambda vm=vm: self.whole(vm)), f"the workers of {vm.prefix} did not start"
            vm.has = self.living(vm.prefix + "-")
        # Whether this version of Leash has wardens.
        self.has_wardens = bool(wardens())
        calm = self.neighbours[0].run_id
        start = self.decoys.start
        start("a plain process")
        start("an argv with a shim's options", ["--run-id=abc1234", "--worker=1"])
        start("an argv with a neighbour's id", ["grep", f"--run-id={calm}"])
        start("a tag whose owner lives", env={"LEASH_RUN": own_tag("decoy01")})
        start("a mark of a run that nobody knows", locks=mark("decoy02", 1))
        start("a mark of a neighbour's run", locks=mark(calm, 30_000))
        self.vms = [self.wild(slot) for slot in range(VMS)]
        for vm in self.vms:
            if not vm.ready():
                self.fail(0, f"{vm.prefix} did not start", [])

    def wild(self, slot):
        self.starts += 1
        rng = random.Random(f"{self.seed}/{slot}/{self.starts}")
        share = max(1, self.workers // VMS)
        # One slot is always a VM in another time namespace.
        return VM(self, share, f"vm{slot}", seed=rng.getrandbits(30), shifted=self.shifted and slot == VMS - 1)

    def replace(self, vm):
        slot = self.vms.index(vm)
        # The VM's report of its run id can be read after its end, too.
        if vm.unrecorded and vm.ready(0):
            self.damaged.add(vm.run_id)
        # The record cannot be written again from now on.
        vm.record_lost = (vm.unrecorded or vm.run_id in self.damaged) and not self.has_record(vm)
        self.vms[slot] = self.wild(slot)
        self.dead.append(vm)

    def has_record(self, vm):
        try:
            with open(self.directory.holds(f"{vm.run_id}.json") or os.devnull, "rb") as record:
                return "owner" in json.loads(record.readline())
        except (OSError, ValueError):
            return False

    def spoil(self, act, comes_back):
        """Makes the run directory unusable; `comes_back` tells `mend` whether to bring it back.
        """
        if not self.directory.spoil(act):
            return False
        self.comes_back = comes_back
        for vm in self.vms:
            # A VM whose run has not begun yet may begin without a record.
            vm.unrecorded = vm.unrecorded or not vm.ready(0)
        return True

    def mend(self):
        if self.directory.spoiled is None:
            return
        lost = self.directory.mend(self.comes_back)
        self.damaged |= lost
        for vm in self.dead:
            vm.record_lost = vm.record_lost or vm.run_id in lost
        self.damaged |= {vm.run_id for vm in self.vms if vm.unrecorded and vm.ready(0)}

    def living(self, prefix):
        return {label: who for label, who in carriers(self.carriers).items() if label.startswith(prefix)}

    def whole(self, vm):
        return sorted(map(len, self.living(vm.prefix + "-").values())) == [2] * NEIGHBOUR_TREES

    @staticmethod
    def eventually(seconds, test):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if test():
                return True
            time.sleep(0.05)
        return bool(test())

    def fail(self, number, what, details):
        self.failures.append(what)
        print(f"FAILED in round {number}, seed {self.seed}: {what}")
        for line in details:
            print(f"  {line}")
        sys.stdout.flush()

    # A round

    def round(self, number):
        self.note(f"round {number}")
        self.dead = []
        before = len(self.failures)
        rng = random.Random(f"{self.seed}/{number}")
        for n in range(ROUND_FAULTS):
            began = time.monotonic()
            self.faults.take_back()
            self.faults.one(random.Random(f"{self.seed}/{number}/{n}"))
            time.sleep(max(0.0, FAULT_EVERY - (time.monotonic() - began)))
        self.faults.take_back(everything=True)
        self.all_are_up()
        alone = rng.randrange(VMS)
        self.warden_ends_it(number, alone)
        self.directory_is_not_needed(number, (alone + 1) % VMS)
        self.mend()
        self.judge(number, rng)
        self.jobs.end_all()
        for vm in self.dead:
            vm.end()
            self.cgroups.remove(vm.cgroup) if vm.cgroup else None
        if len(self.failures) == before:
            self.forget()

    def all_are_up(self):
        for _ in range(3):
            for vm in list(self.vms):
                # A fault may have hit a new VM before it was ready.
                if not vm.ready() or not vm.alive():
                    self.replace(vm)
        return all(vm.ready() for vm in self.vms)

    def judge(self, number, rng):
        # Each start sweeps, and the last of them sees every dead run.
        sweeper = VM(self, 0, "sweeper")
        if not sweeper.ready():
            self.fail(number, "the sweeping VM did not start", [sweeper.log_path])
        self.dead_are_gone(number, sweeper)
        self.neighbours_are_whole(number)
        self.decoys_are_whole(number)
        self.jobs_are_whole(number)
        self.survivors_are_tidy(number, rng, sweeper.descriptors())
        self.directory_is_clean(number, sweeper)
        self.no_zombies(number)
        self.dead.append(sweeper)
        sweeper.end()

    def forget(self):
        """Deletes the files of a round without failures, so that an hour of rounds does not fill
        the disk."""
        for vm in self.dead:
            for path in (vm.log_path, vm.dump):
                if os.path.exists(path):
                    os.unlink(path)
        dead = tuple(vm.prefix + "-" for vm in self.dead)
        for name in os.listdir(self.carriers):
            if dead and name.startswith(dead):
                os.unlink(os.path.join(self.carriers, name))

    # The judgement

    def left(self, dead):
        """Returns the living processes of VMs that are meant to be dead: [what it is, identity].
        """
        prefixes = tuple(vm.prefix + "-" for vm in dead)
        if not prefixes:
            return []
        found = [(label, who) for label, whos in carriers(self.carriers).items() if label.startswith(prefixes) for who in whos]
        for kind, look in (("shim", shims), ("warden", wardens)):
            everybody = look()
            for vm in dead if everybody else []:
                found += [(f"{kind} of {vm.prefix}", who) for who in look(vm.owner)]
        known = {who[:2] for _label, who in found}
        for vm in dead:
            found += [(f"cgroup of {vm.prefix}", who) for who in self.cgroups.members(vm.cgroup) if who[:2] not in known]
        return found

    def is_unprovable(self, label, who):
        """Whether nothing says to which run the process belongs.

        This is so in two cases. The VM ended before it had put back the record that a fault had
        damaged. Or the warden was killed that alone knew, by descent, a process that has shed
        every tag.

        The environment would say it. For shims and wardens, the argv would say it, too."""
        vms = [vm for vm in [*self.dead, *self.vms] if label.startswith(vm.prefix + "-") or label.endswith(f" of {vm.prefix}")]
        in_argv = any(word.startswith(b"--run-id=") for word in cmdline(who[0]))
        if in_argv or has_tag(who[0]):
            return False
        return any(vm.record_lost or (vm.warden_lost and has_shed_mark(who[0])) for vm in vms)

    def provable(self, vm):
        """Returns the living processes of a VM that is meant to end."""
        return [(label, who) for label, who in self.left([vm]) if not self.spares(label, who)]

    def spares(self, label, who):
        """Counts and ends a process that nothing can assign to a run any more."""
        if not self.is_unprovable(label, who):
            return False
        self.unprovable += 1
        send(who, signal.SIGKILL)
        return True

    def warden_ends_it(self, number, slot):
        """Kills the VM and all its shims at once and starts nothing: its warden alone has to end
        the rest."""
        vm = self.vms[slot]
        if not self.has_wardens or not vm.alive():
            return
        if not self.has_warden(number, vm):
            return
        self.note(f"alone {vm.prefix}")
        # Only a fault stops a warden, so a stopped one has to be continued.
        for who in wardens(vm.owner):
            send(who, signal.SIGCONT)
        bound = WARDEN_SECONDS * min(self.patience, max(1.0, 2 * os.getloadavg()[0] / (os.cpu_count() or 1)))
        end_together(vm, shims)
        began = time.monotonic()
        gone = self.eventually(bound, lambda: not self.provable(vm))
        took = time.monotonic() - began
        self.wardened += 1
        self.slowest_warden = max(self.slowest_warden, took)
        if not gone:
            details = [f"{label} {describe(who)}" for label, who in self.left([vm])]
            self.fail(number, f"{vm.prefix}: its warden did not end what VM and shims left within {bound:.1f} s", details)
        self.replace(vm)
        self.vms[slot].ready()

    def has_warden(self, number, vm):
        if not self.has_wardens or self.eventually(self.warden_again, lambda: wardens(vm.owner)):
            return True
        # The VM's fork server, and the processes that the fork server has started.
        below = [who for who in living(pids()) if vm.identity[0] in (who[3], (identity(who[3]) or who)[3])]
        self.fail(number, f"{vm.prefix} has no warden", [describe(who) for who in [vm.identity, *below]])
        return False

    def dead_are_gone(self, number, sweeper):
        # A VM that was told to stop bounds its stop itself.
        for vm in self.dead:
            if not self.eventually(self.bound, lambda vm=vm: not vm.alive()):
                self.fail(number, f"{vm.prefix} did not end, see its dump", [describe(vm.identity)])
                self.dump(vm)
        if self.eventually(self.bound, lambda: not self.left(self.dead)):
            return
        left = self.left(self.dead)
        unprovable = [one for one in left if self.is_unprovable(*one)]
        self.unprovable += len(unprovable)
        if len(unprovable) < len(left):
            details = [f"{label} {describe(who)}" for label, who in left]
            said = sweeper.ask("report", "report ")
            self.fail(number, "a dead run's processes live", details + ["what a sweep says of them: " + " ".join(said or [])])
        for _label, who in left:
            send(who, signal.SIGKILL)

    def dump(self, vm):
        # SIGUSR1 is for a crash dump (erl(1)).
        send(vm.identity, signal.SIGUSR1)
        self.eventually(10, lambda: not vm.alive())
        send(vm.identity, signal.SIGKILL)

    def neighbours_are_whole(self, number):
        for vm in self.neighbours:
            if not vm.alive():
                self.fail(number, f"{vm.prefix} is gone", [])
            now = self.living(vm.prefix + "-")
            there = {who[:2] for whos in now.values() for who in whos}
            lost = [who for whos in vm.has.values() for who in whos if who[:2] not in there]
            if lost:
                self.fail(number, f"{vm.prefix} lost processes", [str(who) for who in lost])
                vm.has = now
        for name in os.listdir(self.carriers):
            path = os.path.join(self.carriers, name)
            if name.endswith(".signals") and os.path.getsize(path):
                with open(path) as file:
                    self.fail(number, f"a neighbour's worker got signals: {name}", [file.read()])
                os.truncate(path, 0)

    def decoys_are_whole(self, number):
        for title, said in self.decoys.touched():
            self.fail(number, f"a decoy was touched: {title}", [f"signals {said}"])

    def jobs_are_whole(self, number):
        touched = self.jobs.touched()
        if touched:
            self.fail(number, "jobs of a stranger were touched", touched)

    def survivors_are_tidy(self, number, rng, idle):
        for slot in range(VMS):
            if rng.random() < 0.4:
                self.stops_in_order(number, slot, idle)

    def directory_is_not_needed(self, number, slot):
        """Runs while the run directory cannot be used: only a sweep needs the directory."""
        if self.directory.spoiled:
            self.stops_in_order(number, slot, None)

    def stops_in_order(self, number, slot, idle):
        vm = self.vms[slot]
        if not vm.alive() or vm.run_id is None:
            return
        self.has_warden(number, vm)
        if not vm.ask("hold", "held", self.answer):
            self.fail(number, f"{vm.prefix} does not answer, see its dump", [describe(vm.identity)])
            self.dump(vm)
            vm.end()
            self.replace(vm)
            return
        answer = vm.ask("stop_all", "stopped ", self.answer)
        if not answer or answer[1] != "ok":
            self.fail(number, f"{vm.prefix}: stop_all said {answer}", [describe(vm.identity)])
        if not answer and vm.alive():
            self.dump(vm)
        self.nothing_is_left(number, vm, idle)
        # The VM has been told to hold, so another VM takes its place.
        vm.end()
        self.replace(vm)
        self.vms[slot].ready()

    def nothing_is_left(self, number, vm, idle):
        def left():
            found = self.living(vm.prefix + "-")
            return [who for label in found for who in found[label] if not self.spares(label, who)] + shims(vm.owner)

        def ended():
            # A start that was under way when the VM was told to hold may finish after the first
            # stop_all.
            return not left() or (vm.ask("stop_all", "stopped ", self.answer) and not left())

        if not self.eventually(self.settle, ended):
            self.fail(number, f"{vm.prefix}: something is left after stop_all", [describe(who) for who in left()])
        if not self.eventually(self.settle, lambda: (vm.ask("count", "count ", self.answer) or [0, "0"])[1] == "0"):
            self.fail(number, f"{vm.prefix}: rows are left", [str(vm.ask("count", "count ", self.answer))])
        if idle and not self.eventually(self.settle, lambda: (vm.descriptors() or 0) <= idle + SPARE_DESCRIPTORS):
            base = f"/proc/{vm.identity[0]}/fd"
            used = sorted(os.readlink(os.path.join(base, name)) for name in os.listdir(base))
            self.fail(number, f"{vm.prefix}: {len(used)} descriptors are open, {idle} in an idle VM", used)

    def directory_is_clean(self, number, sweeper):
        """Asks for one more sweep: a sweep at a start leaves to the next one what was still
        ending."""
        if not self.all_are_up():
            return
        live = {vm.run_id for vm in [*self.vms, *self.neighbours, sweeper]}
        # A run is kept as long as a process names it. The round's end ends the jobs.
        kept = live | self.jobs.runs_now()

        def strays():
            names = [name for name in os.listdir(self.run_dir) if not name.startswith(".")]
            return sorted(name for name in names if name.split(".")[0] not in kept)

        if strays():
            sweeper.ask("sweep", "swept ")
        self.eventually(2, lambda: not strays())
        for name in strays():
            if name.split(".")[0] in self.damaged:
                self.damaged_files += 1
                os.unlink(os.path.join(self.run_dir, name))
        if strays():
            details = []
            for name in strays():
                path = os.path.join(self.run_dir, name)
                details.append(f"{name}: {open(path).read()[:300] if name.endswith('.json') else ''}")
            said = sweeper.ask("report", "report ")
            self.fail(number, "files of dead runs are left", details + ["what a sweep says: " + " ".join(said or [])])
            for name in strays():
                os.unlink(os.path.join(self.run_dir, name))

    def no_zombies(self, number):
        def old():
            return [who for who in map(identity, pids()) if who and who[2] == "Z" and who[3] != os.getpid()]

        def left():
            # A worker's shim is in charge of its zombies as long as the shim lives. A program of
            # the trees may leave zombies of its own.
            keepers = {who[0] for who in shims()}
            now = [who for who in old() if who[:2] in first]
            return [who for who in now if who[3] not in keepers and not carrier(who[3]).startswith(self.carriers)]

        first = {who[:2] for who in old()}
        if first and not self.eventually(5, lambda: not left()):
            self.fail(number, "zombies that nobody reaps", [describe(who) for who in left()])

    # All of it

    def end(self):
        """Ends the decoys first, since some of them wear a mark of a run that ends next."""
        self.faults.take_back(everything=True)
        self.mend()
        self.decoys.end()
        self.jobs.end()
        for vm in [*self.vms, *self.dead, *self.neighbours]:
            vm.end()
        self.eventually(self.bound, lambda: not shims() and not wardens())
        for whos in carriers(self.carriers).values():
            for who in whos:
                send(who, signal.SIGKILL)
        self.eventually(5, lambda: not carriers(self.carriers))
        self.cgroups.end()
        self.plan.close()
        if self.mounted:
            subprocess.run(["umount", "-l", self.disk])

    def run(self):
        rounds = 0
        try:
            self.begin()
            end = time.monotonic() + self.minutes * 60
            while time.monotonic() < end and len(self.failures) < 5:
                rounds += 1
                self.round(rounds)
        finally:
            self.end()
        counts = self.faults.counts
        kinds = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        lacks = [name for name, there in self.host().items() if not there]
        print(f"chaos: seed {self.seed}, {rounds} rounds, {sum(counts.values())} faults ({kinds}), {VM.count} VMs, {len(self.failures)} failures")
        if self.wardened:
            print(f"chaos: {self.wardened} times a warden was alone, for at most {self.slowest_warden:.2f} s")
        if self.jobs.judged:
            print(f"chaos: {self.jobs.judged} jobs of a stranger had the environment of {len(self.jobs.runs)} runs")
        if self.damaged_files:
            print(f"chaos: {self.damaged_files} files were left of {len(self.damaged)} runs whose record was damaged")
        if self.unprovable:
            print(f"chaos: {self.unprovable} processes of such runs had nothing that says whose they are, and were left alone")
        if lacks:
            print(f"chaos: not here: {', '.join(lacks)}")
        if self.failures:
            print(f"chaos: the plan and the VMs' logs are in {self.work}; again with: script/chaos {self.minutes:g} {self.seed} {self.workers}")
            return 1
        shutil.rmtree(self.work, ignore_errors=True)
        return 0

    def host(self):
        return {
            "a full disk (no mount)": self.mounted,
            "EAGAIN of fork (no pids cgroup)": self.cgroups.base,
            "other clocks (no time namespace)": self.shifted,
            "wardens": self.has_wardens,
            "orphaned jobs (marks can be reset)": self.jobs.orphans,
        }


def main():
    # The limit is raised to its maximum, so that only the VM of a fault runs out of descriptors.
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if sys.argv[1] == "--self-test":
        from selftest import self_test

        sys.exit(self_test(Chaos, sys.argv[2:]))
    minutes, seed, workers = float(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    sys.exit(Chaos(minutes, seed, workers, sys.argv[4:]).run())


if __name__ == "__main__":
    main()
