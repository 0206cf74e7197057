"""The run directory on a network file system, where the server has the locks."""

import os
import subprocess

from lab import VM, await_gone, check, describe, kill, say, start_and_end, wait_until, wipe

TREE = {"tree": "sleep {a} & setsid sleep {b} & (setsid env -i sleep {c} &); wait"}
EXPORT, MOUNT = "/trial/export", "/mnt"
MODULES = "/trial/modules"
COMMANDS = (
    "mount -t nfsd nfsd /proc/fs/nfsd",
    f"exportfs -o rw,no_root_squash,insecure,fsid=0 127.0.0.1:{EXPORT}",
    "rpc.mountd --no-nfs-version 3 --no-udp",
    # Locks are refused for so many seconds after the server's start.
    "rpc.nfsd --no-nfs-version 3 --grace-time 10 --lease-time 10 2",
    f"mount -t nfs4 127.0.0.1:/ {MOUNT}",
)


def run():
    failed = serve()
    if failed:
        return say("skip", "nfs", failed)
    env = {"LEASH_RUN_DIR": MOUNT + "/run"}
    lock = ["flock", "--exclusive", "--timeout", "60", f"{MOUNT}/lock", "true"]
    check("a lock can be had", subprocess.run(lock).returncode == 0)
    one("stop", env, lambda vm: vm.order("stop"))
    one("the VM is killed", env, lambda vm: kill([vm.pid]))
    one("all are killed, and the next start", env, lambda vm: kill([*vm.wardens(), vm.pid, *vm.shims()]))
    live = VM("live", TREE, env=env)
    if live.start():
        start_and_end("beside", env=env)
        check("another start leaves a live run alone", len(live.shims()) == 1 and live.alive())
        live.end()
        left, _took = await_gone(live.all)
        check("the VM stops: nothing is left", not left, describe(left))


def serve():
    """Returns why there is no such file system, or None."""
    os.makedirs(EXPORT, exist_ok=True)
    with open(f"{MODULES}/order") as file:
        for module in file.read().split():
            subprocess.run(["insmod", f"{MODULES}/{module}"], capture_output=True)
    for command in COMMANDS:
        done = subprocess.run(command.split(), capture_output=True, text=True)
        if done.returncode != 0:
            return f"{command}: {done.stderr}"
    return None if wait_until(lambda: os.path.ismount(MOUNT), 10) else "not mounted"


def one(name, env, fault):
    vm = VM("nfs-" + name.replace(" ", "-").replace(",", ""), TREE, env=env)
    if not vm.start():
        return
    fault(vm)
    if name.startswith("all"):
        start_and_end(vm.name + "-next", env=env)
    left, _took = await_gone(vm.all)
    check(f"{name}: nothing is left", not left, describe(left))
    check(f"{name}: the record was there", os.path.isdir(env["LEASH_RUN_DIR"]))
    wipe(vm.all)
    if vm.alive():
        vm.end()
