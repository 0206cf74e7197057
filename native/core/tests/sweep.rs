//! Sweeps of real processes: every process of a dead run ends, and no other process does.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows only #[test] functions as tests"
)]

mod common;

use common::*;
use leash_core::report::{Action, RecordPresence};
use leash_core::{Cleanup, CleanupKind, Mode, Record, Verdict};
use leash_tag::{ENV_NAME, Limits, Mark, WorkerNumber};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

#[test]
fn a_dead_runs_processes_end_whichever_carriers_they_have_left() {
    isolated("a_dead_runs_processes_end_whichever_carriers_they_have_left", || {
        let dir = TestDir::new();
        let vm = {
            let mut vm = Vm::start();
            vm.record(&dir, "test");
            std::fs::OpenOptions::new()
                .append(true)
                .open(dir.record_path(vm.run))
                .and_then(|mut file| file.write_all(&Record::unmarked_line(3)))
                .unwrap();
            vm.process.0.kill().unwrap();
            vm.process.0.wait().unwrap();
            vm
        };
        let mut targets = vec![
            sleeper(&mut vm.worker(1, "sleep")),
            sleeper(&mut vm.marked(2, "sleep")),
            start(vm.marked(4, "setsid").args(["sleep", "60"])),
            start(vm.worker(5, "sh").args(["-c", "trap '' TERM; while :; do sleep 0.05; done"])),
        ];
        let stopped = sleeper(&mut vm.worker(6, "sleep"));
        leash_core::Handle::open(&stopped.identity())
            .unwrap()
            .signal(leash_core::Signal::from_name("STOP").unwrap())
            .unwrap();
        targets.push(stopped);
        // Worker 3 has no mark, so the environment identifies its orphan. A daemon's job with a
        // copy of that environment is kept.
        let unmarked = orphan(&vm, 3);
        let mut strangers =
            [sleeper(&mut vm.tagged(3, "sleep")), sleeper(&mut vm.tagged(2, "sleep"))];
        let marked_ones_copy = orphan(&vm, 2);
        let report = sweep(&dir);
        assert_eq!(found(&report, unmarked).unwrap().action, Action::Ended);
        assert!(!is_running(unmarked.as_u32()) && is_running(marked_ones_copy.as_u32()));
        assert!(strangers.iter_mut().all(Process::is_alive));
        for stranger in [strangers[0].pid(), strangers[1].pid(), marked_ones_copy] {
            assert_eq!(found(&report, stranger).unwrap().verdict, Verdict::EnvOnly);
        }
        for target in &mut targets {
            let found = found(&report, target.pid()).unwrap();
            assert_eq!(
                (found.verdict, found.action),
                (Verdict::Dead, Action::Ended),
                "{found:?}"
            );
            assert!(!target.is_alive(), "{found:?}");
        }
        let stubborn = found(&report, targets[3].pid()).unwrap();
        assert_eq!((stubborn.ended_by, stubborn.worker), (Some("SIGKILL"), Some(5)));
        assert_eq!(
            found(&report, targets[4].pid()).unwrap().ended_by,
            Some("SIGTERM"),
            "CONT follows TERM"
        );
        assert!(
            report.survivors.is_empty() && report.complete && report.passes >= 2,
            "{report:?}"
        );
        assert_eq!(marked_and_running(vm.run), [] as [u32; 0]);
        // A process that may belong to the run still needs the record.
        assert!(report.records_dropped.is_empty() && dir.record_path(vm.run).exists());
        strangers.iter_mut().for_each(Process::die);
        leash_core::identify(marked_ones_copy)
            .and_then(|it| leash_core::Handle::open(&it)?.signal(leash_core::Signal::KILL))
            .unwrap();
        wait_until("its end", || !is_running(marked_ones_copy.as_u32()));
        assert_eq!(sweep(&dir).records_dropped, [vm.run.to_string()]);
        assert!(!dir.record_path(vm.run).exists());
    });
}

