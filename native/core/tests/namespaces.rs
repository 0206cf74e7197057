//! Time namespaces: the same process has the same start whoever reads it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "clippy knows only #[test] functions as tests")]

mod common;

use common::*;
use std::process::Command;

const PARENT: &str = "LEASH_CORE_TEST_PARENT";

#[test]
fn an_identity_means_the_same_in_another_time_namespace() {
    if let Ok(told) = std::env::var(PARENT) {
        let (pid, ticks) = told.split_once(':').unwrap();
        let pid = leash_core::Pid::parse(pid.as_bytes()).unwrap();
        let raw = std::fs::read(format!("/proc/{pid}/stat")).unwrap();
        let raw = leash_core::parse::stat::Stat::parse(&raw).unwrap().start_ticks;
        let identity = leash_core::identify(pid).unwrap();
        assert_eq!(identity.start_ticks.to_string(), ticks);
        assert_ne!(raw, identity.start_ticks, "the namespace has no offset");
        return;
    }
    let unshare = ["--time", "--fork", "--boottime", "100000"];
    if !Command::new("unshare").args(unshare).arg("true").status().is_ok_and(|status| status.success()) {
        return println!("skipped: no time namespace can be made here");
    }
    let target = sleeper(&mut Command::new("sleep"));
    let identity = target.identity();
    let status = Command::new("unshare")
        .args(unshare)
        .arg(std::env::current_exe().unwrap())
        .args(["an_identity_means_the_same_in_another_time_namespace", "--exact"])
        .env(PARENT, format!("{}:{}", identity.pid, identity.start_ticks))
        .status();
    assert!(status.is_ok_and(|status| status.success()));
}

#[test]
fn an_owner_that_proc_hides_is_unknown_and_its_run_is_kept() {
    let name = "an_owner_that_proc_hides_is_unknown_and_its_run_is_kept";
    isolated(name, || {
        if let Ok(tag) = std::env::var(PARENT) {
            let dir = TestDir::new();
            let mut worker = sleeper(Command::new("sleep").env(leash_tag::ENV_NAME, tag));
            let report = sweep(&dir);
            assert!(worker.is_alive());
            assert_eq!(report.incomplete_because, [leash_core::Incomplete::Hidepid]);
            assert_eq!(found(&report, worker.pid()).unwrap().verdict, leash_core::Verdict::UnknownOwner);
            return;
        }
        let drop_rights = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        let can = |command: &mut Command| command.status().is_ok_and(|status| status.success());
        if !can(Command::new("setpriv").args(drop_rights).arg("true"))
            || !can(Command::new("mount").args(["-o", "remount,hidepid=2", "/proc"]))
        {
            return println!("skipped: cannot hide processes here");
        }
        let vm = Vm::start();
        assert!(can(Command::new("setpriv")
            .args(drop_rights)
            .arg(std::env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture"])
            .env(PARENT, vm.env(1))));
    });
}
