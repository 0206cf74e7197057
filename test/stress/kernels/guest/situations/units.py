"""A VM as a systemd service: settings of the unit × ways in which it ends, and a boot in between."""

import os
import subprocess
import time

from lab import HERE, VM, VMS, alive, ancestors, await_alive, await_gone, check, describe, kill, note, shims_of, wait_until, wipe

TREE = {"tree": "sleep {a} & setsid sleep {b} & (setsid env -i sleep {c} &); wait"}
UNIT = "/run/systemd/system/trial-vm.service"
HEAD = """[Unit]
StartLimitIntervalSec=0
[Service]
Type=exec
Environment=TRIAL_VM={dir} HOME=/tmp LANG=C.UTF-8
ExecStart={here}/run-vm
Restart=on-failure
RestartSec=1
TimeoutStopSec=20
"""
KEPT = "RuntimeDirectory=t\nRuntimeDirectoryPreserve=yes\n"
SETTINGS = {
    "default": "",
    "mixed": "KillMode=mixed\nPrivateTmp=yes\n",
    "process, User=, ProtectProc=": "KillMode=process\nUser=trial\nProtectProc=invisible\n" + KEPT,
    "DynamicUser=": "DynamicUser=yes\nReadWritePaths=/trial/vms\n" + KEPT,
    "Delegate=, process": "Delegate=yes\nKillMode=process\nUser=trial\nRuntimeDirectory=t\n",
}


def systemctl(*words):
    return subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False).stdout.strip()


def run():
    subprocess.run(["useradd", "-m", "-s", "/bin/sh", "trial"], check=False)
    os.makedirs(VMS, exist_ok=True)
    for name, lines in SETTINGS.items():
        one(name, lines)
    watchdog()
    leaving()
    stale()
    memory()


class Service(VM):
    """A VM whose process belongs to systemd."""

    def __init__(self, name, lines, workers=None, keys="abc"):
        super().__init__("unit", workers or TREE, keys=keys)
        self.title = name
        with open(UNIT, "w") as file:
            file.write(HEAD.format(dir=self.dir, here=HERE) + lines)
        systemctl("daemon-reload")

    def start(self):
        self.forget()
        systemctl("start", "trial-vm")
        return self.await_up()

    def forget(self):
        """Forgets what the last VM of the unit said."""
        for name in ("log", "console"):
            path = f"{self.dir}/{name}"
            if os.path.exists(path):
                os.rename(path, path + ".old")

    def was(self):
        """The processes of the trees, by identity: a restart has the same numbers."""
        await_alive(self.all)
        return {(seen.pid, seen.start) for seen in alive(self.all)}

    def judge(self, ending, old):
        def left():
            return [seen for seen in alive(self.all) if (seen.pid, seen.start) in old]
        wait_until(lambda: not left(), 10)
        rest = left()
        check(f"{self.title}: {ending}: nothing is left", not rest and len(old) == 3, f"{len(old)} before; {describe(rest)}")
        kill(seen.pid for seen in rest)


def one(name, lines):
    unit = Service(name, lines)
    if not unit.start():
        return
    note(name, f"up in {unit.took} ms")
    restarts = {
        "systemctl kill": lambda: systemctl("kill", "-s", "KILL", "trial-vm"),
        "the main process is killed": lambda: systemctl("kill", "--kill-who=main", "-s", "KILL", "trial-vm"),
        "all are killed by hand": lambda: kill([unit.pid, *sum(shims_of(unit.run), [])]),
        "restart": lambda: systemctl("restart", "trial-vm"),
    }
    for ending, act in restarts.items():
        old = unit.was()
        unit.forget()
        act()
        if not unit.await_up():
            break
        unit.judge(ending, old)
        note(f"{name}: {ending}", f"next start took {unit.took} ms")
    old = unit.was()
    systemctl("stop", "trial-vm")
    unit.judge("stop", old)
    note(f"{name}: stop", systemctl("show", "-P", "Result", "trial-vm"))
    systemctl("reset-failed", "trial-vm")