#[test]
fn the_socket_beside_a_record_goes_with_it_and_not_before() {
    isolated("the_socket_beside_a_record_goes_with_it_and_not_before", || {
        let dir = TestDir::new();
        let live = Vm::start();
        live.record(&dir, "test");
        let dead = Vm::dead(&dir);
        let _target = sleeper(&mut dead.worker(1, "sleep"));
        let socket = |run| dir.path.join(leash_core::socket_name(run));
        for run in [live.run, dead.run] {
            std::os::unix::net::UnixListener::bind(socket(run)).unwrap();
        }
        sweep_as(&dir, Mode::Report);
        assert!(socket(dead.run).exists());
        assert_eq!(sweep(&dir).records_dropped, [dead.run.to_string()]);
        assert!(!socket(dead.run).exists());
        assert!(socket(live.run).exists());
    });
}

#[test]
fn decoys_live() {
    isolated("decoys_live", || {
        let dir = TestDir::new();
        let dead = Vm::dead(&dir);
        let live = Vm::start();
        let id = dead.run.to_string();
        let waiting = "sleep 60 & wait";
        let mut decoys = vec![
            // An operator's grep, an editor, a script with the id in its arguments.
            start(Command::new("sh").args([
                "-c",
                waiting,
                "grep",
                "--",
                &format!("--run-id={id}"),
            ])),
            start(Command::new("sh").args([
                "-c",
                waiting,
                "leash-shim",
                &format!("--run-id={id}"),
            ])),
            // The same tag, with a living owner.
            sleeper(&mut live.worker(1, "sleep")),
            sleeper(&mut live.tagged(2, "sleep")),
            // A value that merely contains the tag, and another variable with the tag. Other
            // tests of the tag cover two variables of the same name.
            sleeper(Command::new("sleep").env(ENV_NAME, dead.env(1) + "0")),
            sleeper(Command::new("sleep").env(ENV_NAME, format!("x{}", dead.env(1)))),
            sleeper(Command::new("sleep").env("NOT_LEASH_RUN", dead.env(1))),
            // A run whose owner is unknown.
            {
                let unknown = Vm::start();
                sleeper(&mut unknown.marked(1, "sleep"))
            },
            // The mark says dead and the environment names a living owner, and the reverse.
            sleeper(dead.marked(1, "sleep").env(ENV_NAME, live.env(1))),
            sleeper(live.marked(1, "sleep").env(ENV_NAME, dead.env(1))),
            sleeper(&mut Command::new("sleep")),
        ];
        // argv[0] alone makes a process look like a shim, but argv never convicts.
        let mut false_shim = start(
            Command::new(fake_shim())
                .arg0("leash-shim")
                .arg(format!("--run-id={id}"))
                .args([&format!("--owner={}:{}", dead.owner.pid, dead.owner.start_ticks), "--"])
                .args(["20000", "sleep", "20"]),
        );
        let mut target = sleeper(&mut dead.worker(1, "sleep"));
        let report = sweep(&dir);
        assert!(!target.is_alive());
        for decoy in decoys.iter_mut().chain([&mut false_shim]) {
            assert!(decoy.is_alive(), "{:?}", found(&report, decoy.pid()));
        }
        let verdict =
            |index: usize| found(&report, decoys[index].pid()).map(|found| found.verdict);
        assert_eq!(verdict(0), None);
        assert_eq!((verdict(2), verdict(3)), (Some(Verdict::Live), Some(Verdict::Live)));
        assert_eq!(verdict(7), Some(Verdict::UnknownOwner));
        assert_eq!((verdict(8), verdict(9)), (Some(Verdict::Live), Some(Verdict::Live)));
        assert_eq!(
            found(&report, false_shim.pid()).map(|found| found.verdict),
            Some(Verdict::ArgvOnly)
        );
        assert!(report.records_dropped.is_empty(), "something still names the run");
    });
}

