"""Control groups with all controllers: below the root, and in a unit that hands its group to the VM. A tree
that needs too much memory is killed by the kernel, and reported so; its neighbours live."""

import glob
import os

from lab import VM, alive, await_gone, check, describe, kill, note, start_and_end, wait_until, wipe

ROOT = "/sys/fs/cgroup"
EAT = "python3 -c 'x = bytearray(300 << 20); [x.__setitem__(i, 1) for i in range(0, len(x), 4096)]'"
WORKERS = {
    "eater": (f"sleep {{a}} & setsid sleep {{b}} & {EAT}; wait", '[cgroup: [memory: "60MB"], exit_reason: & &1]'),
    # A shell that cannot fork exits.
    "forker": ("for i in 1 2 3 4 5 6 7 8 9; do sleep {a} & done; wait", "[cgroup: [pids: 5]]"),
    "busy": ("sleep {a} & while :; do :; done", "[cgroup: [cpu: 0.2, cpu_weight: 50]]"),
    "plain": ("setsid env -i sleep {a} & sleep {b}", "[cgroup: true]"),
    "beside": ("sleep {a} & setsid sleep {b}", "[]"),
}
IN_ROOT = ["sh", "-c", f'echo $$ > {ROOT}/cgroup.procs && exec "$@"', "sh"]
# guides/limits.md. systemd would replace the variables of a command line.
LEAF = "/trial/into-leaf"
INTO_LEAF = f"""#!/bin/sh
g={ROOT}$(sed -n "s/^0:://p" /proc/self/cgroup) && mkdir -p $g/vm && echo $$ > $g/vm/cgroup.procs
exec "$@"
"""


def run():
    limits("root", IN_ROOT, ROOT)
    unit = "/system.slice/trial-leaf.service"
    with open(LEAF, "w") as file:
        file.write(INTO_LEAF)
    os.chmod(LEAF, 0o755)
    limits("unit", in_unit("trial-leaf", LEAF), ROOT + unit)
    occupied()
    crash()


def in_unit(name, *program, user="nobody"):
    settings = ["Delegate=yes", f"User={user}", "KillMode=control-group"]
    properties = [word for setting in settings for word in ("-p", setting)]
    names = ["PATH", "HOME", "LANG", "LEASH_RUN_DIR", "TRIAL_VM"]
    passed = [f"--setenv={name}" for name in names]
    return ["systemd-run", "--quiet", "--wait", f"--unit={name}", *passed, *properties, *program]


def groups(parent):
    return glob.glob(f"{parent}/leash-*")


def read(path):
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError as error:
        return str(error)


def limits(name, prefix, parent):
    # Python needs long for its start here, so that the tree is up before it is too large.
    vm = VM(f"limits-{name}", WORKERS, prefix=prefix, env={"LEASH_RUN_DIR": f"/tmp/run-{name}"})
    if not start_without(vm, "eater", "forker"):
        return
    run_id = vm.run
    here = {os.path.basename(path).rsplit("-", 1)[1]: path for path in groups(parent)}
    check(f"{name}: the groups are below {parent}", len(here) >= 2 and all(run_id in p for p in here.values()), here)

    ended = wait_until(lambda: vm.said("exit eater "), 90)
    said = ended[0] if ended else vm.log()[-400:]
    check(f"{name}: the kernel killed the eater's tree", "oom_killed?: true" in said and ":sigkill" in said, said)
    note(f"{name}: the eater", said)
    left, _took = await_gone(vm.numbers["eater"])
    check(f"{name}: nothing of the eater is left", not left, describe(left))
    wipe(vm.numbers["eater"])

    for label in ("busy", "plain", "beside"):
        check(f"{name}: {label} lives", {s.number for s in alive(vm.numbers[label])} == set(vm.numbers[label]))
    wait_until(lambda: vm.said("exit forker "), 60)
    check(f"{name}: pids holds", vm.said("out forker ") and "fork" in vm.said("out forker ")[0], vm.log()[-400:])
    left, _took = await_gone(vm.numbers["forker"])
    check(f"{name}: nothing of the forker is left", not left, describe(left))
    cpu = [read(f"{path}/cpu.max") for path in groups(parent)]
    check(f"{name}: one group has a fifth of a CPU", cpu.count("20000 100000") == 1, cpu)
    throttled = [read(f"{path}/cpu.stat") for path in groups(parent) if read(f"{path}/cpu.max").startswith("20000")]
    check(f"{name}: it is held back", any("nr_throttled 0" not in text for text in throttled), throttled)

    answer = vm.order("stop") or ""
    note(f"{name}: stop", answer[-700:])
    check(f"{name}: the others were not killed for memory", "oom_killed?: true" not in answer.split("eater")[0], answer)
    left, _took = await_gone(vm.all)
    check(f"{name}: nothing is left", not left, describe(left))
    check(f"{name}: no group is left", wait_until(lambda: not groups(parent), 10), groups(parent))
    wipe(vm.all)
    vm.end()


def start_without(vm, *labels):
    """Starts a VM of which some workers may end before all are seen."""
    everything, vm.numbers = vm.numbers, {k: v for k, v in vm.numbers.items() if k not in labels}
    up = vm.start()
    vm.numbers = everything
    return up


def occupied():
    """A delegated unit whose VM sits in the group itself: no limit, and a sentence."""
    workers = {
        "limited": ("sleep {a}", '[cgroup: [memory: "60MB"]]'),
        "free": ("sleep {a}", '[cgroup: [memory: "60MB", required: false]]'),
    }
    prefix = in_unit("trial-occupied")
    vm = VM("limits-occupied", workers, prefix=prefix, env={"LEASH_RUN_DIR": "/tmp/run-occupied"})
    if not start_without(vm, "limited"):
        return
    said = vm.said("refused limited")
    check("occupied: the start is refused with a sentence", said and ":occupied" in said[0] and "leaf" in said[0], said)
    check("occupied: one that need not have a group lives", len(alive(vm.numbers["free"])) == 1)
    vm.end()


def crash():
    """VM, shims and warden are killed together. The next start ends the trees and removes the groups."""
    workers = {"tree": ("sleep {a} & setsid env -i sleep {b} & wait", '[cgroup: [memory: "200MB"]]')}
    options = {"prefix": IN_ROOT, "env": {"LEASH_RUN_DIR": "/tmp/run-crash"}}
    vm = VM("limits-crash", workers, **options)
    if not vm.start():
        return
    check("crash: one group is there", len(groups(ROOT)) == 1, groups(ROOT))
    kill([*vm.wardens(), vm.pid, *vm.shims()])
    wait_until(lambda: not vm.alive(), 10)
    start_and_end("limits-next", **options)
    left, _took = await_gone(vm.all, 1)
    check("crash: nothing is left after the next start", not left, describe(left))
    check("crash: no group is left after the next start", not groups(ROOT), groups(ROOT))
    wipe(vm.all)
