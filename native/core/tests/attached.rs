//! Attached processes: another program started them, and they are older than the VM.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows only #[test] functions as tests"
)]

mod common;

use common::*;
use leash_core::{
    Cleanup, CleanupKind, Host, Owner, RecordedAttachment, RunDir, RunLock, Verdict, Why,
    Workers, not_covered,
};
use leash_tag::{Limits, Mark, WorkerNumber};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

const PRE: &str = "LEASH_TEST_OLDER";

fn attach(dir: &TestDir, vm: &Vm, worker: u16, process: &Process) {
    let identity = process.identity();
    let attachment = RecordedAttachment {
        worker,
        pid: identity.pid.as_u32(),
        start_ticks: identity.start_ticks,
    };
    let mut file =
        std::fs::OpenOptions::new().append(true).open(dir.record_path(vm.run)).unwrap();
    file.write_all(&attachment.line()).unwrap();
}

/// Marks a running process, as the shim does.
fn mark(process: &Process, vm: &Vm, worker: Option<u16>) {
    let number = worker.and_then(WorkerNumber::new);
    let Limits { soft, hard } =
        Mark::nested_in(Limits::UNLIMITED, vm.run, number, false).unwrap().limits();
    let locks = format!("--locks={soft}:{hard}");
    let status = Command::new("prlimit")
        .args(["--pid", &process.pid().to_string(), &locks])
        .status()
        .unwrap();
    assert!(status.success());
}

/// Waits until processes that start from now on are younger: a tick has 10 ms.
fn tick() {
    let began = sleeper(&mut Command::new("sleep")).identity().start_ticks;
    wait_until("the next tick", || {
        sleeper(&mut Command::new("sleep")).identity().start_ticks > began + 1
    });
}

#[test]
fn a_sweep_ends_what_is_older_than_its_owner_only_where_the_record_says_that_it_was_attached() {
    let dir = TestDir::new();
    let mut targets: Vec<_> = (0..2).map(|_| sleeper(&mut Command::new("sleep"))).collect();
    let mut kept: Vec<_> = (0..5).map(|_| sleeper(&mut Command::new("sleep"))).collect();
    tick();
    let (vm, other, lost) = (Vm::start(), Vm::start(), Vm::start());
    for vm in [&vm, &other] {
        vm.record(&dir, "test");
    }
    attach(&dir, &vm, 3, &targets[0]);
    // The target, and a process that stands for an older one below it.
    mark(&targets[0], &vm, Some(3));
    mark(&targets[1], &vm, Some(3));
    // A number without an attachment, no number, a run without attachments, and a run without a
    // record.
    mark(&kept[0], &vm, Some(4));
    mark(&kept[1], &vm, None);
    mark(&kept[2], &other, Some(3));
    mark(&kept[3], &lost, Some(3));
    let mut vms = [vm, other, lost];
    for vm in &mut vms {
        vm.process.die();
    }
    let report = sweep(&dir);
    for target in &mut targets {
        assert!(!target.is_alive(), "{:?}", found(&report, target.pid()));
        assert_eq!(found(&report, target.pid()).unwrap().ended_by, Some("SIGTERM"));
    }
    assert!(kept.iter_mut().all(Process::is_alive), "{report:?}");
    for kept in &kept[..3] {
        assert_eq!(found(&report, kept.pid()).unwrap().verdict, Verdict::PredatesOwner);
    }
    assert_eq!(found(&report, kept[3].pid()).unwrap().verdict, Verdict::UnknownOwner);
    assert_eq!(found(&report, kept[4].pid()), None);
}

#[test]
fn the_line_is_written_again_with_a_lost_record() {
    let dir = TestDir::new();
    let host = Host::current().unwrap();
    let lock = RunLock::create_any(&dir.open(), &host, &leash_core::About::default()).unwrap();
    let attachment = RecordedAttachment { worker: 3, pid: 4711, start_ticks: 5 };
    lock.append_attachment(&attachment).unwrap();
    let read = || {
        RunDir::open(&dir.path)
            .unwrap()
            .record(lock.run())
            .unwrap()
            .unwrap()
            .record
            .unwrap()
            .attachments
    };
    assert_eq!(read(), [attachment]);
    std::fs::remove_file(dir.record_path(lock.run())).unwrap();
    assert!(lock.ensure().unwrap());
    assert_eq!(read(), [attachment]);
}

