//! Processes that lost every carrier below `sudo` or a login shell: named, and never ended.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows only #[test] functions as tests"
)]

mod common;

use common::*;
use leash_core::report::Action;
use leash_core::{Cleanup, CleanupKind, Incomplete, MarkLoss, Mode, Pid, Verdict};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const NOBODY: &str = "setpriv --reuid=65534 --regid=65534 --clear-groups --";

/// A control group that is removed with the test.
struct Group(PathBuf);

impl Group {
    fn new() -> Option<Self> {
        let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
        let root = roots.iter().find(|root| Path::new(root).join("cgroup.procs").exists())?;
        let name = format!("leash-core-{}", leash_core::generate_run_id().unwrap());
        let path = Path::new(root).join(name);
        std::fs::create_dir(&path).ok()?;
        Some(Self(path))
    }

    fn name(&self) -> String {
        format!("/{}", self.0.file_name().unwrap().to_str().unwrap())
    }

    /// Starts `sleep 60` behind a prefix in this group, below a shell that exits at once.
    fn orphan(&self, prefix: &str) -> Pid {
        let script = format!(
            "(sh -c 'echo $PPID' >{}/cgroup.procs; exec {prefix} sleep 60) >/dev/null 2>&1 & echo $!",
            self.0.display()
        );
        let output =
            Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).output().unwrap();
        let pid = Pid::parse(output.stdout.trim_ascii()).unwrap();
        wait_until("sleep", || {
            std::fs::read(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == b"sleep\n")
        });
        pid
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::write(self.0.join("cgroup.kill"), "1");
        let began = std::time::Instant::now();
        while std::fs::remove_dir(&self.0).is_err() && began.elapsed() < ms(2_000) {
            std::thread::sleep(ms(5));
        }
    }
}

fn dead_vm(dir: &TestDir, group: &Group) -> Vm {
    let mut vm = Vm::start();
    let loss =
        MarkLoss { resettable: true, control_group: Some(group.name()), ..MarkLoss::default() };
    vm.record_with(dir, "test", &loss);
    vm.process.die();
    vm
}

#[test]
fn what_became_another_user_in_the_group_of_a_dead_vm_is_named_and_kept() {
    isolated("what_became_another_user_in_the_group_of_a_dead_vm_is_named_and_kept", || {
        let (Some(group), Some(others)) = (Group::new(), Group::new()) else {
            return println!("skipped: no control group can be made here");
        };
        let dir = TestDir::new();
        let older = group.orphan(NOBODY);
        // Starts are counted in ticks of 10 ms.
        std::thread::sleep(ms(50));
        let vm = dead_vm(&dir, &group);
        let lost = group.orphan(NOBODY);
        let decoys = [older, group.orphan(""), others.orphan(NOBODY)];
        let report = sweep(&dir);
        let named = found(&report, lost).unwrap();
        assert_eq!((named.verdict, named.action), (Verdict::Unproven, Action::Kept));
        assert_eq!(named.run_id.as_deref(), Some(vm.run.to_string().as_str()));
        assert!(report.complete && is_running(lost.as_u32()), "{report:?}");
        for decoy in decoys {
            assert!(found(&report, decoy).is_none() && is_running(decoy.as_u32()));
        }
        // As long as it lives, each sweep names it.
        assert!(dir.record_path(vm.run).exists());
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(lost.as_u32() as i32).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
        wait_until("its end", || !is_running(lost.as_u32()));
        let report = sweep(&dir);
        assert!(found(&report, lost).is_none() && !dir.record_path(vm.run).exists());
    });
}

const LOST: &str = "LEASH_CORE_TEST_LOST";

#[test]
fn a_pass_has_a_hole_where_the_environment_of_such_a_process_cannot_be_read() {
    let name = "a_pass_has_a_hole_where_the_environment_of_such_a_process_cannot_be_read";
    isolated(name, || {
        if let Ok(lost) = std::env::var(LOST) {
            let (pid, dir) = lost.split_once(' ').unwrap();
            return is_named_with_a_hole(Pid::parse(pid.as_bytes()).unwrap(), Path::new(dir));
        }
        let Some(group) = Group::new() else {
            return println!("skipped: no control group can be made here");
        };
        let dir = TestDir::new();
        let vm = dead_vm(&dir, &group);
        // The sweep is an ordinary user's, and `sudo` has made a process of it root's.
        let lost = group.orphan("");
        for path in [&dir.path, &dir.record_path(vm.run)] {
            std::os::unix::fs::chown(path, Some(65_534), Some(65_534)).unwrap();
        }
        let mut sweeper = Command::new("sh");
        sweeper.args(["-c", &format!("exec {NOBODY} \"$@\""), "sh"]);
        sweeper.arg(std::env::current_exe().unwrap()).args([name, "--exact", "--nocapture"]);
        sweeper.env(LOST, format!("{lost} {}", dir.path.display()));
        assert!(sweeper.status().unwrap().success());
    });
}

fn is_named_with_a_hole(lost: Pid, dir: &Path) {
    let spec = spec(dir, CleanupKind::Sweep { own_run: None, app: None, mode: Mode::End });
    let report = Cleanup::new(spec).unwrap().run();
    let verdict = found(&report, lost).map(|found| found.verdict);
    assert_eq!(verdict, Some(Verdict::Unproven), "{report:?}");
    assert_eq!(report.incomplete_because, [Incomplete::Unreadable]);
    assert!(report.records_dropped.is_empty() && is_running(lost.as_u32()));
}
