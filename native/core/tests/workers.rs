//! Cleanups for workers of the asking VM's own, live run, and for single processes.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows only #[test] functions as tests"
)]

mod common;

use common::*;
use leash_core::report::{Action, Reason, Refused};
use leash_core::{
    Cleanup, CleanupKind, Host, Incomplete, Ladder, Mode, Owner, Report, Signal, Verdict, Workers,
};
use leash_tag::{ENV_NAME, Limits, Mark, WorkerNumber};
use std::process::Command;

/// Returns a VM that is this process.
fn me() -> Vm {
    let owner = Owner::current(&Host::current().unwrap()).unwrap();
    Vm { owner, ..Vm::start() }
}

fn cleanup(dir: &TestDir, vm: &Vm, numbers: &[u16], outliving: bool) -> Report {
    let outliving =
        if outliving { numbers.iter().copied().collect() } else { Default::default() };
    let workers = Workers { outliving, ..Workers::of(vm.run, numbers.iter().copied().collect()) };
    Cleanup::new(spec(&dir.path, CleanupKind::Worker(workers))).unwrap().run()
}

#[test]
fn a_dead_shims_worker_ends_and_its_neighbours_live() {
    let (dir, vm, other) = (TestDir::new(), me(), Vm::start());
    let lost_soft = {
        let hard = Mark::nested_in(Limits::UNLIMITED, vm.run, None, false).unwrap().limits().hard;
        format!("--locks={hard}:{hard}")
    };
    let soft_lost = |env: Option<u16>| {
        let mut command = Command::new("prlimit");
        command.args([&lost_soft, "sleep"]).env_clear();
        if let Some(worker) = env {
            command.env(ENV_NAME, vm.env(worker));
        }
        sleeper(&mut command)
    };
    let mut targets = vec![
        sleeper(&mut vm.worker(1, "sleep")),
        sleeper(&mut vm.marked(1, "sleep")),
        sleeper(&mut vm.marked(32_766, "sleep")),
        start(vm.worker(1, "sh").args(["-c", "trap '' TERM; while :; do sleep 0.05; done"])),
        soft_lost(Some(1)),
    ];
    let mut kept = [
        sleeper(&mut vm.worker(2, "sleep")),
        sleeper(&mut vm.tagged(2, "sleep")),
        // A copy of the worker's environment, in a process that something else started.
        sleeper(&mut vm.tagged(1, "sleep")),
        soft_lost(Some(2)),
        soft_lost(None),
        // A run nested in the worker: its own mark is the inner one.
        sleeper(other.marked(1, "sleep").env(ENV_NAME, vm.env(1))),
        sleeper(&mut Command::new("sleep")),
        sleeper(Command::new("sleep").env(ENV_NAME, other.env(1))),
    ];
    let began = std::time::Instant::now();
    let report = cleanup(&dir, &vm, &[1, 32_766], false);
    println!("workers ended in {:?}, {} passes", began.elapsed(), report.passes);
    for target in &mut targets {
        assert!(!target.is_alive(), "{:?}", found(&report, target.pid()));
        assert_eq!(found(&report, target.pid()).unwrap().ended_by, Some("SIGKILL"));
    }
    assert!(kept.iter_mut().all(Process::is_alive), "{report:?}");
    assert_eq!(found(&report, kept[4].pid()).unwrap().verdict, Verdict::UnknownWorker);
    assert_eq!(found(&report, kept[2].pid()).unwrap().verdict, Verdict::EnvOnly);
    assert_eq!(found(&report, kept[0].pid()), None);
    assert!(report.survivors.is_empty() && report.complete);
}

#[test]
fn no_worker_needs_a_record_to_be_ended_and_no_run_is_dead_without_one() {
    isolated("no_worker_needs_a_record_to_be_ended_and_no_run_is_dead_without_one", || {
        let (dir, vm) = (TestDir::new(), me());
        let mut worker = sleeper(&mut vm.worker(1, "sleep"));
        let mut foreign = sleeper(vm.marked(1, "setpriv").args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "sleep",
        ]));
        let mut neighbour = sleeper(&mut vm.worker(2, "sleep"));
        let mut unmarked = sleeper(Command::new("setpriv").args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "sleep",
        ]));
        let mut other = Vm::start();
        let mut kept = sleeper(&mut other.worker(1, "sleep"));
        other.process.die();
        let unusable = |kind| {
            let spec = leash_core::CleanupSpec {
                run_dir: None,
                records_unusable: true,
                ..spec(&dir.path, kind)
            };
            Cleanup::new(spec).unwrap().run()
        };
        let report = unusable(CleanupKind::Worker(Workers::of(vm.run, [1].into())));
        assert!(report.complete && report.survivors.is_empty(), "{report:?}");
        assert!(!worker.is_alive() && !foreign.is_alive(), "{report:?}");
        assert!(neighbour.is_alive() && unmarked.is_alive());

        let sweep = || CleanupKind::Sweep { own_run: None, app: None, mode: Mode::End };
        let report = unusable(sweep());
        assert!(report.incomplete_because.contains(&Incomplete::Records), "{report:?}");
        assert_eq!(found(&report, kept.pid()).unwrap().verdict, Verdict::UnknownOwner);
        assert!(kept.is_alive(), "its record, and a lock on it, might be there");
        Cleanup::new(spec(&dir.path, sweep())).unwrap().run();
        assert!(!kept.is_alive() && neighbour.is_alive());
    });
}