#[test]
fn a_report_explains_and_signals_nothing() {
    isolated("a_report_explains_and_signals_nothing", || {
        let dir = TestDir::new();
        let dead = Vm::dead(&dir);
        let mut target = sleeper(&mut dead.worker(7, "sleep"));
        let report = sweep_as(&dir, Mode::Report);
        let found = found(&report, target.pid()).unwrap();
        assert_eq!(
            (found.verdict, found.action, found.worker),
            (Verdict::Dead, Action::Kept, Some(7))
        );
        assert_eq!(found.carriers, ["mark", "env"]);
        assert!(target.is_alive() && report.passes == 1 && dir.record_path(dead.run).exists());
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["matches"][0]["verdict"], "dead");
        assert_eq!(json["runs"][0]["record"], "present");
        assert_eq!(json["runs"][0]["owners"][0]["state"], "gone");
    });
}

#[test]
fn a_live_vm_is_known_without_its_record_and_with_a_copied_one() {
    isolated("a_live_vm_is_known_without_its_record_and_with_a_copied_one", || {
        let dir = TestDir::new();
        let vm = Vm::start();
        let path = vm.record(&dir, "test");
        let mut by_env = sleeper(&mut vm.worker(1, "sleep"));
        let mut by_mark = sleeper(&mut vm.marked(1, "sleep"));
        std::fs::copy(&path, dir.path.join("copy")).unwrap();
        std::fs::rename(dir.path.join("copy"), &path).unwrap();
        sweep(&dir);
        assert!(by_env.is_alive() && by_mark.is_alive() && path.exists());
        std::fs::remove_file(&path).unwrap();
        let report = sweep(&dir);
        assert!(by_env.is_alive() && by_mark.is_alive());
        assert_eq!(report.runs[0].verdict, Verdict::Live);
        assert_eq!(report.runs[0].record, RecordPresence::Absent);
    });
}

#[test]
fn a_lock_that_a_forked_child_holds_does_not_keep_a_dead_run_alive() {
    isolated("a_lock_that_a_forked_child_holds_does_not_keep_a_dead_run_alive", || {
        let dir = TestDir::new();
        let mut vm = Vm::start();
        let path = vm.record(&dir, "test");
        let mut pid_status = start(Command::new("flock").arg(&path).args(["sleep", "60"]));
        wait_until("the lock", || {
            dir.open().record(vm.run).unwrap().unwrap().lock == leash_core::Lock::Held
        });
        let mut target = sleeper(&mut vm.marked(1, "sleep"));
        assert_eq!(sweep(&dir).runs[0].verdict, Verdict::Live);
        assert!(target.is_alive());
        vm.process.die();
        let report = sweep(&dir);
        assert_eq!(report.runs[0].verdict, Verdict::Dead);
        assert!(!target.is_alive() && pid_status.is_alive());
        assert_eq!(report.records_dropped.len(), 1);
    });
}

#[test]
fn a_dead_run_is_ended_by_its_id_and_a_live_one_is_refused() {
    isolated("a_dead_run_is_ended_by_its_id_and_a_live_one_is_refused", || {
        let dir = TestDir::new();
        let mut vm = Vm::start();
        let other = Vm::dead(&dir);
        let mut target = sleeper(&mut vm.worker(1, "sleep"));
        let mut others = sleeper(&mut other.worker(1, "sleep"));
        let cleanup = || {
            let kind = CleanupKind::Run { run: vm.run, own_run: None, outliving: false };
            Cleanup::new(spec(&dir.path, kind)).unwrap().run()
        };
        assert_eq!(cleanup().refused, Some(leash_core::report::Refused::Run(Verdict::Live)));
        assert!(target.is_alive());
        vm.process.0.kill().unwrap();
        vm.process.0.wait().unwrap();
        let report = cleanup();
        assert!(!target.is_alive() && others.is_alive());
        assert_eq!((report.refused, report.matches.len(), report.runs.len()), (None, 1, 1));
    });
}

