"""What becomes another user, and what a service starts for a worker, at a stop and at three crashes.

What descends from a worker has to end while its warden lives. If all are killed at once, then what still names the run
and may descend from it ends at the next start. All else is kept, and the sweep names what it may not end, unless nothing
tells it from a stranger's. The job of a service (`at`, `cron`, `systemd-run` without `--scope`) is a stranger with a copy
of the environment, and always lives.
"""

import subprocess

from lab import VM, alive, ancestors, await_gone, check, describe, kill, note, wipe

USERS = {
    "su": "exec su -s /bin/sh nobody -c 'sleep {a}; :'",
    "su -": "exec su - trial -c 'sleep {a}; :'",
    "runuser": "exec runuser -u nobody -- sleep {a}",
    "sudo": "exec sudo -n -u nobody sleep {a}",
    "sudo use_pty": "exec sudo -n -u trial sleep {a}",
    "prlimit": "prlimit --locks=unlimited:unlimited sleep {a} & exec sleep {b}",
    "scope": "exec systemd-run -q --scope sleep {a}",
}
# A sweep may end what has a mark, or an environment in the control group of the VM. `su` opens a session, which has a
# control group of its own, and `su -` and `sudo` clear the environment.
SWEPT = ("runuser", "prlimit", "scope")
# `su -` does both: another user's process in a session of its own, and nothing tells it from a login.
UNKNOWN = ("su -",)
SERVICES = {
    "at": "echo 'sleep {a}' | at now 2>/dev/null; exec sleep {b}",
    "systemd-run": "systemd-run -q sleep {a}; exec sleep {b}",
}
ALL = {**USERS, **SERVICES}
CRON = 99_999


def run():
    prepare()
    one("stop", lambda vm: vm.order("stop"))
    one("all are killed, and the next start", lambda vm: kill([*vm.wardens(), vm.pid, *vm.shims()]), started=True)
    one("stop_all", lambda vm: vm.order("stop_all"))
    one("the application stops", lambda vm: vm.order("application_stop"))
    one("the VM stops", lambda vm: vm.order("init_stop"))
    one("the shims are killed", lambda vm: kill(vm.shims()))
    one("VM and shims are killed", lambda vm: kill([vm.pid, *vm.shims()]))
    check("cron has started jobs", cron_jobs())
    wipe([CRON])


def prepare():
    subprocess.run(["useradd", "-m", "-s", "/bin/sh", "trial"], check=False)
    with open("/etc/sudoers.d/trial", "w") as file:
        file.write("Defaults>trial use_pty\nDefaults>nobody !use_pty\n")
    with open("/etc/cron.d/trial", "w") as file:
        file.write(f"* * * * * root sleep {CRON}\n")


def cron_jobs():
    """One more each minute, so they are told apart by identity."""
    return {(seen.pid, seen.start) for seen in alive([CRON])}


def one(name, fault, started=False):
    vm = VM(name.replace(" ", "-").replace(",", ""), ALL, keys="ab")
    if not vm.start():
        return
    jobs = [vm.numbers[label][0] for label in SERVICES]
    trees = [number for number in vm.all if number not in jobs]
    crons = cron_jobs()
    fault(vm)
    named = ""
    if started:
        left, _took = await_gone(trees, 1)
        note(f"{name}: left before the start", describe(left))
        after = VM(vm.name + "-next")
        if not after.start():
            return
        named = after.order("report") or ""
        judge_sweep(name, vm, named + after.console())
        after.end()
    else:
        left, took = await_gone(trees)
        check(f"{name}: nothing of the trees is left", not left, describe(left))
        note(name, f"{took:.2f} s")
    # A proven end is looked at a second time about a second later.
    lost, _took = await_gone(jobs, 2)
    check(f"{name}: the jobs of services live", len(lost) == len(jobs), f"left: {describe(lost)}")
    check(f"{name}: the jobs of cron live", crons <= cron_jobs())
    for line in vm.said("exit "):
        note(name, line[:200])
    wipe(vm.all)
    if vm.alive():
        vm.end()


def judge_sweep(name, vm, named):
    for label in USERS:
        left = alive(vm.numbers[label])
        if label in SWEPT:
            check(f"{name}: {label} is swept", not left, describe(left))
        for seen in left if label not in UNKNOWN else []:
            # If it is below `su` or `sudo`, then that process says more.
            family = [seen.pid, *ancestors(seen.pid)]
            check(f"{name}: {label} is named", any(f"pid: {pid}," in named for pid in family), f"{describe([seen])}: {named[:500]}")
