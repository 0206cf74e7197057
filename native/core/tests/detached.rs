//! Trees that outlive their VM on purpose: they are found by their shims and ended by exactly
//! their marks.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows only #[test] functions as tests"
)]

mod common;

use common::*;
use leash_core::{
    Adopted, Cleanup, CleanupKind, Detached, ErrorKind, Identity, OwnerState, Report, Verdict,
    Workers, detached, open_detached,
};
use leash_tag::{Limits, Mark, WorkerNumber};
use std::process::Command;

fn mark(vm: &Vm, worker: u16, outlives: bool) -> Mark {
    Mark::nested_in(Limits::UNLIMITED, vm.run, WorkerNumber::new(worker), outlives).unwrap()
}

/// Returns the path of the stand-in, under the name of the real shim.
fn program(dir: &TestDir) -> String {
    let path = dir.path.join("leash-shim");
    if !path.exists() {
        std::fs::copy(fake_shim(), &path).unwrap();
    }
    path.display().to_string()
}

fn shim(program: &str, mark: Mark, args: &[&str]) -> Process {
    let Limits { soft, hard } = mark.limits();
    let mut command = Command::new("env");
    // If a shell starts the tests in its background, they ignore INT. A real shim does not
    // inherit that.
    command.args(["--default-signal=INT", "prlimit", &format!("--locks={soft}:{hard}")]);
    // The process is called leash-shim, whatever the name of the program file is.
    command.args(["bash", "-c", "exec -a leash-shim \"$0\" \"$@\"", program]);
    command.args(args).args(["--", "40000", "sleep", "50"]);
    let process = Process(command.stdin(std::process::Stdio::null()).spawn().unwrap());
    wait_until("the stand-in", || {
        std::fs::read(format!("/proc/{}/cmdline", process.pid()))
            .is_ok_and(|line| line.starts_with(b"leash-shim"))
            && std::fs::read_link(format!("/proc/{}/exe", process.pid()))
                .is_ok_and(|path| path.ends_with(program))
    });
    process
}

fn found_by(pid: leash_core::Pid) -> Option<Detached> {
    detached().unwrap().trees.into_iter().find(|tree| tree.shim.pid == pid)
}

#[test]
fn a_shim_is_found_by_all_it_says_and_by_nothing_less() {
    isolated("a_shim_is_found_by_all_it_says_and_by_nothing_less", || {
        let (dir, vm) = (TestDir::new(), Vm::start());
        let program = program(&dir);
        let run = format!("--run-id={}", vm.run);
        let owner = format!("--owner={}:{}", vm.owner.pid, vm.owner.start_ticks);
        let all = [
            &run,
            "--worker=3",
            "--name=MyApp.A b",
            "--on-hangup=detach",
            &owner,
            "--stop=TERM:300,INT:200",
        ];
        let tree = shim(&program, mark(&vm, 3, true), &all);
        wait_until("its worker", || marked_and_running(vm.run).len() == 2);

        let process = found_by(tree.pid()).unwrap();
        let leader = process.leader.unwrap();
        assert!(marked_and_running(vm.run).contains(&leader.as_u32()) && leader != tree.pid());
        assert_eq!(
            (&process.name[..], process.run, process.worker.get(), process.depth),
            (&b"MyApp.A b"[..], vm.run, 3, 7)
        );
        assert_eq!(process.patience, Some(ms(700)), "300 + 200 and the linger");
        assert_eq!(process.command, [b"40000".to_vec(), b"sleep".to_vec(), b"50".to_vec()]);
        assert_eq!(
            (process.owner.map(leash_core::Pid::as_u32), process.owner_state),
            (Some(vm.owner.pid), OwnerState::Alive)
        );

        let pidfd = open_detached(&process.shim, vm.run, process.worker).unwrap();
        assert!(!pidfd.is_ended());
        let other = WorkerNumber::new(4).unwrap();
        let before = Identity { start_ticks: process.shim.start_ticks - 1, ..process.shim };
        for (identity, worker) in [(process.shim, other), (before, process.worker)] {
            let error = open_detached(&identity, vm.run, worker).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Reused);
        }

        // In each of these, one property is missing or wrong.
        let others = [
            shim(&program, mark(&vm, 4, true), &all),
            shim(&program, mark(&vm, 3, false), &all),
            shim(&program, mark(&Vm::start(), 3, true), &all),
            shim(&program, mark(&vm, 3, true), &[&run, "--worker=3", "--name=A"]),
            shim(
                &program,
                mark(&vm, 3, true),
                &[&run, "--worker=3", "--name=A", "--on-hangup=stop"],
            ),
            shim(
                &program,
                mark(&vm, 3, true),
                &[&run, "--worker=3", "--on-hangup=detach", "--name=A"],
            ),
            shim(
                &program,
                mark(&vm, 3, true),
                &[&run, "--name=A", "--worker=3", "--on-hangup=detach"],
            ),
            // The name of the program alone does not make a shim.
            shim(&fake_shim().display().to_string(), mark(&vm, 3, true), &all),
            sleeper(Command::new(&program).args(all).args(["--", "40000", "sleep"])),
        ];
        for other in &others {
            let identity = other.identity();
            assert_eq!(found_by(other.pid()), None);
            assert_eq!(
                open_detached(&identity, vm.run, process.worker).unwrap_err().kind(),
                ErrorKind::Reused
            );
        }
        assert!(detached().unwrap().complete);
        for process in others {
            drop(process);
        }

        // A newer release has replaced the program meanwhile.
        std::fs::remove_file(&program).unwrap();
        assert!(found_by(tree.pid()).is_some());
        drop(vm);
        assert_eq!(found_by(tree.pid()).unwrap().owner_state, OwnerState::Gone);
        drop(tree);
        let error = open_detached(&process.shim, process.run, process.worker).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Gone);
        assert!(pidfd.is_ended());
    });
}