#[test]
fn what_outlives_on_purpose_is_kept_with_its_record() {
    isolated("what_outlives_on_purpose_is_kept_with_its_record", || {
        let dir = TestDir::new();
        let vm = Vm::dead(&dir);
        let mark =
            Mark::nested_in(Limits::UNLIMITED, vm.run, WorkerNumber::new(1), true).unwrap();
        let mut kept = sleeper(&mut under(mark, "sleep"));
        let report = sweep(&dir);
        assert_eq!(found(&report, kept.pid()).unwrap().verdict, Verdict::Outlives);
        assert!(kept.is_alive() && dir.record_path(vm.run).exists());
    });
}

#[test]
fn a_live_run_nested_in_a_dead_one_is_kept_with_its_vm() {
    isolated("a_live_run_nested_in_a_dead_one_is_kept_with_its_vm", || {
        let dir = TestDir::new();
        let outer = Vm::dead(&dir);
        // The inner VM is a worker of the outer run, and has a child that carries the outer mark
        // only.
        let script = "sleep 60 & echo $! > $0; wait";
        let file = dir.path.join("child");
        let inner = start(outer.worker(1, "/bin/sh").args(["-c", script]).arg(&file));
        let mut inner = Vm::of(inner);
        inner.record(&dir, "inner");
        wait_until("its child", || {
            std::fs::read_to_string(&file).is_ok_and(|text| text.ends_with('\n'))
        });
        let child: u32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        let mut target = sleeper(&mut outer.marked(2, "sleep"));
        let report = sweep(&dir);
        assert!(
            inner.process.is_alive() && is_running(child) && !target.is_alive(),
            "{report:?}"
        );
        assert_eq!(found(&report, inner.process.pid()).unwrap().verdict, Verdict::LiveRunOwner);
        assert!(dir.record_path(outer.run).exists(), "something of it is left");
        inner.process.die();
        sweep(&dir);
        assert!(!is_running(child));
    });
}

#[test]
fn orphans_of_a_dead_run_inside_a_live_one_are_ended() {
    isolated("orphans_of_a_dead_run_inside_a_live_one_are_ended", || {
        let dir = TestDir::new();
        let inner = Vm::dead(&dir);
        let Limits { soft, hard } =
            Mark::nested_in(Limits::UNLIMITED, inner.run, WorkerNumber::new(1), false)
                .unwrap()
                .limits();
        let script =
            format!("prlimit --locks={soft}:{hard} sleep 60 & echo $! > $0; sleep 60; sleep 60");
        let file = dir.path.join("child");
        let outer = start(Command::new("sh").args(["-c", &script]).arg(&file));
        let mut outer = Vm::of(outer);
        outer.record(&dir, "outer");
        wait_until("its child", || {
            std::fs::read_to_string(&file).is_ok_and(|text| text.ends_with('\n'))
        });
        let child: u32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        // prlimit has done its work when it has become the program that it starts.
        let name = || std::fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
        wait_until("its mark", || name().trim() == "sleep");
        settle(leash_core::Pid::from_u32(child).unwrap());
        let report = sweep(&dir);
        assert!(!is_running(child), "{report:?}");
        assert!(outer.process.is_alive());
    });
}

#[test]
fn a_run_that_the_sweeping_process_belongs_to_is_kept() {
    let prefix = "export LEASH_RUN=abc1234.1.30000.0.$(readlink /proc/self/ns/pid | tr -dc 0-9).$(cut -c1-8 \
                  /proc/sys/kernel/random/boot_id); exec \"$@\"";
    isolated_by(
        "a_run_that_the_sweeping_process_belongs_to_is_kept",
        &["sh", "-c", prefix, "sh"],
        || {
            let dir = TestDir::new();
            let mut sibling = sleeper(Command::new("sleep").env("OTHER", "1"));
            let report = sweep(&dir);
            let found = found(&report, sibling.pid()).unwrap();
            assert_eq!(
                (found.verdict, found.run_id.as_deref()),
                (Verdict::OwnOuterRun, Some("abc1234"))
            );
            assert!(sibling.is_alive());
        },
    );
}

