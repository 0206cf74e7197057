//! Time namespaces: a process has the same start, whichever process reads it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows only #[test] functions as tests"
)]

mod common;

use common::*;
use leash_core::Pid;
use leash_tag::{Limits, Mark, WorkerNumber};
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
    if !Command::new("unshare")
        .args(unshare)
        .arg("true")
        .status()
        .is_ok_and(|status| status.success())
    {
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
fn a_shim_in_another_time_namespace_names_its_owner_by_its_own_clock() {
    const AHEAD: u64 = 100_000;
    isolated("a_shim_in_another_time_namespace_names_its_owner_by_its_own_clock", || {
        let ahead = AHEAD.to_string();
        let unshare = ["--time", "--fork", "--kill-child", "--boottime", &ahead];
        if !Command::new("unshare")
            .args(unshare)
            .arg("true")
            .status()
            .is_ok_and(|status| status.success())
        {
            return println!("skipped: no time namespace can be made here");
        }
        let ticks = leash_core::Host::current().unwrap().clock().ticks(AHEAD);
        let start_shim = |vm: &Vm, children: Option<u64>| {
            let Limits { soft, hard } =
                Mark::nested_in(Limits::UNLIMITED, vm.run, WorkerNumber::new(1), false)
                    .unwrap()
                    .limits();
            let script = format!(
                "exec -a leash-shim {} --run-id={} --worker=1 --owner={}:{} --stop= --linger=0 -- 40000 sleep 50",
                fake_shim().display(),
                vm.run,
                vm.owner.pid,
                vm.owner.start_ticks + ticks
            );
            let mut command = Command::new("unshare");
            command.args(unshare).args([
                "prlimit",
                &format!("--locks={soft}:{hard}"),
                "bash",
                "-c",
                &script,
            ]);
            command.envs(children.map(|seconds| ("CHILDREN_BOOTTIME", seconds.to_string())));
            let unshare = start(&mut command);
            // Two processes: the shim and its program.
            wait_until("the shim and its program", || marked_and_running(vm.run).len() == 2);
            unshare
        };
        let dir = TestDir::new();
        let (mut dead, live, ambiguous) = (Vm::start(), Vm::start(), Vm::start());
        let _shims = [
            start_shim(&dead, None),
            start_shim(&live, None),
            start_shim(&ambiguous, Some(2 * AHEAD)),
        ];
        // There is no record and no environment, so only the shim's arguments name an owner.
        dead.process.die();
        let report = sweep(&dir);
        assert_eq!(marked_and_running(dead.run), [] as [u32; 0], "{report:?}");
        let verdicts = |vm: &Vm| {
            let pids = marked_and_running(vm.run);
            pids.iter()
                .map(|&pid| found(&report, Pid::from_u32(pid).unwrap()).unwrap().verdict)
                .collect::<Vec<_>>()
        };
        assert_eq!(verdicts(&live), [leash_core::Verdict::Live; 2]);
        // The file with the shim's offsets describes a namespace for its children, not its own.
        // If these offsets counted as its own, the living owner would look dead.
        assert_eq!(verdicts(&ambiguous), [leash_core::Verdict::UnknownOwner; 2]);
    });
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
            assert_eq!(
                found(&report, worker.pid()).unwrap().verdict,
                leash_core::Verdict::UnknownOwner
            );
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
