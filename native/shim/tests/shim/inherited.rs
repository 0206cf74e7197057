//! Children that the shim had before it became the shim.

use crate::harness::*;

/// Starts `sh`, which starts a process in the background and becomes the shim.
fn exec_after(
    background: &str,
    options: &str,
    worker: &str,
) -> (leash_tag::RunId, std::process::Child) {
    let run = new_run();
    let script = format!(
        "{background} & exec {} --run-id={run} {options} -- {worker}",
        binary().to_str().unwrap()
    );
    let child = std::process::Command::new("sh").args(["-c", &script]).spawn().unwrap();
    (run, child)
}

fn child_of(parent: u32, command: &str) -> i32 {
    find(command, || {
        pids().into_iter().find(|&pid| {
            ppid(pid) == i32::try_from(parent).ok()
                && cmdline(pid).join(" ").trim_end() == command
        })
    })
}

#[test]
fn an_inherited_child_is_neither_signalled_nor_waited_for() {
    for options in ["--stop=KILL:0", "--stop=KILL:0 --no-mark", "--stop=TERM:100@tree"] {
        let (_, mut shim) =
            exec_after("sleep 48", options, "sh -c 'trap \"\" TERM; sleep 49; sleep 49'");
        let kept = child_of(shim.id(), "sleep 48");
        let worker = find("the worker", || {
            pids().into_iter().find(|&pid| {
                ppid(pid) == i32::try_from(shim.id()).ok() && cmdline(pid)[0] == "sh"
            })
        });
        child_of(u32::try_from(worker).unwrap(), "sleep 49");
        kill(i32::try_from(shim.id()).unwrap(), libc::SIGTERM);
        let status = find("the shim's end", || shim.try_wait().unwrap());
        assert_eq!(status.code(), Some(137), "{options}");
        assert!(!lives(worker));
        assert!(lives(kept), "{options}: it is not of the tree");
        kill(kept, libc::SIGKILL);
    }
}

#[test]
fn what_an_inherited_child_leaves_is_not_ours_either() {
    // The inherited shell ends, and its child comes to the shim, the subreaper.
    let (_, mut shim) = exec_after("sh -c 'sleep 48 & sleep 0.3'", "--stop=KILL:0", "sleep 49");
    let worker = child_of(shim.id(), "sleep 49");
    let kept = child_of(shim.id(), "sleep 48");
    kill(i32::try_from(shim.id()).unwrap(), libc::SIGTERM);
    let status = find("the shim's end", || shim.try_wait().unwrap());
    assert_eq!(status.code(), Some(137));
    assert!(!lives(worker) && lives(kept));
    kill(kept, libc::SIGKILL);
}

#[test]
fn the_worker_s_orphans_are_ours_beside_inherited_children() {
    let (run, mut shim) =
        exec_after("sleep 48", "--stop=KILL:0", "sh -c 'env -i setsid sleep 49 & sleep 49'");
    let kept = child_of(shim.id(), "sleep 48");
    until("the tree", || bearers(run).len() == 4);
    kill(i32::try_from(shim.id()).unwrap(), libc::SIGTERM);
    find("the shim's end", || shim.try_wait().unwrap());
    assert_eq!(bearers(run), []);
    assert!(lives(kept));
    kill(kept, libc::SIGKILL);
}

#[test]
fn an_inherited_child_that_ends_is_reaped() {
    let (_, mut shim) = exec_after("sleep 0.2", "", "sh -c 'sleep 0.6; exit 5'");
    let pid = child_of(shim.id(), "sleep 0.2");
    until("it is reaped", || state(pid).is_none());
    assert_eq!(find("the shim's end", || shim.try_wait().unwrap()).code(), Some(5));
}