fn cleanup(dir: &TestDir, workers: Workers) -> Report {
    Cleanup::new(spec(&dir.path, CleanupKind::Worker(workers))).unwrap().run()
}

#[test]
fn an_adopted_tree_ends_by_exactly_its_mark() {
    isolated("an_adopted_tree_ends_by_exactly_its_mark", || {
        let (dir, vm) = (TestDir::new(), Vm::dead(&TestDir::new()));
        let older = sleeper(&mut under(mark(&vm, 1, true), "sleep"));
        std::thread::sleep(ms(30));
        let mut shim = sleeper(&mut under(mark(&vm, 1, true), "sleep"));
        let started = shim.identity().start_ticks;
        let mut member = sleeper(under(mark(&vm, 1, true), "sleep").env_clear());
        // A process that a command kept has a deeper mark.
        let kept =
            Mark::nested_in(mark(&vm, 1, true).limits(), vm.run, WorkerNumber::new(1), true)
                .unwrap();
        let mut others = [
            older,
            sleeper(&mut under(kept, "sleep")),
            sleeper(&mut under(mark(&vm, 2, true), "sleep")),
            sleeper(&mut under(mark(&vm, 1, false), "sleep")),
            sleeper(&mut vm.tagged(1, "sleep")),
            sleeper(&mut under(mark(&Vm::start(), 1, true), "sleep")),
        ];
        let workers = |outliving: &[u16]| Workers {
            outliving: outliving.iter().copied().collect(),
            adopted: Some(Adopted { start_ticks: started, depth: 7 }),
            ..Workers::of(vm.run, [1].into())
        };
        let report = cleanup(&dir, workers(&[]));
        assert_eq!(found(&report, member.pid()).unwrap().verdict, Verdict::Outlives);
        assert!(shim.is_alive() && member.is_alive());
        let report = cleanup(&dir, workers(&[1]));
        assert!(!shim.is_alive() && !member.is_alive(), "{report:?}");
        assert!(others.iter_mut().all(Process::is_alive), "{report:?}");
        assert_eq!(found(&report, others[0].pid()).unwrap().verdict, Verdict::PredatesOwner);
        assert!(report.survivors.is_empty() && report.complete);
    });
}

#[test]
fn a_dead_run_is_ended_with_what_outlives_it_only_when_that_is_asked_for() {
    isolated("a_dead_run_is_ended_with_what_outlives_it_only_when_that_is_asked_for", || {
        let dir = TestDir::new();
        let (vm, program) = (Vm::dead(&dir), program(&dir));
        let run = format!("--run-id={}", vm.run);
        let args = [&run, "--worker=1", "--name=A", "--on-hangup=detach", "--stop=TERM:300"];
        let mut tree = shim(&program, mark(&vm, 1, true), &args);
        let mut rest = sleeper(under(mark(&vm, 1, true), "sleep").env_clear());
        let mut others = sleeper(&mut under(mark(&Vm::dead(&dir), 1, true), "sleep"));
        let cleanup = |outliving| {
            let kind = CleanupKind::Run { run: vm.run, own_run: None, outliving };
            Cleanup::new(spec(&dir.path, kind)).unwrap().run()
        };
        let report = cleanup(false);
        assert_eq!(found(&report, tree.pid()).unwrap().verdict, Verdict::Outlives);
        assert!(tree.is_alive() && rest.is_alive());
        let report = cleanup(true);
        assert!(!tree.is_alive() && !rest.is_alive(), "{report:?}");
        assert_eq!(marked_and_running(vm.run), [] as [u32; 0]);
        // The shim was asked. Only the processes without a shim were ended directly.
        assert_eq!(found(&report, tree.pid()).unwrap().ended_by, Some("SIGINT"), "{report:?}");
        assert!(others.is_alive() && report.survivors.is_empty());
    });
}
