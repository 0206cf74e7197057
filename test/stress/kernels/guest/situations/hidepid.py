"""An ordinary user's VM where `/proc` hides other users' processes, or shows processes alone."""

import os
import pwd
import subprocess

from lab import VM, await_gone, check, describe, kill, note, wipe

TREE = {"tree": "sleep {a} & setsid sleep {b} & (setsid env -i sleep {c} &); wait"}
# A sweep is not to wait for all numbers that a machine could have.
MOST_MILLISECONDS = 1_000
OWN_PROC = "mount -t proc -o subset=pid proc /proc && exec setpriv --reuid={0} --regid={0} --clear-groups {1}"


def run():
    subprocess.run(["useradd", "-m", "trial"], check=False)
    user = pwd.getpwnam("trial").pw_uid
    with open("/proc/sys/kernel/pid_max") as file:
        note("pid_max", file.read().strip())
    start("hidepid=0", user)
    for hidepid in (1, 2):
        subprocess.run(["mount", "-o", f"remount,hidepid={hidepid}", "/proc"], check=True)
        swept = start(f"hidepid={hidepid}", user)
        check(f"hidepid={hidepid}: the next start is fast", swept and swept < MOST_MILLISECONDS, f"{swept} ms")
    subprocess.run(["mount", "-o", "remount,hidepid=0", "/proc"], check=True)
    subset(user)


def start(name, user):
    """Crashes all of a VM, and returns how long the sweep of the next start took."""
    options = {"env": {"LEASH_RUN_DIR": None}, "user": user}
    stopped = VM(name + "-stop", TREE, **options)
    if stopped.start():
        stopped.order("stop")
        left, _took = await_gone(stopped.all)
        check(f"{name}: stop: nothing is left", not left, describe(left))
        stopped.end()
    vm = VM(name, TREE, **options)
    if not vm.start():
        return None
    kill([*vm.wardens(), vm.pid, *vm.shims()])
    after = VM(name + "-next", **options)
    if not after.start():
        return None
    left, _took = await_gone(vm.all, 1)
    check(f"{name}: all are killed, and the next start: nothing is left", not left, describe(left))
    records = [file for file in os.listdir(f"/tmp/leash-{user}") if file.startswith(vm.run)]
    check(f"{name}: the record of the dead run goes", not records, records)
    after.end()
    wipe(vm.all + stopped.all)
    note(f"{name}: the next start", f"{after.took} ms, of these {after.swept} ms for the sweep")
    return after.swept


def subset(user):
    """Nothing tells the boot, so nothing is judged. Workers end all the same."""
    prefix = ["unshare", "--mount", "sh", "-c", OWN_PROC.format(user, '"$@"'), "sh"]
    options = {"env": {"LEASH_RUN_DIR": None}, "prefix": prefix}
    for name, fault in (
        ("stop", lambda vm: vm.order("stop")),
        ("the VM is killed", lambda vm: kill([vm.pid])),
        ("VM and shims are killed", lambda vm: kill([vm.pid, *vm.shims()])),
    ):
        vm = VM("subset-" + name.replace(" ", "-"), TREE, **options)
        if not vm.start():
            continue
        fault(vm)
        left, _took = await_gone(vm.all)
        check(f"subset=pid: {name}: nothing is left", not left, describe(left))
        wipe(vm.all)
        if vm.alive():
            vm.end()