def watchdog():
    """systemd ends a VM that says nothing, with SIGABRT."""
    unit = Service("watchdog", "WatchdogSec=25\nWatchdogSignal=SIGABRT\nLimitCORE=0\nEnvironment=ERL_CRASH_DUMP_SECONDS=0\n")
    if not unit.start():
        return
    old = unit.was()
    unit.forget()
    if unit.await_up():
        unit.judge("the watchdog's time is over", old)
    systemctl("stop", "trial-vm")
    systemctl("reset-failed", "trial-vm")


def leaving():
    """`su` and a scope leave the unit's control group, so `systemctl kill` takes VM, shims and warden without them."""
    workers = {
        "su": "exec su -s /bin/sh nobody -c 'sleep {a}; :'",
        "scope": "(exec systemd-run -q --scope sleep {a}) & exec sleep {b}",
    }
    unit = Service("leaving the unit", "", workers, keys="ab")
    if not unit.start():
        return
    old = unit.was()
    unit.forget()
    systemctl("kill", "-s", "KILL", "trial-vm")
    if not unit.await_up():
        return
    for label, swept in (("scope", True), ("su", False)):
        left = [seen for seen in alive(unit.numbers[label]) if (seen.pid, seen.start) in old]
        check(f"leaving the unit: {label} is {'swept' if swept else 'kept'}", bool(left) != swept, describe(left))
        for seen in left:
            family = [seen.pid, *ancestors(seen.pid)]
            named = any(f"{pid} (" in unit.console() for pid in family)
            check(f"leaving the unit: {label} is named in the log", named, f"{describe([seen])} {unit.console()[-600:]}")
    systemctl("stop", "trial-vm")
    wipe(unit.all)


def stale():
    """A record of another boot, which no kernel of this boot can have an owner of."""
    unit = Service("a boot in between", "RuntimeDirectory=t\nRuntimeDirectoryPreserve=yes\n")
    if not unit.start():
        return
    systemctl("kill", "-s", "KILL", "trial-vm")
    systemctl("stop", "trial-vm")
    wipe(unit.all)
    directory = "/run/t/leash"
    records = [name for name in os.listdir(directory) if name.endswith(".json")]
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot = file.read().strip()
    for name in records:
        with open(f"{directory}/{name}") as file:
            text = file.read()
        with open(f"{directory}/{name}", "w") as file:
            file.write(text.replace(boot, "0" * 8 + boot[8:]))
    old = set(records)
    if unit.start():
        now = set(os.listdir(directory))
        check("a boot in between: the stale record goes", bool(old) and not old & now, f"{old} {now}")
        systemctl("stop", "trial-vm")


def memory():
    """The OOM killer takes a worker of the unit, with either policy of systemd."""
    eat = "exec python3 -c \"exec('x = []\\nwhile True: x.append(bytes(1 << 20))')\""
    for policy, expected in (("stop", "oom-kill"), ("continue", "success")):
        lines = f"MemoryMax=220M\nMemorySwapMax=0\nOOMPolicy={policy}\nRestart=no\n"
        unit = Service(f"OOMPolicy={policy}", lines, {"eats": "sleep 3; " + eat, "idle": "exec sleep {a}"})
        if not unit.start():
            continue
        took = wait_until(lambda: unit.said("exit eats") or systemctl("is-active", "trial-vm") != "active", 60)
        check(f"OOMPolicy={policy}: the OOM killer came", bool(took), unit.log()[-300:])
        if policy == "continue":
            check("OOMPolicy=continue: only the worker ends", "sigkill" in unit.log(), unit.log()[-300:])
            check("OOMPolicy=continue: the other worker lives", len(alive(unit.all)) == 1)
        time.sleep(1)
        note(f"OOMPolicy={policy}", f"{systemctl('is-active', 'trial-vm')} {systemctl('show', '-P', 'Result', 'trial-vm')}")
        systemctl("stop", "trial-vm")
        left, _took = await_gone(unit.all)
        check(f"OOMPolicy={policy}: nothing is left", not left, describe(left))
        systemctl("reset-failed", "trial-vm")
        wipe(unit.all)