#[test]
fn another_users_process_needs_record_mark_and_age() {
    isolated("another_users_process_needs_record_mark_and_age", || {
        let dir = TestDir::new();
        let recorded = Vm::dead(&dir);
        let unrecorded = Vm::dead(&dir);
        std::fs::remove_file(dir.record_path(unrecorded.run)).unwrap();
        let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "sleep", "60"];
        if !Command::new("setpriv")
            .args(&nobody[..3])
            .arg("true")
            .status()
            .is_ok_and(|status| status.success())
        {
            return println!("skipped: cannot become another user");
        }
        // The shim of the run, which belongs to our user, names the owner. The marks of the
        // workers do not.
        let mut witness = sleeper(&mut unrecorded.worker(9, "sleep"));
        let mut with_record = start(recorded.marked(1, "setpriv").args(nobody));
        let mut env_only = start(recorded.tagged(2, "setpriv").args(nobody));
        let mut without_record = start(unrecorded.worker(3, "setpriv").args(nobody));
        let report = sweep(&dir);
        assert!(!with_record.is_alive() && !witness.is_alive(), "{report:?}");
        assert!(env_only.is_alive() && without_record.is_alive());
        assert_eq!(found(&report, without_record.pid()).unwrap().verdict, Verdict::ForeignUser);
    });
}

#[test]
fn a_process_older_than_its_runs_owner_is_kept() {
    isolated("a_process_older_than_its_runs_owner_is_kept", || {
        let dir = TestDir::new();
        let mut older = sleeper(&mut Command::new("sleep"));
        std::thread::sleep(ms(50));
        let mut vm = Vm::start();
        vm.record(&dir, "test");
        let Limits { soft, hard } =
            Mark::nested_in(Limits::UNLIMITED, vm.run, WorkerNumber::new(1), false)
                .unwrap()
                .limits();
        let pid = older.pid().to_string();
        let set = format!("--locks={soft}:{hard}");
        assert!(Command::new("prlimit").args(["--pid", &pid, &set]).status().unwrap().success());
        vm.process.die();
        let report = sweep(&dir);
        assert!(older.is_alive());
        assert_eq!(found(&report, older.pid()).unwrap().verdict, Verdict::PredatesOwner);
    });
}

#[test]
fn a_recorded_command_convicts_only_as_a_whole_and_in_its_time() {
    isolated("a_recorded_command_convicts_only_as_a_whole_and_in_its_time", || {
        let dir = TestDir::new();
        let vm = Vm::dead(&dir);
        let id = vm.run.to_string();
        let command = ["sh", "-c", "sleep 60 & wait", "worker", "--my-run-id", &id];
        let mut before = start(Command::new("sh").args(&command[1..]));
        std::thread::sleep(ms(50));
        let line = leash_core::RecordedCommand {
            worker: Some(3),
            flag: "--my-run-id".into(),
            command: command.iter().map(|arg| arg.as_bytes().to_vec()).collect(),
            at_ticks: Some(leash_core::Host::current().unwrap().clock().machine_now()),
        };
        let mut text = std::fs::read(dir.record_path(vm.run)).unwrap();
        text.extend(line.line());
        std::fs::write(dir.record_path(vm.run), text).unwrap();
        let mut worker = start(Command::new("sh").args(&command[1..]));
        let mut longer = start(Command::new("sh").args(&command[1..]).arg("-v"));
        let mut grep =
            start(Command::new("sh").args(["-c", "sleep 60 & wait", "grep", "--my-run-id", &id]));
        let report = sweep(&dir);
        assert!(!worker.is_alive(), "{report:?}");
        assert!(before.is_alive() && longer.is_alive() && grep.is_alive());
        assert_eq!(found(&report, before.pid()).unwrap().verdict, Verdict::ArgvOnly);
    });
}

