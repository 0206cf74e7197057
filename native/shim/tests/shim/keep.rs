//! The processes that go on after a command exited by itself, with `--on-exit=keep`.

use crate::harness::*;
use leash_tag::{Limits, Mark, RunId, WorkerNumber};

/// Returns the shim's end, with the processes that it left alive.
fn exited(tree: &mut Tree) -> Ended {
    use std::io::Read;
    let code = tree.child.wait().unwrap().code().unwrap_or(-1);
    let mut output = Vec::new();
    tree.stdout.take().unwrap().read_to_end(&mut output).unwrap();
    Ended { code, output }
}

fn mark(pid: i32) -> Option<Mark> {
    limits(pid).and_then(Mark::decode)
}

fn end(pids: Vec<i32>) {
    for pid in pids {
        kill(pid, libc::SIGKILL);
        until("it ends", || !lives(pid));
    }
}

#[test]
fn goes_on_under_a_mark_that_says_so() {
    let mut tree = Plan::vm()
        .option("--on-exit=keep")
        .sh("sleep 41 & setsid sh -c 'sleep 42 & sleep 43' & while ! pidof -q sleep; do :; done; exit 3");
    let ended = exited(&mut tree);
    let gone = ended.gone();
    assert_eq!((ended.code, gone.how, gone.status, gone.cause), (3, 1, 3, 6));
    let left = tree.grown(4);
    for &pid in &left {
        let mark = mark(pid).unwrap();
        assert!(mark.outlives(), "{:?}", cmdline(pid));
        assert_ne!(state(pid), Some('T'), "{:?}", cmdline(pid));
        assert_eq!((mark.run(), mark.worker().map(|worker| worker.get())), (tree.run, Some(1)));
    }
    end(left);
}

#[test]
fn is_marked_while_it_forks() {
    // Chains of processes, each of which starts the next and exits.
    let mut tree = Plan::vm()
        .option("--on-exit=keep")
        .sh("hop() { if [ $1 -gt 0 ]; then (hop $(($1 - 1))) & else exec sleep 44; fi; }
         for i in 1 2 3 4 5; do hop 400 & done; exit 0");
    assert_eq!(exited(&mut tree).gone().cause, 6);
    for _ in 0..20 {
        for pid in tree.members() {
            // The process may have ended between the two looks.
            assert!(mark(pid).is_none_or(Mark::outlives), "{:?}", cmdline(pid));
            assert_ne!(state(pid), Some('T'), "{:?}", cmdline(pid));
        }
    }
    let sleeps =
        |pids: &[i32]| pids.len() == 5 && pids.iter().all(|&pid| cmdline(pid)[0] == "sleep");
    end(find("the ends of the chains", || Some(tree.members()).filter(|pids| sleeps(pids))));
}

#[test]
fn may_wait_for_its_child_in_the_kernel() {
    let mut tree = Plan::vm().option("--on-exit=keep").adversary("vfork");
    assert_eq!(exited(&mut tree).gone().cause, 6);
    let last = tree.member("sleep 45");
    assert!(mark(last).unwrap().outlives());
    end(tree.members());
}

#[test]
fn is_not_let_go_while_a_thread_behind_a_dead_leader_forks() {
    let mut tree = Plan::vm().option("--on-exit=keep").adversary("leaderless");
    let cause = exited(&mut tree).gone().cause;
    // A fork that was under way may become visible now.
    for _ in 0..20 {
        for pid in tree.members() {
            assert!(
                mark(pid).is_none_or(Mark::outlives),
                "cause {cause}: {pid} {:?}",
                state(pid)
            );
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    // The whole group gets the signal at once. If they ended one by one, others would fork
    // meanwhile.
    let member = *tree.members().first().unwrap();
    // SAFETY: only numbers.
    unsafe {
        let group = libc::getpgid(member);
        assert!(group > 1 && group != libc::getpgrp());
        libc::killpg(group, libc::SIGKILL);
    }
    until("nothing of it is left", || tree.members().is_empty());
}

#[test]
fn is_nothing_where_no_process_is_left() {
    let mut tree = Plan::vm().option("--on-exit=keep").start(&["true"]);
    assert_eq!(tree.ended().gone().cause, 0);
}

#[test]
fn is_ended_when_the_command_did_not_exit_by_itself() {
    for act in [Tree::hang_up, |tree: &mut Tree| tree.signal(libc::SIGTERM)] {
        let mut tree = Plan::vm().option("--on-exit=keep").sh("setsid sleep 42 & sleep 43");
        tree.grown(3);
        act(&mut tree);
        let cause = tree.ended().gone().cause;
        assert!(matches!(cause, 1 | 3), "{cause}");
    }
}

#[test]
fn is_ended_where_it_cannot_be_marked() {
    let unmarked = Plan::vm().option("--on-exit=keep").option("--no-mark");
    // A command inside so many runs that its own mark is the last there is room for.
    let deep = Plan::vm().option("--on-exit=keep").before_exec(|| {
        let (run, worker) = (RunId::from_number(1).unwrap(), WorkerNumber::new(1));
        let mut inner = Limits::UNLIMITED;
        while let Ok(mark) = Mark::nested_in(inner, run, worker, false) {
            if mark.depth() == 0 {
                break;
            }
            inner = mark.limits();
        }
        let limits = libc::rlimit { rlim_cur: inner.soft, rlim_max: inner.hard };
        // SAFETY: the struct lives across the call.
        unsafe { libc::setrlimit(10, &raw const limits) };
    });
    for plan in [unmarked, deep] {
        let dir = Dir::new();
        let file = dir.path("pid");
        let mut tree = plan.sh(&format!("setsid sleep 42 & echo $! >{file}; exit 5"));
        let ended = tree.ended();
        assert_eq!((ended.code, ended.gone().cause), (5, 0));
        let pid = dir.read("pid").trim().parse().unwrap();
        assert!(!lives(pid));
    }
}
