"""An ordinary user's VM whose workers call `sudo`: what becomes root's cannot be ended, and has to be named."""

import pwd
import subprocess

from lab import VM, alive, ancestors, await_gone, check, describe, kill, note, wipe

WORKERS = {
    "root": "exec sudo -n sleep {a}",
    "nobody": "exec sudo -n -u nobody sleep {a}",
    "own": "sleep {a} & setsid sleep {b} & wait",
}


def run():
    subprocess.run(["useradd", "-m", "-s", "/bin/sh", "trial"], check=False)
    with open("/etc/sudoers.d/trial", "w") as file:
        file.write("trial ALL=(ALL) NOPASSWD: ALL\n")
    options = {"env": {"LEASH_RUN_DIR": None}, "user": pwd.getpwnam("trial").pw_uid}
    stopped = VM("ordinary-stop", WORKERS, keys="ab", **options)
    if stopped.start():
        answer = stopped.order("stop") or ""
        judge("stop", stopped, answer)
        wipe(stopped.all)
        stopped.end()
    crashed = VM("ordinary", WORKERS, keys="ab", **options)
    if not crashed.start():
        return
    kill([*crashed.wardens(), crashed.pid, *crashed.shims()])
    after = VM("ordinary-next", **options)
    if after.start():
        answer = (after.order("report") or "") + after.console()
        judge("all are killed, and the next start", crashed, answer)
        check("the sweep is not complete", "complete: false" in answer, answer[:300])
        after.end()
    wipe(crashed.all)


def judge(name, vm, answer):
    own, _took = await_gone(vm.numbers["own"], 5)
    check(f"{name}: what is the user's own is gone", not own, describe(own))
    left = alive(vm.all)
    note(name, describe(left) + " " + answer[:300])
    for seen in left:
        family = [seen.pid, *ancestors(seen.pid)]
        named = any(f"pid: {pid}," in answer or f"{pid} (" in answer for pid in family)
        check(f"{name}: sleep {seen.number} of uid {seen.uid} is named", named, f"{describe([seen])} {answer[:600]}")
