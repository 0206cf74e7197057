//! The claims of another user's process about a run of ours.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows only #[test] functions as tests"
)]

mod common;

use common::*;
use leash_core::{Cleanup, CleanupKind, Host, Owner, Verdict, Workers};
use leash_tag::{ENV_NAME, Limits, Mark};
use std::process::Command;

const RIGHTS: [&str; 3] = ["--reuid=65534", "--regid=65534", "--clear-groups"];

/// Runs a test as root in a pid namespace of its own, where it can become another user.
fn as_root(name: &str, body: impl FnOnce()) {
    isolated(name, || {
        let can = Command::new("setpriv")
            .args(RIGHTS)
            .arg("true")
            .status()
            .is_ok_and(|it| it.success());
        if !can || !rustix::process::geteuid().is_root() {
            return println!("skipped: cannot become another user");
        }
        body();
    });
}

/// Starts a process of another user that names an owner of a run. Without any mark, the core
/// would not even read it.
fn stranger(tag: &str) -> Process {
    let run = leash_core::generate_run_id().unwrap();
    let mark = Mark::nested_in(Limits::UNLIMITED, run, None, false).unwrap();
    sleeper(under(mark, "setpriv").args(RIGHTS).arg("sleep").env(ENV_NAME, tag))
}

/// Returns the environment tag of a process of `run`, with the owner of another run.
fn tag(run: &Vm, owner: &Vm) -> String {
    owner.env(1).replace(&owner.run.to_string(), &run.run.to_string())
}

#[test]
fn a_stranger_does_not_keep_a_dead_run_alive() {
    as_root("a_stranger_does_not_keep_a_dead_run_alive", || {
        let dir = TestDir::new();
        let (dead, live) = (Vm::dead(&dir), Vm::start());
        let mut stranger = stranger(&tag(&dead, &live));
        let mut target = sleeper(&mut dead.marked(1, "sleep"));
        let report = sweep(&dir);
        assert!(!target.is_alive(), "{report:?}");
        assert!(stranger.is_alive());
        assert_eq!(found(&report, stranger.pid()).unwrap().verdict, Verdict::ForeignUser);
    });
}

#[test]
fn a_stranger_does_not_convict_a_live_run_that_lost_its_record() {
    as_root("a_stranger_does_not_convict_a_live_run_that_lost_its_record", || {
        let dir = TestDir::new();
        let (live, mut gone) = (Vm::start(), Vm::start());
        let mut kept = sleeper(&mut live.marked(1, "sleep"));
        let _stranger = stranger(&tag(&live, &gone));
        gone.process.die();
        let report = sweep(&dir);
        assert!(kept.is_alive(), "{report:?}");
        assert_eq!(found(&report, kept.pid()).unwrap().verdict, Verdict::UnknownOwner);
    });
}

#[test]
fn a_worker_that_changed_its_user_is_kept_as_the_only_witness_of_a_live_run() {
    as_root("a_worker_that_changed_its_user_is_kept_as_the_only_witness_of_a_live_run", || {
        let (dir, live) = (TestDir::new(), Vm::start());
        let mut worker = live.worker(1, "setpriv");
        let mut kept = sleeper(worker.args(RIGHTS).arg("sleep"));
        let report = sweep(&dir);
        assert!(kept.is_alive(), "{report:?}");
        assert_eq!(found(&report, kept.pid()).unwrap().verdict, Verdict::ForeignUser);
    });
}

#[test]
fn another_users_nested_vm_is_kept_by_its_own_user_and_nothing_of_ours_is() {
    as_root("another_users_nested_vm_is_kept_by_its_own_user_and_nothing_of_ours_is", || {
        let owner = Owner::current(&Host::current().unwrap()).unwrap();
        let (dir, vm) = (TestDir::new(), Vm { owner, ..Vm::start() });
        vm.record(&dir, "test");
        let mut worker = vm.worker(1, "setpriv");
        let mut nested = Vm::of(sleeper(worker.args(RIGHTS).arg("sleep")));
        let mut target = Vm::of(sleeper(&mut vm.worker(1, "sleep")));
        let _strangers = [stranger(&nested.env(1)), stranger(&target.env(1))];
        let workers = Workers::of(vm.run, [1].into());
        let report = Cleanup::new(spec(&dir.path, CleanupKind::Worker(workers))).unwrap().run();
        assert!(nested.process.is_alive(), "{report:?}");
        assert_eq!(found(&report, nested.process.pid()).unwrap().verdict, Verdict::LiveRunOwner);
        assert!(!target.process.is_alive(), "{report:?}");
    });
}
