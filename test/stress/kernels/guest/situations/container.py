"""As in a container: the VM as pid 1 of a pid namespace, or below an init, and the host's own VM beside it."""

from lab import VM, await_alive, await_gone, check, describe, kill, note, start_and_end, wipe

TREE = {"tree": "sleep {a} & setsid sleep {b} & (setsid env -i sleep {c} &); wait"}
APART = ["unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]
KINDS = {"pid 1": APART, "init": [*APART, "tini", "-s", "--"]}


def run():
    for kind, prefix in KINDS.items():
        one(kind, "stop", prefix, lambda vm: vm.order("stop"))
        one(kind, "the VM is killed", prefix, lambda vm: kill([vm.beam()]))
        one(kind, "VM and shims are killed", prefix, lambda vm: kill([vm.beam(), *vm.shims()]))
        one(kind, "all are killed", prefix, lambda vm: kill([*vm.wardens(), vm.beam(), *vm.shims()]))


def one(kind, name, prefix, fault):
    directory = f"/trial/run-{kind.replace(' ', '-')}"
    vm = VM(f"{kind}-{name}".replace(" ", "-"), TREE, prefix=prefix, env={"LEASH_RUN_DIR": directory})
    if not vm.start():
        return
    if name == "stop":
        # The host has the same user and sees every process, in the same directory of records and in its own.
        start_and_end(vm.name + "-host")
        start_and_end(vm.name + "-host-same", env={"LEASH_RUN_DIR": directory})
        alone = len(vm.shims()) == 1 and vm.alive() and not await_alive(vm.all, 1)
        check(f"{kind}: a sweep of the host leaves the container alone", alone)
    fault(vm)
    left, took = await_gone(vm.all)
    # The end of pid 1 ends its namespace. Below an init, it is the init that ends with the VM.
    check(f"{kind}: {name}: nothing is left", not left, describe(left))
    note(f"{kind}: {name}", f"{took:.2f} s")
    wipe(vm.all)
    if vm.alive():
        vm.end()
