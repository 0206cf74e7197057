"""Checks that the judge sees each mistake: it breaks each rule on purpose once, and the judge may
report only that rule.

Without sabotage a whole round has to pass first."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

from decoys import DECOY
from look import carrier, identity, lives, living, pids, send, shims, wardens

LIFE = "60"


MISTAKES = []


def breaks(rule):
    """Registers a method that makes a mistake. The judge has to report it in these words. The
    method returns whether it could make the mistake."""

    def register(act):
        MISTAKES.append((act.__name__, rule))
        return act

    return register


def excused(act):
    """Registers a method that leaves something without blame: the judge counts it and reports no
    rule."""
    MISTAKES.append((act.__name__, None))
    return act


class Sabotage:
    def __init__(self, chaos):
        self.chaos, self.started, self.stopped = chaos, [], []

    def start(self, *argv, **options):
        process = subprocess.Popen(argv, start_new_session=True, **options)
        self.started.append(process)
        return process

    def end(self):
        for process in self.started:
            process.kill()
            process.wait()
        for who in self.stopped:
            send(who, signal.SIGCONT)
        self.started, self.stopped = [], []

    def killed(self, slot=0):
        """Kills a VM and waits until all its processes are gone."""
        chaos = self.chaos
        vm = chaos.vms[slot]
        send(vm.identity, signal.SIGKILL)
        chaos.replace(vm)
        chaos.eventually(chaos.bound, lambda: not chaos.left([vm]))
        return vm

    # Each breaks one rule.

    @breaks("a dead run's processes live")
    def a_process_of_a_tree_outlives_its_vm(self):
        name = os.path.join(self.chaos.carriers, f"{self.killed().prefix}-1")
        process = self.start("sh", "-c", f'exec 9<>"$0"; exec sleep {LIFE}', name)
        return self.chaos.eventually(5, lambda: carrier(process.pid) == name)

    @breaks("a dead run's processes live")
    def a_process_without_a_carrier_outlives_its_vm(self):
        vm = self.killed()
        if not vm.cgroup:
            return False
        self.start("sh", "-c", f'echo $$ > "$0"; exec sleep {LIFE}', os.path.join(vm.cgroup, "cgroup.procs"))
        return self.chaos.eventually(5, lambda: self.chaos.cgroups.members(vm.cgroup))

    @breaks("a dead run's processes live")
    def a_shim_outlives_its_vm(self):
        vm = self.killed()
        # The decoy's own way to an argv that says what it likes.
        words = ["leash-shim", "--run-id=abc1234", "--worker=1", f"--owner={vm.owner[0]}:{vm.owner[1]}"]
        log = os.path.join(self.chaos.work, "look-alike")
        self.start(sys.executable, "-E", "-s", "-S", "-B", DECOY, log, LIFE, "--forge", "--", *words, stdout=subprocess.DEVNULL)
        return self.chaos.eventually(5, lambda: shims(vm.owner))

    @breaks("did not end, see its dump")
    def a_vm_does_not_end(self):
        vm = self.chaos.vms[0]
        send(vm.identity, signal.SIGSTOP)
        self.chaos.replace(vm)
        return True

    @breaks("lost processes")
    def a_neighbours_process_is_killed(self):
        send(next(iter(self.chaos.neighbours[1].has.values()))[1], signal.SIGKILL)
        return True

    @breaks("a neighbour's worker got signals")
    def a_neighbours_process_is_signalled(self):
        send(next(iter(self.chaos.neighbours[0].has.values()))[0], signal.SIGUSR2)
        return self.chaos.eventually(5, lambda: any(map(os.path.getsize, self.signal_logs())))

    def signal_logs(self):
        base = self.chaos.carriers
        return [os.path.join(base, name) for name in os.listdir(base) if name.endswith(".signals")]

    @breaks("a decoy was touched")
    def a_decoy_is_signalled(self):
        _title, who, log, _process = self.chaos.decoys.all[0]
        send(who, signal.SIGTERM)
        return self.chaos.eventually(5, lambda: os.path.getsize(log))

    @breaks("a decoy was touched")
    def a_decoy_is_killed(self):
        _title, who, _log, process = self.chaos.decoys.all[0]
        send(who, signal.SIGKILL)
        process.wait()
        return True

    def job(self):
        """Makes a job that only a mistake can hit: its environment names no run."""
        jobs = self.chaos.jobs
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(jobs.socket)
            connection.sendall(b"HOME=/")
            connection.shutdown(socket.SHUT_WR)
            connection.recv(64)
        return [(path, who) for path, job, who in jobs.all() if not job["tag"]][-1]

    @breaks("jobs of a stranger were touched")
    def a_strangers_job_is_signalled(self):
        path, who = self.job()
        send(who, signal.SIGUSR2)
        # A job that does not note signals yet ends by this one.
        return self.chaos.eventually(5, lambda: self.chaos.jobs.signals(path) or not lives(who))

    @breaks("jobs of a stranger were touched")
    def a_strangers_job_is_killed(self):
        _path, who = self.job()
        send(who, signal.SIGKILL)
        return True

    @breaks("jobs of a stranger were touched")
    def the_strangers_daemon_is_signalled(self):
        send(self.chaos.jobs.daemon, signal.SIGTERM)
        return self.chaos.eventually(5, lambda: self.chaos.jobs.signals(self.chaos.jobs.directory + "/daemon"))

    @breaks("a dead run's processes live")
    def a_run_that_lost_its_record_leaves_a_process_with_its_name(self):
        vm = self.lost()
        name = os.path.join(self.chaos.carriers, f"{vm.prefix}-1")
        words = ["leash-self-test", f"--run-id={vm.run_id}"]
        process = self.start("sh", "-c", f'exec 9<>"$0"; read line', name, *words, stdin=subprocess.PIPE)
        return vm.record_lost and self.chaos.eventually(5, lambda: carrier(process.pid) == name)

    @breaks("something is left after stop_all")
    def something_is_left_where_the_directory_is_unusable(self):
        self.chaos.spoil("open", True)
        return self.something_is_left_after_stop_all()

    @excused
    def a_run_that_lost_its_record_leaves_a_process_without_a_name(self):
        vm = self.lost()
        name = os.path.join(self.chaos.carriers, f"{vm.prefix}-1")
        process = self.start("sh", "-c", f'exec 9<>"$0"; exec sleep {LIFE}', name, env={"PATH": os.environ["PATH"]})
        return self.chaos.eventually(5, lambda: carrier(process.pid) == name)

    def lost(self):
        """Kills a VM with all that it had, and removes its record with the run directory."""
        chaos = self.chaos
        chaos.spoil("moved", False)
        vm = self.killed()
        chaos.mend()
        return vm

    @breaks("files of dead runs are left")
    def a_record_is_left(self):
        me = identity(os.getpid())
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        namespace = int(os.readlink("/proc/self/ns/pid").strip("pid:[]"))
        owner = {"pid": me[0], "start_ticks": me[1], "boot_id": boot, "pid_ns": namespace}
        head = {"format": 1, "run_id": "abc1234", "owner": owner, "node": "a@b", "app": "a"}
        head |= {"started_at": "2026-01-01T00:00:00Z", "version": "0.1.0"}
        with open(os.path.join(self.chaos.run_dir, "abc1234.json"), "w") as file:
            file.write(json.dumps(head) + "\n")
        return True

    @breaks("files of dead runs are left")
    def a_socket_is_left(self):
        open(os.path.join(self.chaos.run_dir, "abc1234.sock"), "w").close()
        return True

    @breaks("zombies that nobody reaps")
    def nobody_reaps_a_zombie(self):
        code = f"import os,time\nos.fork() or os._exit(0)\ntime.sleep({LIFE})"
        process = self.start(sys.executable, "-c", code)
        mine = lambda: [who for who in map(identity, pids()) if who and who[3] == process.pid and who[2] == "Z"]
        return self.chaos.eventually(5, mine)

    @breaks("descriptors are open")
    def a_vm_keeps_descriptors(self):
        return self.chaos.vms[0].ask("leak", "leaked")

    @breaks("does not answer")
    def a_vm_does_not_answer(self):
        send(self.chaos.vms[0].identity, signal.SIGSTOP)
        return True

    @breaks("something is left after stop_all")
    def something_is_left_after_stop_all(self):
        name = os.path.join(self.chaos.carriers, f"{self.chaos.vms[0].prefix}-0")
        process = self.start("sh", "-c", f'exec 9<>"$0"; exec sleep {LIFE}', name)
        return self.chaos.eventually(5, lambda: carrier(process.pid) == name)

    @breaks("has no warden")
    def a_vm_has_no_warden(self):
        vm = self.chaos.vms[0]
        server = [who for who in living(pids()) if who[3] == vm.identity[0]]
        # Nothing starts without it.
        for who in server:
            send(who, signal.SIGSTOP)
            self.stopped.append(who)
        for who in wardens(vm.owner):
            send(who, signal.SIGKILL)
        return self.chaos.has_wardens and self.chaos.eventually(5, lambda: not wardens(vm.owner))

    @breaks("its warden did not end")
    def a_warden_does_nothing(self):
        # Seen by the cgroup: this process has no mark, so no warden can know of it.
        vm = self.chaos.vms[1]
        if not vm.cgroup or not self.chaos.has_wardens:
            return False
        self.start("sh", "-c", f'echo $$ > "$0"; exec sleep {LIFE}', os.path.join(vm.cgroup, "cgroup.procs"))
        return self.chaos.eventually(5, lambda: len(self.chaos.cgroups.members(vm.cgroup)) > 0)


class Always(random.Random):
    """The first VM is always among those that are looked at closely, and no other."""

    def __init__(self):
        super().__init__(0)
        self.draws = 0

    def random(self):
        self.draws += 1
        return 0.0 if self.draws == 1 else 1.0


def judged(chaos, alone):
    """Returns the report of a round without faults."""
    chaos.failures = []
    if alone:
        chaos.warden_ends_it(0, 1)
    chaos.directory_is_not_needed(0, 0)
    chaos.mend()
    chaos.judge(0, Always())
    chaos.jobs.end_all()
    for vm in chaos.dead:
        vm.end()
    chaos.dead = []
    chaos.all_are_up()
    return chaos.failures


def self_test(chaos_class, elixir):
    chaos = chaos_class(10, "self-test", 6, elixir)
    sabotage, wrong, left_out = Sabotage(chaos), [], []
    chaos.warden_again = 4.0
    try:
        chaos.begin()
        found = judged(chaos, True)
        if found:
            wrong.append(f"without any mistake: {found}")
        chaos.bound, chaos.settle, chaos.answer, chaos.patience = 4.0, 3.0, 4.0, 2.0
        for name, rule in MISTAKES:
            began = time.monotonic()
            if not getattr(sabotage, name)():
                left_out.append(name)
            else:
                unprovable = chaos.unprovable
                found = judged(chaos, name == "a_warden_does_nothing")
                if rule:
                    seen = any(rule in what for what in found)
                else:
                    seen = not found and chaos.unprovable > unprovable
                print(f"self-test: {time.monotonic() - began:.0f} s: {'seen' if seen else 'NOT SEEN'}: {name.replace('_', ' ')}", flush=True)
                if not seen:
                    expected = f"'{rule}'" if rule else "no report, and a process that is counted"
                    wrong.append(f"{name}: expected {expected}, reported {found}")
            sabotage.end()
    finally:
        sabotage.end()
        chaos.end()
        shutil.rmtree(chaos.work, ignore_errors=True)
    for line in wrong:
        print(f"self-test: FAILED: {line}")
    if left_out:
        print(f"self-test: not here: {', '.join(left_out)}")
    print(f"self-test: {len(MISTAKES) - len(left_out)} mistakes made, {len(wrong)} failures")
    return 1 if wrong else 0
