"""Ten ways to end × nine shapes of a tree: one VM for each way, with a worker of each shape in it."""

from lab import VM, await_gone, check, describe, is_process, kill, note, start_and_end, wait_until, wipe

SHAPES = {
    "plain": "exec sleep {a}",
    "shell": "sleep {a} & sleep {b} & wait",
    "ignores TERM": "trap '' TERM; sleep {a} & sleep {b}; wait",
    "setsid": "setsid sleep {a} & wait",
    "double fork": "(setsid sleep {a} &); exec sleep {b}",
    "env -i": "(setsid env -i sleep {a} &); exec sleep {b}",
    "stopped": "sleep {a} & sleep {b} & sleep 1; kill -STOP $!; kill -STOP $$; wait",
    "forks on": "while :; do (setsid sleep {a} &); sleep 0.3; done",
    "leader dies first": "(trap '' TERM; exec sleep {a}) & exec sleep {b}",
}


def everything(vm):
    return [*vm.wardens(), vm.pid, *vm.shims()]


WAYS = {
    "stop": lambda vm: vm.order("stop"),
    "stop_all": lambda vm: vm.order("stop_all"),
    "the owners exit": lambda vm: vm.order("owners_exit"),
    "the owners are killed": lambda vm: vm.order("owners_killed"),
    "the Workers are killed": lambda vm: vm.order("workers_killed"),
    "the application stops": lambda vm: vm.order("application_stop"),
    "the VM gets TERM": lambda vm: kill([vm.pid], 15),
    "the VM halts": lambda vm: vm.order("halt"),
    "the VM is killed": lambda vm: kill([vm.pid]),
    "the shims are killed": lambda vm: kill(vm.shims()),
    "VM and shims are killed": lambda vm: kill([vm.pid, *vm.shims()]),
    "all are killed, and the next start": lambda vm: kill(everything(vm)),
}


def run():
    for way, fault in WAYS.items():
        vm = VM(way.replace(" ", "-").replace(",", ""), SHAPES, keys="ab")
        if not vm.start():
            continue
        fault(vm)
        if way.startswith("all"):
            start_and_end(vm.name + "-next")
        left, took = await_gone(vm.all)
        note(way, f"{took:.2f} s")
        for shape, numbers in vm.numbers.items():
            own = [seen for seen in left if seen.number in numbers]
            check(f"{way}: {shape}", not own, describe(own))
        wipe(vm.all)
        if vm.alive():
            vm.end()
        shims_and_wardens = lambda: not any(map(is_process, vm.shims() + vm.wardens()))
        check(f"{way}: no shim and no warden is left", wait_until(shims_and_wardens, 12))