#[test]
fn what_outlives_on_purpose_ends_only_when_asked() {
    let (dir, vm) = (TestDir::new(), me());
    let mark = Mark::nested_in(Limits::UNLIMITED, vm.run, WorkerNumber::new(1), true).unwrap();
    let mut kept = sleeper(&mut under(mark, "sleep"));
    assert_eq!(
        found(&cleanup(&dir, &vm, &[1], false), kept.pid()).unwrap().verdict,
        Verdict::Outlives
    );
    assert!(kept.is_alive());
    cleanup(&dir, &vm, &[1], true);
    assert!(!kept.is_alive());
}

#[test]
fn a_nested_live_vm_is_kept_and_its_neighbour_is_not() {
    let (dir, vm) = (TestDir::new(), me());
    let nested = Vm::of(sleeper(&mut vm.worker(1, "sleep")));
    nested.record(&dir, "nested");
    let mut target = sleeper(&mut vm.worker(1, "sleep"));
    let report = cleanup(&dir, &vm, &[1], false);
    let mut nested = nested;
    assert!(nested.process.is_alive() && !target.is_alive());
    assert_eq!(found(&report, nested.process.pid()).unwrap().verdict, Verdict::LiveRunOwner);
}

#[test]
fn workers_end_although_no_descriptor_is_left() {
    isolated("workers_end_although_no_descriptor_is_left", || {
        use rustix::process::{Resource, Rlimit, setrlimit};
        let (dir, vm) = (TestDir::new(), me());
        let mut targets: Vec<_> = (0..30).map(|_| sleeper(&mut vm.worker(1, "sleep"))).collect();
        leash_core::reserve_descriptors();
        let workers = Workers::of(vm.run, [1].into());
        let mut cleanup = Cleanup::new(spec(&dir.path, CleanupKind::Worker(workers))).unwrap();
        setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum: Some(64) }).unwrap();
        let mut all = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            all.push(file);
        }
        let report = cleanup.run();
        drop(all);
        assert!(targets.iter_mut().all(|target| !target.is_alive()), "{report:?}");
        assert!(report.survivors.is_empty(), "{:?}", report.survivors);
    });
}

#[test]
fn without_any_descriptor_nothing_is_claimed() {
    isolated("without_any_descriptor_nothing_is_claimed", || {
        use rustix::process::{Resource, Rlimit, setrlimit};
        let (dir, vm) = (TestDir::new(), me());
        let mut target = sleeper(&mut vm.worker(1, "sleep"));
        let workers = Workers::of(vm.run, [1].into());
        let spec = leash_core::CleanupSpec {
            deadline: ms(300),
            ..spec(&dir.path, CleanupKind::Worker(workers))
        };
        let mut cleanup = Cleanup::new(spec).unwrap();
        setrlimit(Resource::Nofile, Rlimit { current: Some(32), maximum: Some(32) }).unwrap();
        let mut all = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            all.push(file);
        }
        // The reserve was never filled.
        let report = cleanup.run();
        drop(all);
        assert!(!report.complete && target.is_alive(), "{report:?}");
    });
}

/// Returns a cleanup for one process, whatever its tags.
fn of_process(
    identity: leash_core::Identity,
    ladder: Ladder,
    deadline: u64,
) -> leash_core::CleanupSpec {
    let kind = CleanupKind::Process(identity);
    leash_core::CleanupSpec {
        kind,
        ladder,
        deadline: ms(deadline),
        run_dir: None,
        records_unusable: false,
    }
}

fn end(process: &Process, ladder: Ladder, deadline: u64) -> Report {
    Cleanup::new(of_process(process.identity(), ladder, deadline)).unwrap().run()
}

#[test]
fn a_process_ends_by_its_ladder() {
    let ladder = || {
        Ladder::new(vec![(Signal::from_name("INT").unwrap(), ms(100)), (Signal::TERM, ms(100))])
    };
    let script = |traps: &str| {
        let mut process = Command::new("sh");
        process.args(["-c", &format!("{traps}; echo; while :; do sleep 0.02; done")]);
        process.stdout(std::process::Stdio::piped());
        let mut process = start(&mut process);
        let mut byte = [0];
        std::io::Read::read_exact(process.0.stdout.as_mut().unwrap(), &mut byte).unwrap();
        process
    };
    for (traps, by) in
        [(":", "SIGINT"), ("trap '' INT", "SIGTERM"), ("trap '' INT TERM", "SIGKILL")]
    {
        let mut process = script(traps);
        let report = end(&process, ladder(), 3_000);
        assert_eq!(report.matches[0].ended_by, Some(by), "{traps}");
        assert_eq!(report.matches[0].action, Action::Ended);
        assert!(!process.is_alive() && report.survivors.is_empty());
    }
    // The process is stopped: CONT follows TERM.
    let process = sleeper(&mut Command::new("sleep"));
    leash_core::Handle::open(&process.identity())
        .unwrap()
        .signal(Signal::from_name("STOP").unwrap())
        .unwrap();
    assert_eq!(end(&process, Ladder::default(), 3_000).matches[0].ended_by, Some("SIGTERM"));
}

