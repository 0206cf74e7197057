"""The wall clock steps by a year while workers run, forwards and back."""

import time

from lab import VM, await_gone, check, describe, kill, start_and_end, wipe

TREE = {"tree": "sleep {a} & setsid sleep {b} & (setsid env -i sleep {c} &); wait"}
YEAR = 365 * 86_400


def step(seconds):
    time.clock_settime(time.CLOCK_REALTIME, time.clock_gettime(time.CLOCK_REALTIME) + seconds)


def run():
    for name, seconds in (("a year forwards", YEAR), ("a year back", -YEAR)):
        stopped, crashed = VM(name.replace(" ", "-"), TREE), VM(name.replace(" ", "-") + "-2", TREE)
        if not (stopped.start() and crashed.start()):
            return
        step(seconds)
        stopped.order("stop")
        left, took = await_gone(stopped.all)
        check(f"{name}: stop: nothing is left", not left and took < 10, describe(left))
        kill([*crashed.wardens(), crashed.pid, *crashed.shims()])
        start_and_end(crashed.name + "-next")
        left, took = await_gone(crashed.all, 1)
        check(f"{name}: all are killed, and the next start: nothing is left", not left, describe(left))
        wipe(stopped.all + crashed.all)
        stopped.end()