#[test]
fn a_process_in_a_child_pid_namespace_is_a_target() {
    isolated("a_process_in_a_child_pid_namespace_is_a_target", || {
        let dir = TestDir::new();
        let vm = Vm::dead(&dir);
        let mut outer = start(vm.worker(1, "unshare").args(["--pid", "--fork", "sleep", "60"]));
        wait_until("both", || marked_and_running(vm.run).len() == 2);
        let report = sweep(&dir);
        assert!(!outer.is_alive() && report.survivors.is_empty());
        assert_eq!(marked_and_running(vm.run), [] as [u32; 0]);
    });
}

#[test]
fn a_leader_that_ended_before_its_threads_is_alive_and_is_ended() {
    isolated("a_leader_that_ended_before_its_threads_is_alive_and_is_ended", || {
        let dir = TestDir::new();
        let vm = Vm::dead(&dir);
        // exit(2) of the main thread alone; SYS_exit is 60 on x86-64 and 93 on aarch64.
        let number = if cfg!(target_arch = "x86_64") { 60 } else { 93 };
        let script = format!(
            "import ctypes,threading,time\n\
             threading.Thread(target=time.sleep,args=(30,)).start()\n\
             ctypes.CDLL(None).syscall({number},0)"
        );
        let mut leader = start(vm.marked(1, "/usr/bin/env").args([
            "PATH=/usr/bin:/bin",
            "python3",
            "-c",
            &script,
        ]));
        let pid = leader.pid();
        let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        wait_until("the zombie leader", || state().contains(") Z ") || !state().contains('('));
        assert!(leader.is_alive(), "python3 is needed here");
        let report = sweep(&dir);
        let found = found(&report, pid).unwrap();
        assert_eq!((found.state, found.action), ('Z', Action::Ended), "{report:?}");
        assert!(!leader.is_alive());
    });
}

#[test]
fn more_than_a_sweep_holds_descriptors_of_are_seen_to_end_within_their_grace() {
    isolated("more_than_a_sweep_holds_descriptors_of_are_seen_to_end_within_their_grace", || {
        let dir = TestDir::new();
        let vm = Vm::dead(&dir);
        let mut shell = start(
            vm.worker(1, "sh")
                .args(["-c", "for i in $(seq 300); do sleep 60 & done; trap '' TERM; wait"]),
        );
        wait_until("all to begin", || marked_and_running(vm.run).len() == 301);
        shell.die();
        let kind = CleanupKind::Sweep { own_run: None, app: None, mode: Mode::End };
        let ladder = leash_core::Ladder::new(vec![(leash_core::Signal::TERM, ms(6_000))]);
        let report = Cleanup::new(leash_core::CleanupSpec {
            ladder,
            deadline: ms(20_000),
            ..spec(&dir.path, kind)
        })
        .unwrap()
        .run();
        assert_eq!(marked_and_running(vm.run), [] as [u32; 0]);
        assert!(report.survivors.is_empty() && report.complete, "{:?}", report.survivors);
        let ended =
            report.matches.iter().filter(|found| found.ended_by == Some("SIGTERM")).count();
        assert_eq!(ended, 300);
        assert!(
            report.elapsed_ms < 5_000,
            "it waited for the next signal: {} ms",
            report.elapsed_ms
        );
    });
}

#[test]
fn two_sweeps_at_once_end_everything_and_report_no_survivor() {
    isolated("two_sweeps_at_once_end_everything_and_report_no_survivor", || {
        let dir = TestDir::new();
        let vm = Vm::dead(&dir);
        let mut targets: Vec<_> =
            (1..=20).map(|worker| sleeper(&mut vm.worker(worker, "sleep"))).collect();
        let reports: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..2).map(|_| scope.spawn(|| sweep(&dir))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(targets.iter_mut().all(|target| !target.is_alive()));
        assert!(reports.iter().all(|report| report.survivors.is_empty()), "{reports:?}");
    });
}

