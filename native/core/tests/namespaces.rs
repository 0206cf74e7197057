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
