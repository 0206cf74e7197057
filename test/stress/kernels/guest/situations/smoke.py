"""One tree with a session and a cleared environment; stop, and three ways to crash."""

from lab import VM, await_gone, check, describe, kill, note, start_and_end, wipe

TREE = {"tree": "sleep {a} & setsid sleep {b} & (setsid env -i sleep {c} &); wait"}


def run():
    one("stop", lambda vm: vm.order("stop"))
    one("the VM is killed", lambda vm: kill([vm.pid]))
    one("VM and shims are killed", lambda vm: kill([vm.pid, *vm.shims()]))
    one("all are killed, and the next start", lambda vm: kill([*vm.wardens(), vm.pid, *vm.shims()]), started=True)


def one(name, fault, started=False):
    vm = VM(name.replace(" ", "-"), TREE)
    if not vm.start():
        return
    check(f"{name}: a warden and a shim are there", len(vm.shims()) == 1 and len(vm.wardens()) == 1)
    fault(vm)
    if started:
        left, _took = await_gone(vm.all, 1)
        check(f"{name}: only a sweep can end it", len(left) > 0)
        start_and_end(vm.name + "-next")
        left, took = await_gone(vm.all, 0)
    else:
        left, took = await_gone(vm.all)
    check(f"{name}: nothing is left", not left, describe(left))
    note(name, f"{took:.2f} s")
    wipe(vm.all)
    if vm.alive():
        vm.end()
