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

/// The process with this command line, which no other test has.
fn running(command: &str) -> i32 {
    find(command, || pids().into_iter().find(|&pid| cmdline(pid).join(" ").trim_end() == command))
}

fn parent(pid: i32) -> i32 {
    ppid(pid).unwrap_or(0)
}

fn end(shim: &mut std::process::Child) -> Option<i32> {
    find("the shim's end", || shim.try_wait().unwrap()).code()
}

#[test]
fn an_inherited_child_is_neither_signalled_nor_waited_for() {
    for options in ["--stop=KILL:0", "--stop=KILL:0 --no-mark", "--stop=TERM:100@tree"] {
        let (_, mut shim) =
            exec_after("sleep 48.1", options, "sh -c 'trap \"\" TERM; sleep 49.1; sleep 49.1'");
        let kept = running("sleep 48.1");
        let worker = parent(running("sleep 49.1"));
        kill(i32::try_from(shim.id()).unwrap(), libc::SIGTERM);
        assert_eq!(end(&mut shim), Some(137), "{options}");
        assert!(!lives(worker));
        assert!(lives(kept), "{options}: it is not of the tree");
        kill(kept, libc::SIGKILL);
        until("it has ended", || !lives(kept));
    }
}

#[test]
fn what_an_inherited_child_leaves_is_not_ours_either() {
    let (_, mut shim) =
        exec_after("sh -c 'sleep 48.2 & sleep 0.3'", "--stop=KILL:0", "sleep 49.2");
    let worker = running("sleep 49.2");
    let kept = running("sleep 48.2");
    until("its parent has ended", || cmdline(parent(kept))[0] != "sh");
    kill(i32::try_from(shim.id()).unwrap(), libc::SIGTERM);
    assert_eq!(end(&mut shim), Some(137));
    assert!(!lives(worker) && lives(kept));
    kill(kept, libc::SIGKILL);
}

#[test]
fn the_worker_s_orphans_are_ours_beside_inherited_children() {
    let worker = "sh -c 'env -i setsid sleep 49.3 & sleep 49.3'";
    let (run, mut shim) = exec_after("sleep 48.3", "--stop=KILL:0", worker);
    let kept = running("sleep 48.3");
    until("the tree", || bearers(run).len() == 4);
    kill(i32::try_from(shim.id()).unwrap(), libc::SIGTERM);
    end(&mut shim);
    assert_eq!(bearers(run), []);
    assert!(lives(kept));
    kill(kept, libc::SIGKILL);
}

#[test]
fn an_inherited_child_that_ends_is_reaped() {
    let (_, mut shim) = exec_after("sleep 0.2", "", "sh -c 'sleep 0.6; exit 5'");
    let pid = running("sleep 0.2");
    until("it is reaped", || state(pid).is_none());
    assert_eq!(end(&mut shim), Some(5));
}

#[test]
fn the_shim_is_another_process_which_alone_looks_like_one() {
    let (run, mut shim) = exec_after("sleep 48.5", "--stop=KILL:0", "sleep 49.5");
    let kept = running("sleep 48.5");
    let inner = parent(running("sleep 49.5"));
    assert_eq!(parent(inner), i32::try_from(shim.id()).unwrap());
    assert!(cmdline(inner)[1].contains(&run.to_string()));
    until("the other has no arguments", || {
        cmdline(i32::try_from(shim.id()).unwrap()).iter().skip(1).all(String::is_empty)
    });
    kill(inner, libc::SIGTERM);
    assert_eq!(end(&mut shim), Some(137), "the status comes from the shim");
    kill(kept, libc::SIGKILL);
}

#[test]
fn a_signal_is_passed_on_to_the_worker() {
    let (_, mut shim) = exec_after(
        "sleep 48.6",
        "",
        "sh -c 'trap \"exit 7\" USR1; while :; do sleep 0.06; done'",
    );
    let kept = running("sleep 48.6");
    running("sleep 0.06");
    kill(i32::try_from(shim.id()).unwrap(), libc::SIGUSR1);
    assert_eq!(end(&mut shim), Some(7));
    kill(kept, libc::SIGKILL);
}

#[test]
fn the_tree_ends_if_the_parent_is_killed() {
    let (run, mut shim) = exec_after("sleep 48.7", "", "sh -c 'setsid sleep 49.7 & sleep 49.7'");
    let kept = running("sleep 48.7");
    until("the tree", || bearers(run).len() == 4);
    shim.kill().unwrap();
    shim.wait().unwrap();
    until("nothing is left", || bearers(run).is_empty());
    kill(kept, libc::SIGKILL);
}
