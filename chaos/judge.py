"""Chaos: VMs full of random trees, a random fault every 50 ms, and a judge who looks from outside.

judge.py MINUTES SEED WORKERS ELIXIR_ARGUMENTS…

After each round (some seconds of faults) dead VMs are replaced, whose start sweeps, and then these have to hold:

  nothing of a dead VM is alive, no shim and no process of any tree, seen by a descriptor that each tree inherits
  the neighbour, a VM that no fault is aimed at, has every process of its workers that it had
  every decoy lives and got no signal
  no zombie is older than the round's end
  a VM that lived through it, told to end everything, has nothing left, and no more descriptors than an idle one

Records of dead runs that are still there then are counted and told, and not judged: a sweep that ran while something was
ending leaves them to the next.

The same seed makes the same plan; what the machine makes of it differs.
"""

import os
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SHAPES = os.path.join(HERE, "..", "test", "fixtures", "shapes.py")
DECOY = os.path.join(HERE, "..", "test", "fixtures", "decoy.py")
VMS = 3
ROUND_SECONDS = 8.0
FAULT_EVERY = 0.05
# From the end of the faults until everything of dead runs has to be gone: the deadline of a sweep and some.
BOUND_SECONDS = 15.0
CARRIER_FD = 9


def identity(pid):
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return pid, int(fields[19]), fields[0].decode(), int(fields[1])
    except OSError:
        return None


def lives(known):
    now = identity(known[0])
    return now is not None and now[1] == known[1] and now[2] not in "ZX"


def pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def cmdline(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read(4096).split(b"\0")
    except OSError:
        return []


def carriers(directory):
    """Who holds which carrier: {name: [identity]}."""
    found = {}
    for pid in pids():
        target = None
        try:
            target = os.readlink(f"/proc/{pid}/fd/{CARRIER_FD}")
        except OSError:
            pass
        if target and target.startswith(directory):
            who = identity(pid)
            if who and who[2] not in "ZX":
                found.setdefault(os.path.basename(target), []).append(who)
    return found


def shims(owner=None):
    """Every shim, or those that watch a VM."""
    wanted = owner and f"--owner={owner[0]}:{owner[1]}".encode()
    found = []
    for pid in pids():
        words = cmdline(pid)
        if len(words) > 2 and words[1].startswith(b"--run-id=") and words[0].endswith(b"leash-shim"):
            if owner is None or wanted in words:
                who = identity(pid)
                if who and who[2] not in "ZX":
                    found.append(who)
    return found


def send(who, number):
    """A signal to an identity, never to a number that became somebody else's."""
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


class VM:
    count = 0

    def __init__(self, chaos, workers, name, temper="wild"):
        VM.count += 1
        self.chaos, self.prefix = chaos, f"{name}.{VM.count}"
        self.log = open(os.path.join(chaos.work, f"{self.prefix}.log"), "wb")
        argv = chaos.elixir + [
            os.path.join(HERE, "guest.exs"),
            str(chaos.random.getrandbits(30)),
            str(workers),
            chaos.carriers,
            self.prefix,
            SHAPES,
            temper,
        ]
        self.dump = os.path.join(chaos.work, f"{self.prefix}.dump")
        env = dict(os.environ, LEASH_RUN_DIR=chaos.run_dir, ERL_CRASH_DUMP=self.dump, ERL_CRASH_DUMP_SECONDS="20")
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, env=env, start_new_session=True
        )
        self.identity = identity(self.process.pid)
        self.run_id = None
        self.said = b""

    def line(self, beginning, seconds=60):
        """The next line that begins so; None when the VM ends first, or says nothing for so long."""
        deadline = time.monotonic() + seconds
        while True:
            line, newline, rest = self.said.partition(b"\n")
            if newline:
                self.said = rest
                if line.decode(errors="replace").startswith(beginning):
                    return line.decode().split()
                continue
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                return None
            part = os.read(self.process.stdout.fileno(), 65536)
            if not part:
                return None
            self.said += part

    def ready(self, seconds=60):
        if self.run_id is None:
            words = self.line("run ", seconds)
            self.run_id = words[1] if words else None
        return self.run_id is not None

    def ask(self, command, beginning, seconds=30):
        try:
            self.process.stdin.write(command.encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            return None
        return self.line(beginning, seconds)

    def descriptors(self):
        try:
            return len(os.listdir(f"/proc/{self.identity[0]}/fd"))
        except OSError:
            return None

    def alive(self):
        return self.process.poll() is None

    def end(self):
        if self.alive():
            send(self.identity, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            try:
                pipe.close()
            except OSError:
                pass
        self.log.close()


class Chaos:
    def __init__(self, minutes, seed, workers, elixir):
        self.minutes, self.seed, self.workers, self.elixir = minutes, seed, workers, elixir
        self.random = random.Random(seed)
        self.work = tempfile.mkdtemp(prefix="leash-chaos-")
        self.run_dir = os.path.join(self.work, "runs")
        self.carriers = os.path.join(self.work, "carriers")
        for path in (self.run_dir, self.carriers):
            os.mkdir(path, 0o700)
        self.faults = {}
        self.plan = open(os.path.join(self.work, "plan"), "w")
        self.decoys = []
        self.failures = []
        self.kept_records = 0

    def note(self, text):
        self.plan.write(f"{time.monotonic():.3f} {text}\n")
        self.plan.flush()

    # Decoys and the neighbour

    def decoy(self, title, words=(), env=None, locks=None):
        log = os.path.join(self.work, f"decoy-{len(self.decoys)}")
        argv = [sys.executable, "-E", "-s", "-S", "-B", DECOY, log, str(self.minutes * 60 + 600)]
        if locks:
            argv.append(f"--locks={locks[0]}:{locks[1]}")
        argv += ["--", *words]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, env=dict(os.environ, **(env or {})), start_new_session=True)
        process.stdout.readline()
        self.decoys.append((title, identity(process.pid), log, process))

    def begin(self):
        self.neighbour = VM(self, 10, "neighbour", "calm")
        assert self.neighbour.ready(), "the neighbour did not start"
        assert self.eventually(30, lambda: self.whole()), "the neighbour's workers did not start"
        self.neighbours = self.living("neighbour")
        self.decoy("a plain process")
        self.decoy("an argv with a shim's options", ["--run-id=abc1234", "--worker=1"])
        self.decoy("an argv with the neighbour's id", ["grep", f"--run-id={self.neighbour.run_id}"])
        self.decoy("a tag whose owner lives", env={"LEASH_RUN": self.own_tag("decoy01")})
        self.vms = [VM(self, self.workers, f"vm{n}") for n in range(VMS)]
        for vm in self.vms:
            vm.ready()

    def own_tag(self, run_id):
        me = identity(os.getpid())
        namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
        boot = open("/proc/sys/kernel/random/boot_id").read().replace("-", "")[:8]
        return f"{run_id}.1.{me[0]}.{me[1]}.{namespace}.{boot}"

    def living(self, name):
        return {label: who for label, who in carriers(self.carriers).items() if label.startswith(name)}

    def whole(self):
        """Ten trees of a shell and a child each."""
        return sorted(map(len, self.living("neighbour").values())) == [2] * 10

    # Faults

    def fault(self):
        choose = self.random.choice
        vm = choose(self.vms)
        kind = self.random.choices(
            ["shim", "worker", "vm_stop", "vm_kill", "vm_term", "all_kill", "record", "descriptors", "disk"],
            [30, 30, 6, 3, 2, 2, 4, 3, 2],
        )[0]
        self.faults[kind] = self.faults.get(kind, 0) + 1
        self.note(f"{kind} {vm.prefix}")
        getattr(self, kind)(vm)

    def shim(self, vm):
        found = shims(vm.identity)
        if found:
            names = ["SIGKILL", "SIGKILL", "SIGSTOP", "SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGCONT"]
            send(self.random.choice(found), getattr(signal, self.random.choice(names)))

    def worker(self, vm):
        found = self.living(vm.prefix)
        if found:
            label = self.random.choice(sorted(found))
            names = ["SIGKILL", "SIGSTOP", "SIGTERM", "SIGCONT", "SIGSEGV", "SIGINT"]
            send(self.random.choice(found[label]), getattr(signal, self.random.choice(names)))

    def vm_stop(self, vm):
        send(vm.identity, signal.SIGSTOP)
        time.sleep(self.random.uniform(0.0, 0.3))
        send(vm.identity, signal.SIGCONT)

    def vm_kill(self, vm):
        send(vm.identity, signal.SIGKILL)
        self.replace(vm)

    def vm_term(self, vm):
        # Erlang loses a SIGTERM that comes before its own applications run.
        vm.ready(0)
        send(vm.identity, signal.SIGTERM if vm.run_id else signal.SIGKILL)
        self.replace(vm)

    def all_kill(self, vm):
        everybody = [vm.identity] + shims(vm.identity)
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for who in everybody:
                send(who, number)
        self.replace(vm)

    def record(self, vm):
        path = os.path.join(self.run_dir, f"{vm.run_id}.json")
        try:
            act = self.random.choice(["unlink", "truncate", "copy"])
            if act == "unlink":
                os.unlink(path)
            elif act == "truncate":
                os.truncate(path, self.random.randrange(200))
            else:
                shutil.copyfile(path, path + ".copy")
                os.rename(path + ".copy", path)
        except OSError:
            pass

    def descriptors(self, vm):
        """No descriptor is left to the VM for a moment."""
        used = vm.descriptors()
        if used is None or not vm.alive():
            return
        try:
            soft, hard = resource.prlimit(vm.identity[0], resource.RLIMIT_NOFILE, (used + 2, 1 << 16))
            time.sleep(0.3)
            resource.prlimit(vm.identity[0], resource.RLIMIT_NOFILE, (soft, hard))
        except (OSError, ValueError):
            pass

    def disk(self, _vm):
        """The run directory takes nothing for a moment: what a full disk and a read-only mount have in common."""
        if not os.path.exists(os.path.join(self.run_dir, ".mounted")):
            return
        filler = os.path.join(self.run_dir, ".full")
        try:
            with open(filler, "wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 4096)
        except OSError:
            pass
        time.sleep(0.2)
        try:
            os.unlink(filler)
        except OSError:
            pass

    def replace(self, vm):
        new = VM(self, self.workers, vm.prefix.split(".")[0])
        self.vms[self.vms.index(vm)] = new
        self.dead.append(vm)

    # The judgement

    def eventually(self, seconds, test):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if test():
                return True
            time.sleep(0.05)
        return bool(test())

    def round(self, number):
        self.dead = []
        end = time.monotonic() + ROUND_SECONDS
        while time.monotonic() < end:
            self.fault()
            time.sleep(FAULT_EVERY)
        for vm in list(self.vms):
            # A new one may still be on its way up, and may have been meant by a fault before it had a name.
            if vm.alive() and vm.run_id is None and not vm.ready():
                self.replace(vm)
            if not vm.alive():
                self.replace(vm)
        # Each start sweeps, and the last of them sees every dead run.
        sweeper = VM(self, 0, "sweeper")
        if not sweeper.ready():
            self.fail(number, "the sweeping VM did not start", [])
        self.dead_are_gone(number, sweeper)
        self.neighbour_is_whole(number)
        self.decoys_are_whole(number)
        self.survivors_are_tidy(number)
        self.no_zombies(number)
        sweeper.end()
        for vm in self.dead:
            vm.end()

    def fail(self, number, what, details):
        self.failures.append(what)
        print(f"FAILED in round {number}, seed {self.seed}: {what}")
        for line in details:
            print(f"  {line}")
        sys.stdout.flush()

    def describe(self, who):
        words = b" ".join(cmdline(who[0]))[:150].decode(errors="replace")
        limits = ""
        try:
            with open(f"/proc/{who[0]}/limits") as file:
                limits = [line for line in file if line.startswith("Max file locks")][0].split("locks")[1].strip()
        except (OSError, IndexError):
            pass
        return f"{who[0]} {who[2]} ppid {who[3]} {words} [{limits}]"

    def dead_are_gone(self, number, sweeper):
        prefixes = tuple(vm.prefix + "-" for vm in self.dead)
        runs = [vm.run_id for vm in self.dead if vm.run_id]
        # One that was told to stop bounds its stop itself.
        for vm in self.dead:
            if not self.eventually(BOUND_SECONDS, lambda vm=vm: not vm.alive()):
                self.fail(number, f"{vm.prefix} did not end after SIGTERM, see its dump", [self.describe(vm.identity)])
                # SIGUSR1 is for a crash dump (erl(1)).
                send(vm.identity, signal.SIGUSR1)
                self.eventually(10, lambda vm=vm: not vm.alive())
                send(vm.identity, signal.SIGKILL)

        def left():
            if not prefixes:
                return []
            mine = [(label, who) for label, whos in carriers(self.carriers).items() if label.startswith(prefixes) for who in whos]
            return mine + [(f"shim of {vm.prefix}", who) for vm in self.dead for who in shims(vm.identity)]

        if not self.eventually(BOUND_SECONDS, lambda: not left()):
            details = [f"{label} {self.describe(who)}" for label, who in left()]
            said = sweeper.ask("report", "report ")
            self.fail(number, "a dead run's processes live", details + ["what a sweep says of them: " + " ".join(said or [])])
            for _label, who in left():
                send(who, signal.SIGKILL)
        for run in runs:
            path = os.path.join(self.run_dir, f"{run}.json")
            if os.path.exists(path):
                self.kept_records += 1

    def neighbour_is_whole(self, number):
        if not self.neighbour.alive():
            self.fail(number, "the neighbour's VM is gone", [])
        now = {who[:2] for whos in self.living("neighbour").values() for who in whos}
        lost = [who for whos in self.neighbours.values() for who in whos if who[:2] not in now]
        if lost:
            self.fail(number, "the neighbour lost processes", [str(who) for who in lost])
            self.neighbours = self.living("neighbour")

    def decoys_are_whole(self, number):
        for title, who, log, process in self.decoys:
            said = open(log).read().split()
            if process.poll() is not None or not lives(who) or said:
                self.fail(number, f"a decoy was touched: {title}", [f"signals {said}"])

    def survivors_are_tidy(self, number):
        for vm in self.vms:
            if not vm.alive() or vm.run_id is None or self.random.random() > 0.3:
                continue
            if not vm.ask("hold", "held"):
                self.fail(number, f"{vm.prefix} does not answer", [])
                continue
            answer = vm.ask("stop_all", "stopped ", 40)
            if not answer or answer[1] != "ok":
                self.fail(number, f"{vm.prefix}: stop_all said {answer}", [])
            gone = self.eventually(5, lambda: not self.living(vm.prefix + "-") and not shims(vm.identity))
            if not gone:
                left = [self.describe(who) for whos in self.living(vm.prefix + "-").values() for who in whos]
                self.fail(number, f"{vm.prefix}: something is left after stop_all", left)
            self.eventually(5, lambda: (vm.ask("count", "count ") or [0, "0"])[1] == "0")
            self.counts(number, vm)
            # Its churn is over; another takes its place.
            vm.end()
            self.replace(vm)

    def counts(self, number, vm):
        answer = vm.ask("count", "count ")
        if answer and answer[1] != "0":
            self.fail(number, f"{vm.prefix}: rows are left: {answer}", [])
        used = vm.descriptors()
        # An idle VM has some twenty; each tree has at least three.
        if used is not None and used > 60:
            self.fail(number, f"{vm.prefix}: {used} descriptors are open with no worker", [])

    def no_zombies(self, number):
        def old():
            return [who for who in map(identity, pids()) if who and who[2] == "Z" and who[3] != os.getpid()]

        first = old()
        if first:
            ids = {who[:2] for who in first}
            self.eventually(5, lambda: not ids & {who[:2] for who in old()})
            left = [who for who in old() if who[:2] in ids]
            # A worker's shim is in charge of its zombies as long as it lives.
            keepers = {who[0] for who in shims()}
            left = [who for who in left if who[3] not in keepers]
            left = [who for who in left if not self.in_tree(who[3])]
            if left:
                self.fail(number, "zombies that nobody reaps", [self.describe(who) for who in left])

    def in_tree(self, pid):
        """A program of the trees may leave zombies of its own."""
        try:
            return os.readlink(f"/proc/{pid}/fd/{CARRIER_FD}").startswith(self.carriers)
        except OSError:
            return False

    def run(self):
        if os.geteuid() == 0:
            mounted = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs", self.run_dir], stderr=subprocess.DEVNULL
            )
            if mounted.returncode == 0:
                open(os.path.join(self.run_dir, ".mounted"), "w").close()
        self.begin()
        end = time.monotonic() + self.minutes * 60
        rounds = 0
        while time.monotonic() < end and len(self.failures) < 5:
            rounds += 1
            self.round(rounds)
        for vm in [*self.vms, *self.dead, self.neighbour]:
            vm.end()
        self.eventually(BOUND_SECONDS, lambda: not shims())
        left = carriers(self.carriers)
        for whos in left.values():
            for who in whos:
                send(who, signal.SIGKILL)
        for _title, _who, _log, process in self.decoys:
            process.kill()
            process.wait()
        total = sum(self.faults.values())
        kinds = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        print(f"chaos: seed {self.seed}, {rounds} rounds, {total} faults ({kinds}), {VM.count} VMs, {self.kept_records} records kept, {len(self.failures)} failures")
        if self.failures:
            print(f"chaos: the plan and the VMs' logs are in {self.work}; again with: script/chaos {self.minutes:g} {self.seed}")
            return 1
        if os.path.exists(os.path.join(self.run_dir, ".mounted")):
            subprocess.run(["umount", "-l", self.run_dir])
        shutil.rmtree(self.work, ignore_errors=True)
        return 0


def main():
    minutes, seed, workers = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    sys.exit(Chaos(minutes, seed, workers, sys.argv[4:]).run())


main()