#[test]
fn a_process_that_ended_is_success_and_self_and_ancestors_are_refused() {
    let mut process = sleeper(&mut Command::new("sleep"));
    let identity = process.identity();
    process.die();
    let cleanup = |identity| {
        Cleanup::new(of_process(identity, Ladder::kill(), 1_000)).unwrap().run().refused
    };
    assert_eq!(cleanup(identity), Some(Refused::Gone));
    let me = leash_core::identify(leash_core::Pid::current()).unwrap();
    assert!(matches!(cleanup(me), Some(Refused::Process(_))));
}

#[test]
fn a_forbidden_signal_is_reported_and_not_waited_for() {
    isolated("a_forbidden_signal_is_reported_and_not_waited_for", || {
        let drop_rights = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        if !Command::new("setpriv")
            .args(drop_rights)
            .arg("true")
            .status()
            .is_ok_and(|status| status.success())
            && rustix::process::geteuid().is_root()
        {
            return println!("skipped: cannot become another user");
        }
        // The cleanup runs in a child that gave up its rights, so it may not signal root's process.
        if std::env::var_os("LEASH_CORE_TEST_TARGET").is_none() {
            let mut target = sleeper(&mut Command::new("sleep"));
            let status = Command::new("setpriv")
                .args(drop_rights)
                .arg(std::env::current_exe().unwrap())
                .args([
                    "a_forbidden_signal_is_reported_and_not_waited_for",
                    "--exact",
                    "--nocapture",
                ])
                .env("LEASH_CORE_TEST_TARGET", target.pid().to_string())
                .status();
            assert!(target.is_alive());
            return assert!(status.is_ok_and(|status| status.success()));
        }
        if !rustix::process::geteuid().is_root() {
            let pid = std::env::var("LEASH_CORE_TEST_TARGET").unwrap();
            let pid = leash_core::Pid::parse(pid.as_bytes()).unwrap();
            let kind = CleanupKind::Process(leash_core::identify(pid).unwrap());
            let spec = leash_core::CleanupSpec {
                kind,
                ladder: Ladder::kill(),
                deadline: ms(5_000),
                run_dir: None,
                records_unusable: false,
            };
            let began = std::time::Instant::now();
            let report = Cleanup::new(spec).unwrap().run();
            assert_eq!(report.survivors[0].reason, Reason::Eperm);
            assert!(began.elapsed() < ms(1_000));
        }
    });
}

#[test]
fn a_reused_number_is_another_process() {
    isolated("a_reused_number_is_another_process", || {
        let last = "/proc/sys/kernel/ns_last_pid";
        if std::fs::write(last, "300").is_err() {
            return println!("skipped: ns_last_pid cannot be written");
        }
        let (mut reused, mut same_tick) = (0, 0);
        for _ in 0..20 {
            let mut process = sleeper(&mut Command::new("sleep"));
            let (pid, identity) = (process.pid(), process.identity());
            process.die();
            std::fs::write(last, (pid.get() - 1).to_string()).unwrap();
            let mut innocent = sleeper(&mut Command::new("sleep"));
            if innocent.pid() != pid {
                continue;
            }
            reused += 1;
            same_tick += u32::from(innocent.identity().start_ticks == identity.start_ticks);
            if identity.pidfs_inode.is_none()
                && innocent.identity().start_ticks == identity.start_ticks
            {
                continue;
            }
            assert_eq!(
                Cleanup::new(of_process(identity, Ladder::kill(), 1_000)).unwrap().run().refused,
                Some(Refused::Reused)
            );
            assert!(innocent.is_alive());
        }
        println!("{reused} numbers reused, {same_tick} of them in the same tick");
        assert!(reused > 0);
    });
}

#[test]
fn an_owners_reused_number_makes_its_run_dead_and_not_its_holder() {
    isolated("an_owners_reused_number_makes_its_run_dead_and_not_its_holder", || {
        let last = "/proc/sys/kernel/ns_last_pid";
        let dir = TestDir::new();
        let mut vm = Vm::start();
        vm.record(&dir, "test");
        let mut target = sleeper(&mut vm.worker(1, "sleep"));
        std::thread::sleep(ms(50));
        vm.process.die();
        if std::fs::write(last, (vm.owner.pid - 1).to_string()).is_err() {
            return println!("skipped: ns_last_pid cannot be written");
        }
        let mut innocent = sleeper(&mut Command::new("sleep"));
        assert_eq!(innocent.pid().as_u32(), vm.owner.pid);
        let report = sweep(&dir);
        assert!(!target.is_alive() && innocent.is_alive(), "{report:?}");
    });
}