/// Runs in a process of its own: what must be older than the VM must be older than this process.
#[test]
fn a_hunt_for_an_attached_worker_ends_what_is_older_than_the_vm_and_no_other() {
    let name = "a_hunt_for_an_attached_worker_ends_what_is_older_than_the_vm_and_no_other";
    let Ok(pids) = std::env::var(PRE) else {
        let mut older: Vec<_> = (0..3).map(|_| sleeper(&mut Command::new("sleep"))).collect();
        tick();
        let pids = older.iter().map(|it| it.pid().to_string()).collect::<Vec<_>>().join(" ");
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(PRE, pids)
            .status()
            .unwrap();
        assert!(status.success());
        let alive: Vec<_> = older.iter_mut().map(Process::is_alive).collect();
        assert_eq!(alive, [false, true, true]);
        return;
    };
    let dir = TestDir::new();
    let vm = Vm { owner: Owner::current(&Host::current().unwrap()).unwrap(), ..Vm::start() };
    let marked = |pid: &str, worker: u16| {
        let number = WorkerNumber::new(worker);
        let Limits { soft, hard } =
            Mark::nested_in(Limits::UNLIMITED, vm.run, number, false).unwrap().limits();
        let status = Command::new("prlimit")
            .args(["--pid", pid, &format!("--locks={soft}:{hard}")])
            .status()
            .unwrap();
        assert!(status.success());
    };
    for (pid, worker) in pids.split(' ').zip([1, 2]) {
        marked(pid, worker);
    }
    let workers = Workers { attached: [1].into(), ..Workers::of(vm.run, [1, 2].into()) };
    let report = Cleanup::new(spec(&dir.path, CleanupKind::Worker(workers))).unwrap().run();
    let other = pids.split(' ').nth(1).unwrap();
    let other = report.matches.iter().find(|found| found.pid.to_string() == other).unwrap();
    assert_eq!(other.verdict, Verdict::PredatesOwner);
    assert!(report.survivors.is_empty());
}

#[test]
fn a_process_that_escaped_before_is_named_by_session_and_group() {
    let vm = Vm::start();
    // Their parent is gone, and the session is the target's.
    let script = "sh -c 'sleep 58 & echo $!'; (setsid sleep 57 & echo $!) ; sleep 59 & echo $!; exec sleep 60";
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdout(std::process::Stdio::piped());
    // SAFETY: a single system call.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            Ok(())
        })
    };
    let mut target = Process(command.spawn().unwrap());
    let mut lines =
        std::io::BufRead::lines(std::io::BufReader::new(target.0.stdout.take().unwrap()));
    let mut pid = || lines.next().unwrap().unwrap().parse::<u32>().unwrap();
    let (escaped, left, child) = (pid(), pid(), pid());
    settle(target.pid());
    wait_until("it to be below nobody of the tree", || {
        let sleeps = |pid: &u32| {
            std::fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|comm| comm == "sleep\n")
        };
        [escaped, left, child].iter().all(sleeps)
    });
    mark(&target, &vm, Some(1));
    let report = not_covered(target.pid(), vm.run, 1).unwrap();
    let named: Vec<_> =
        report.iter().map(|it| (it.pid.as_u32(), it.command.as_str(), it.why)).collect();
    let mut expected =
        vec![(escaped, "sleep 58", Why::Escaped), (child, "sleep 59", Why::Unmarked)];
    expected.sort_unstable_by_key(|it| it.0);
    assert_eq!(named, expected, "a session of its own ({left}) is nobody's");
    for pid in [escaped, left, child] {
        let _ = Command::new("kill").arg(pid.to_string()).status();
    }
}
