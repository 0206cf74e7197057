"""Control groups of version 2: memory and pids limits, the OOM killer, and frozen workers."""

import os

from lab import VM, await_gone, check, describe, note, wait_until, wipe

ROOT = "/sys/fs/cgroup/trial"
EAT = "exec python3 -c \"exec('x = []\\nwhile True: x.append(bytes(1 << 20))')\""
WORKERS = {
    "eats": ("memory.max=40M memory.swap.max=0", "sleep {a} & sleep 1; " + EAT),
    "group": ("memory.max=40M memory.swap.max=0 memory.oom.group=1", "setsid sleep {a} & sleep 1; " + EAT.replace("exec python3", "python3") + "; sleep {b}"),
    "pids": ("pids.max=5", "for i in 1 2 3 4 5 6 7 8; do sleep {a} & done; wait"),
    "frozen": ("", "sleep {a} & setsid sleep {b} & sleep 1; echo 1 >" + ROOT + "/frozen/cgroup.freeze; wait"),
}


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def make(name, limits):
    os.makedirs(f"{ROOT}/{name}", exist_ok=True)
    for limit in limits.split():
        file, value = limit.split("=")
        # There is no swap to be limited where the kernel does not count it.
        if os.path.exists(f"{ROOT}/{name}/{file}"):
            write(f"{ROOT}/{name}/{file}", value)


def run():
    write("/sys/fs/cgroup/cgroup.subtree_control", "+memory +pids")
    os.makedirs(ROOT, exist_ok=True)
    write(f"{ROOT}/cgroup.subtree_control", "+memory +pids")
    for name, (limits, _command) in WORKERS.items():
        make(name, limits)
    commands = {name: f"echo $$ >{ROOT}/{name}/cgroup.procs; {command}" for name, (_limits, command) in WORKERS.items()}
    commands["scope"] = EAT.replace("exec ", "exec systemd-run -q --scope -p MemoryMax=40M -p MemorySwapMax=0 ", 1)
    # The processes of some are refused or killed at once, so only the end is looked at.
    vm = VM("cgroup", commands, keys="ab")
    everything, vm.numbers = vm.numbers, {}
    if not vm.start():
        return
    vm.numbers = everything
    for name in ("eats", "group", "pids", "scope"):
        check(f"{name}: the worker ends", wait_until(lambda: vm.said(f"exit {name} "), 60), vm.log()[-400:])
    exits = " ".join(vm.said("exit "))
    note("exits", exits)
    check("eats: the exit is SIGKILL", "exit eats {:signal, :sigkill}" in exits, exits)
    check("scope: the exit is SIGKILL", "exit scope {:signal, :sigkill}" in exits, exits)
    # The shim sits outside of the group, so it sees that the OOM killer took all of it.
    check("group: the exit is SIGKILL", "exit group {:signal, :sigkill}" in exits, exits)
    wait_until(lambda: "frozen 1" in open(f"{ROOT}/frozen/cgroup.events").read(), 20)
    vm.order("stop_all")
    left, took = await_gone(vm.all)
    check("stop_all: nothing is left, frozen or not", not left, describe(left))
    note("stop_all", f"{took:.2f} s")
    vm.end()
    wipe(vm.all)