#[test]
fn a_living_shim_of_a_dead_run_ends_its_own_tree() {
    isolated("a_living_shim_of_a_dead_run_ends_its_own_tree", || {
        let dir = TestDir::new();
        let vm = Vm::dead(&dir);
        let shim = |worker: u16, wait: &str| {
            let program = fake_shim();
            let id = format!("--run-id={}", vm.run);
            let Limits { soft, hard } =
                Mark::nested_in(Limits::UNLIMITED, vm.run, WorkerNumber::new(worker), false)
                    .unwrap()
                    .limits();
            // The program must be called leash-shim. Behind prlimit, only a shell's `exec -a` can
            // do that.
            let script = format!(
                "exec -a leash-shim {} {id} --worker={worker} --stop=TERM:300@group --linger=10 -- {wait} sleep 50",
                program.display()
            );
            let mut command = Command::new("prlimit");
            command.arg(format!("--locks={soft}:{hard}")).args(["bash", "-c", &script]);
            command.env(ENV_NAME, vm.env(worker));
            start(&mut command)
        };
        let mut good = shim(1, "300");
        let mut stuck = shim(2, "40000");
        wait_until("shims and workers", || marked_and_running(vm.run).len() == 4);
        let began = std::time::Instant::now();
        let report = sweep(&dir);
        let took = began.elapsed();
        assert!(!good.is_alive() && !stuck.is_alive(), "{report:?}");
        assert_eq!(marked_and_running(vm.run), [] as [u32; 0]);
        assert_eq!(found(&report, good.pid()).unwrap().ended_by, Some("shim"), "{report:?}");
        // 300 ms ladder + 10 ms linger + 1 s, then QUIT.
        assert_eq!(found(&report, stuck.pid()).unwrap().ended_by, Some("SIGQUIT"), "{report:?}");
        assert!(took >= ms(1_300) && took < ms(4_000), "{took:?}");
        assert!(report.survivors.is_empty());
    });
}

#[test]
fn a_tree_that_keeps_forking_is_ended() {
    isolated("a_tree_that_keeps_forking_is_ended", || {
        let dir = TestDir::new();
        let vm = Vm::dead(&dir);
        // 32 chains: each process forks a child and exits, without a pause, for at most forty
        // seconds. On two cores they leave other processes some milliseconds of processor time in
        // a second. A sweep that takes one second here took more than nine on a busier machine.
        // The test only requires that the sweep ends.
        let script = "import os,time\n\
                      end=time.time()+40\n\
                      for _ in range(31):\n\
                      \x20 if os.fork()==0: break\n\
                      while time.time()<end:\n\
                      \x20 if os.fork(): os._exit(0)\n";
        let started = std::time::Instant::now();
        let mut command = vm.marked(1, "/usr/bin/env");
        command.args(["PATH=/usr/bin:/bin", "python3", "-c", script]).stdout(Stdio::piped());
        let mut first = start(&mut command);
        std::thread::sleep(ms(500));
        let began = std::time::Instant::now();
        let kind = CleanupKind::Sweep { own_run: None, app: None, mode: Mode::End };
        let spec = leash_core::CleanupSpec { deadline: ms(30_000), ..spec(&dir.path, kind) };
        let report = Cleanup::new(spec).unwrap().run();
        let took = began.elapsed();
        println!(
            "forking tree: {took:?}, {} passes, {} processes",
            report.passes,
            report.matches.len()
        );
        // Every process of the tree holds the other end of the pipe. The end of file comes when
        // all of them have ended.
        std::io::Read::read_to_end(first.0.stdout.as_mut().unwrap(), &mut Vec::new()).unwrap();
        assert!(started.elapsed() < ms(39_000), "it ended by itself");
        assert_eq!(marked_and_running(vm.run), [] as [u32; 0], "{:?}", report.survivors);
        assert!(report.survivors.is_empty() && took < ms(35_000), "{took:?}");
    });
}
