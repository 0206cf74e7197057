//! Under `hidepid`: processes of this very user that `/proc` hides.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows only #[test] functions as tests"
)]

mod common;

use common::*;
use leash_core::report::Action;
use leash_core::{
    Cleanup, CleanupKind, CleanupSpec, Host, Incomplete, Mode, Owner, Report, Verdict, Workers,
};
use leash_tag::{Limits, Mark, RunId, WorkerNumber};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = "LEASH_CORE_TEST_PROGRAM";
const RIGHTS: [&str; 3] = ["--reuid=65534", "--regid=65534", "--clear-groups"];

/// Runs the rest of a test as an ordinary user with a `/proc` that hides, once for each set of
/// options, first with control groups and then without.
fn hiding(name: &str, options: &[&[&str]], body: impl FnOnce()) {
    isolated(name, || {
        if std::env::var_os(PROGRAM).is_some() {
            return body();
        }
        let can = |command: &mut Command| command.status().is_ok_and(|status| status.success());
        if !can(Command::new("setpriv").args(RIGHTS).arg("true"))
            || !can(Command::new("mount").args(["-o", "remount,hidepid=2", "/proc"]))
        {
            return println!("skipped: cannot hide processes here");
        }
        // A program that its user may not read is not dumpable (prctl(2), PR_SET_DUMPABLE).
        // Therefore `/proc` does not show it.
        let dir = TestDir::new();
        let mode = |path: &PathBuf, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let program = dir.path.join("unread");
        std::fs::copy("/bin/sleep", &program).unwrap();
        mode(&program, 0o711);
        mode(&dir.path, 0o711);
        let run = |options: &[&str]| {
            let mut command = Command::new("setpriv");
            command.args(RIGHTS).args(options).arg(std::env::current_exe().unwrap());
            command.args([name, "--exact", "--nocapture"]).env(PROGRAM, &program);
            command.env("TMPDIR", "/tmp");
            assert!(can(&mut command), "{options:?}");
        };
        options.iter().for_each(|options| run(options));
        // Without control groups, every number is tried.
        assert!(can(Command::new("mount").args(["-t", "tmpfs", "none", "/sys/fs/cgroup"])));
        options.iter().for_each(|options| run(options));
    });
}

/// Starts a process that `/proc` hides.
fn hidden(mark: Option<Mark>) -> Process {
    let program = std::env::var(PROGRAM).unwrap();
    let mut command = match mark {
        Some(mark) => under(mark, &program),
        None => Command::new(&program),
    };
    let process = Process(command.arg("60").stdin(Stdio::null()).spawn().unwrap());
    let path = format!("/proc/{}", process.0.id());
    wait_until("it is hidden", || std::fs::metadata(&path).is_err());
    process
}

fn mark(run: RunId, worker: u16) -> Mark {
    Mark::nested_in(Limits::UNLIMITED, run, WorkerNumber::new(worker), false).unwrap()
}

fn cleanup(dir: &TestDir, kind: CleanupKind, deadline: Duration) -> Report {
    Cleanup::new(CleanupSpec { deadline, ..spec(&dir.path, kind) }).unwrap().run()
}

fn keeps_ids() -> bool {
    std::fs::read_to_string("/proc/self/status").unwrap().contains("NoNewPrivs:\t1")
}

