//! The counts of a run's trees, on real processes.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows only #[test] functions as tests"
)]

mod common;

use common::*;
use leash_core::{Host, Pid, PidFd, ProcessUsage, Signal, UsageQuery, usage};
use leash_tag::{Limits, Mark, RunId, WorkerNumber};
use std::collections::HashMap;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

fn count(
    run: RunId,
    workers: &[u16],
    shims: &[(Pid, u16)],
    commands: usize,
) -> Vec<ProcessUsage> {
    let shims: HashMap<_, _> = shims.iter().copied().collect();
    let workers = workers.iter().copied().collect();
    usage(
        &Host::current().unwrap(),
        &UsageQuery { run, workers: &workers, shims: &shims, commands },
    )
    .unwrap()
}

fn of(members: &[ProcessUsage], pid: Pid) -> Option<&ProcessUsage> {
    members.iter().find(|member| member.pid == pid)
}

/// A child of another process, held before it can end, and killed with its handle.
struct Held {
    pid: Pid,
    pidfd: PidFd,
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.pidfd.signal(Signal::KILL);
    }
}

/// Returns the child that a shell started, once it runs.
fn child_of(parent: Pid, comm: &str) -> Held {
    let mut found = None;
    wait_until("a child", || {
        let children = Host::current().unwrap().children(parent).unwrap();
        found = children.into_iter().find_map(|pid| {
            let pidfd = PidFd::open(pid).ok()?;
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            (name.trim() == comm).then(|| Held { pid, pidfd })
        });
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn members_are_those_of_the_run_each_with_its_worker() {
    let (vm, other) = (Vm::start(), Vm::start());
    let one = sleeper(&mut vm.marked(1, "sleep"));
    let two = sleeper(&mut vm.worker(32_766, "sleep"));
    let not_ours = [
        sleeper(&mut other.marked(1, "sleep")),
        sleeper(&mut Command::new("sleep")),
        sleeper(&mut vm.tagged(1, "sleep")),
    ];
    let members = count(vm.run, &[1, 2, 32_766], &[], 10);
    assert_eq!(
        members.iter().map(|member| (member.worker, member.pid)).collect::<Vec<_>>(),
        [(1, one.pid()), (32_766, two.pid())]
    );
    let first = members.first().unwrap();
    assert_eq!(
        (first.command.as_str(), first.state, first.parent),
        ("sleep 60", 'S', Some(Pid::current()))
    );
    assert!(first.rss_bytes > 4096 && first.age_ms < 60_000, "{first:?}");
    assert_eq!(
        count(vm.run, &[1, 32_766], &[], 1).first().unwrap().command,
        "sleep",
        "more than asked for"
    );
    let of_one = count(vm.run, &[32_766], &[], 1);
    assert_eq!(of_one.iter().map(|member| member.pid).collect::<Vec<_>>(), [two.pid()]);
    assert_eq!(of_one.first().unwrap().command, "sleep 60", "of those who are asked for");
    drop(not_ours);
}

#[test]
fn a_nested_run_and_a_lost_number_belong_to_the_run_that_started_them() {
    let (vm, inner) = (Vm::start(), Vm::start());
    let ours = Mark::nested_in(Limits::UNLIMITED, vm.run, None, false).unwrap().limits();
    let nested = Mark::nested_in(ours, inner.run, WorkerNumber::new(7), false).unwrap().limits();
    let line = format!(
        "prlimit --locks={}:{} bash -c 'sleep 60; :' & prlimit --locks={}:{} sleep 61 & wait",
        nested.soft, nested.hard, ours.hard, ours.hard
    );
    let tree = start(vm.marked(3, "sh").args(["-c", &line]));
    let inner_shell = child_of(tree.pid(), "bash");
    let (inner_sleep, numberless) =
        (child_of(inner_shell.pid, "sleep"), child_of(tree.pid(), "sleep"));
    // A process with the same mark that is not below a process of this run belongs to another
    // run.
    let mark = Mark::nested_in(ours, inner.run, WorkerNumber::new(8), false).unwrap();
    let stranger = sleeper(&mut under(mark, "sleep"));
    let members = count(vm.run, &[3], &[], 10);
    for pid in [tree.pid(), inner_shell.pid, inner_sleep.pid, numberless.pid] {
        assert_eq!(
            of(&members, pid).map(|member| member.worker),
            Some(3),
            "{pid} in {members:?}"
        );
    }
    assert_eq!((members.len(), of(&members, stranger.pid())), (4, None));
}

#[test]
fn without_a_mark_only_the_descendants_of_the_shim_are_counted() {
    let (vm, other) = (Vm::start(), Vm::start());
    let shim_of = |run: RunId| {
        let mut command = Command::new(fake_shim());
        command.arg0("leash-shim").arg(format!("--run-id={run}")).arg("--worker=4");
        start(command.args(["--", "60000", "sh", "-c", "sleep 60 & wait"]))
    };
    let (shim, not_ours) = (shim_of(vm.run), shim_of(other.run));
    let _bystander = sleeper(&mut Command::new("sleep"));
    let tree = [shim.pid(), not_ours.pid()].map(|pid| {
        let shell = child_of(pid, "sh");
        let sleep = child_of(shell.pid, "sleep");
        (shell, sleep)
    });
    let members = count(vm.run, &[4], &[(shim.pid(), 4)], 10);
    let (shell, sleep) = &tree[0];
    let mut expected = [(4, shell.pid), (4, sleep.pid)];
    expected.sort_unstable();
    assert_eq!(
        members.iter().map(|member| (member.worker, member.pid)).collect::<Vec<_>>(),
        expected
    );
    // The number belongs to another process by now, as it can after the end of a shim.
    assert_eq!(count(vm.run, &[4], &[(not_ours.pid(), 4)], 10), []);
}

#[test]
fn what_was_taken_over_from_another_run_has_the_number_that_it_has_here() {
    let (vm, earlier) = (Vm::start(), Vm::start());
    let mark =
        Mark::nested_in(Limits::UNLIMITED, earlier.run, WorkerNumber::new(9), true).unwrap();
    let mut command = under(mark, "bash");
    let line = "exec -a leash-shim \"$0\" \"$@\" -- 60000 sh -c 'sleep 60 & wait'";
    // The symbolic link gives the program the right name in the kernel, too.
    let link = TestDir::new();
    let program = link.path.join("leash-shim");
    std::os::unix::fs::symlink(fake_shim(), &program).unwrap();
    command.arg("-c").arg(line).arg(&program);
    command.args([format!("--run-id={}", earlier.run), "--worker=9".into()]);
    let shim = start(&mut command);
    let shell = child_of(shim.pid(), "sh");
    let sleep = child_of(shell.pid, "sleep");
    let others = sleeper(&mut earlier.marked(8, "sleep"));
    let members = count(vm.run, &[4], &[(shim.pid(), 4)], 10);
    let mut expected = [(4, shell.pid), (4, sleep.pid)];
    expected.sort_unstable();
    assert_eq!(
        members.iter().map(|member| (member.worker, member.pid)).collect::<Vec<_>>(),
        expected
    );
    assert_eq!(of(&members, others.pid()), None);
    // The count for its own run, without the pid of the shim.
    let members = count(earlier.run, &[9], &[], 10);
    assert_eq!(
        members.iter().map(|member| member.pid).collect::<Vec<_>>(),
        expected.map(|(_, pid)| pid)
    );
}