#[test]
fn what_is_hidden_of_a_worker_ends_and_hidden_neighbours_live() {
    let name = "what_is_hidden_of_a_worker_ends_and_hidden_neighbours_live";
    hiding(name, &[&[], &["--no-new-privs"]], || {
        let owner = Owner::current(&Host::current().unwrap()).unwrap();
        let (dir, vm) = (TestDir::new(), Vm { owner, ..Vm::start() });
        let mut targets = [hidden(Some(mark(vm.run, 1))), sleeper(&mut vm.worker(1, "sleep"))];
        let mut kept = [
            hidden(Some(mark(vm.run, 2))),
            hidden(Some(mark(leash_core::generate_run_id().unwrap(), 1))),
            hidden(None),
            sleeper(&mut vm.worker(2, "sleep")),
        ];
        let workers = || CleanupKind::Worker(Workers::of(vm.run, [1].into()));
        let report = cleanup(&dir, workers(), ms(60_000));
        for target in &mut targets {
            assert!(!target.is_alive(), "{report:?}");
            assert_eq!(found(&report, target.pid()).unwrap().ended_by, Some("SIGKILL"));
        }
        assert!(kept.iter_mut().all(Process::is_alive), "{report:?}");
        assert_eq!(found(&report, targets[0].pid()).unwrap().start_ticks, None);
        // A process of another user is in this namespace. Without no_new_privs a process of ours
        // can change its user, so nothing proves that this one is not ours.
        let missed: &[Incomplete] = if keeps_ids() { &[] } else { &[Incomplete::Hidepid] };
        assert_eq!(
            (report.incomplete_because.as_slice(), report.complete),
            (missed, missed.is_empty())
        );
        assert!(report.survivors.is_empty());
        // If the time does not suffice, the report claims nothing.
        let mut target = hidden(Some(mark(vm.run, 1)));
        let report = cleanup(&dir, workers(), ms(0));
        assert!(!report.complete || !target.is_alive(), "{report:?}");
    });
}

#[test]
fn what_is_hidden_of_a_dead_run_ends_and_then_its_record_goes() {
    hiding("what_is_hidden_of_a_dead_run_ends_and_then_its_record_goes", &[&[]], || {
        let dir = TestDir::new();
        let (dead, live) = (Vm::dead(&dir), Vm::start());
        live.record(&dir, "test");
        let mut target = hidden(Some(mark(dead.run, 1)));
        let mut kept = [hidden(Some(mark(live.run, 1))), hidden(None)];
        let sweep = |mode| CleanupKind::Sweep { own_run: None, app: None, mode };
        let report = cleanup(&dir, sweep(Mode::Report), ms(60_000));
        assert_eq!(found(&report, target.pid()).unwrap().verdict, Verdict::Dead);
        assert!(target.is_alive());
        let report = cleanup(&dir, sweep(Mode::End), ms(60_000));
        assert!(!target.is_alive(), "{report:?}");
        assert_eq!(found(&report, target.pid()).unwrap().action, Action::Ended);
        assert_eq!(report.records_dropped, [dead.run.to_string()]);
        assert!(kept.iter_mut().all(Process::is_alive), "{report:?}");
        assert!(dir.record_path(live.run).exists());
    });
}

#[test]
fn many_old_records_cost_one_pass_over_the_numbers_and_no_more_than_the_deadline() {
    let name = "many_old_records_cost_one_pass_over_the_numbers_and_no_more_than_the_deadline";
    hiding(name, &[&[]], || {
        let dir = TestDir::new();
        let records: Vec<_> = (0..20).map(|_| Vm::dead(&dir).run).collect();
        let sweep = || CleanupKind::Sweep { own_run: None, app: None, mode: Mode::End };
        let began = Instant::now();
        let report = cleanup(&dir, sweep(), ms(100));
        println!("with 100 ms: {:?}, {:?}", began.elapsed(), report.incomplete_because);
        // The bound is far more than one pass takes, and far less than a pass for each record.
        assert!(began.elapsed() < ms(5_000));
        let cut = report.incomplete_because.contains(&Incomplete::Fleeting);
        assert_eq!(report.records_dropped.len(), if cut { 0 } else { records.len() });
        let began = Instant::now();
        let report = cleanup(&dir, sweep(), ms(60_000));
        println!("with time: {:?}, {} passes", began.elapsed(), report.passes);
        assert!(records.iter().all(|run| !dir.record_path(*run).exists()), "{report:?}");
        // Records of other applications are no reason to try any number.
        let other = Vm::dead(&dir);
        let kind =
            CleanupKind::Sweep { own_run: None, app: Some("other".into()), mode: Mode::End };
        let report = cleanup(&dir, kind, ms(100));
        assert_eq!(report.incomplete_because, [Incomplete::Hidepid]);
        assert!(dir.record_path(other.run).exists());
    });
}
