//! The control group of a tree. Without a writable hierarchy of version 2, the tests pass unseen.

use crate::frames::Frame;
use crate::harness::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The errnos of linux/errno.h.
const EBADF: u16 = 9;
const ENOENT: u16 = 2;

/// A group of one test.
struct Group(PathBuf);

impl Group {
    fn new() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
        let mut roots = mounts.lines().filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (path, kind) = (fields.next()?, fields.next()?);
            (kind == "cgroup2").then_some(path)
        });
        let path = Path::new(roots.next()?).join(format!("leash-test-{}", new_run()));
        fs::create_dir(&path).ok()?;
        Some(Self(path))
    }

    fn option(&self) -> String {
        format!("--cgroup={}", self.0.display())
    }

    fn members(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// Moves a process into the group.
    fn take(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        for _ in 0..1_000 {
            if !self.0.exists() || fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

#[test]
fn the_worker_and_its_children_are_in_it_and_the_shim_is_not() {
    let Some(group) = Group::new() else { return };
    let mut tree = Plan::vm().option(group.option()).sh("setsid sleep 41 & sleep 42");
    let all = [tree.member("sleep 41"), tree.member("sleep 42")];
    until("three members", || group.members().len() == 3);
    assert!(all.iter().all(|pid| group.members().contains(pid)));
    assert!(!group.members().contains(&tree.pid));
    assert_eq!(tree.stop(libc::SIGTERM).gone().cause, 3);
    assert!(group.0.exists(), "the VM holds the leash, and removes it");
    assert_eq!(group.members(), []);
}

#[test]
fn it_is_removed_when_the_leash_has_hung_up() {
    let Some(group) = Group::new() else { return };
    let mut tree = Plan::vm().option(group.option()).start(&["sleep", "42"]);
    tree.member("sleep 42");
    assert_eq!(tree.let_go().gone().cause, 1);
    assert!(!group.0.exists());
}

#[test]
fn a_member_that_joined_it_ends_with_it_and_a_process_outside_does_not() {
    let Some(group) = Group::new() else { return };
    let mut joined = Command::new("sleep").arg("60").spawn().unwrap();
    let mut tree = Plan::vm().option(group.option()).start(&["sleep", "42"]);
    tree.member("sleep 42");
    group.take(joined.id());
    tree.let_go();
    assert!(!group.0.exists());
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(joined.wait().unwrap().signal(), Some(libc::SIGKILL));
}

#[test]
fn a_frozen_tree_ends() {
    let Some(group) = Group::new() else { return };
    let mut tree = Plan::vm()
        .option(group.option())
        .option("--stop=TERM:50")
        .sh("setsid sleep 41 & sleep 42");
    tree.member("sleep 41");
    tree.member("sleep 42");
    fs::write(group.0.join("cgroup.freeze"), "1").unwrap();
    until("it is frozen", || {
        fs::read_to_string(group.0.join("cgroup.events")).unwrap().contains("frozen 1")
    });
    assert_eq!(tree.let_go().gone().cause, 1);
    assert!(!group.0.exists());
}

#[test]
fn a_tree_that_forks_without_end_ends() {
    let Some(group) = Group::new() else { return };
    let mut tree = Plan::vm()
        .option(group.option())
        .option("--stop=TERM:1")
        .sh("trap '' TERM; while :; do (sleep 0.01; :) & sleep 0.001; done");
    until_forks(50);
    tree.let_go();
    assert!(!group.0.exists());
}

#[test]
fn a_group_that_cannot_be_entered_starts_nothing() {
    for (path, errno) in [("/tmp", EBADF), ("/sys/leash-no-such-directory", ENOENT)] {
        let mut tree = Plan::vm().option(format!("--cgroup={path}")).start(&["sleep", "42"]);
        let ended = tree.ended();
        assert_eq!(ended.code, 125);
        let failed = ended.frames().into_iter().find_map(|frame| match frame {
            Frame::StartFailed { stage, errno } => Some((stage, errno)),
            _ => None,
        });
        assert_eq!(failed, Some((17, errno)), "{path}");
    }
}

/// Kernels before 5.7 and filters of containers. If there is a strace, it stands for them.
#[test]
fn without_clone3_the_child_enters_it_before_its_exec() {
    let Some(group) = Group::new() else { return };
    let strace = |inject: &str| {
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", inject]);
        command.stdin(Stdio::null()).stderr(Stdio::null());
        command
    };
    if !strace("inject=clone3:error=ENOSYS").arg("true").status().is_ok_and(|it| it.success()) {
        return;
    }
    for error in ["ENOSYS", "EPERM", "E2BIG"] {
        let output = strace(&format!("inject=clone3:error={error}"))
            .arg(binary())
            .args([&format!("--run-id={}", new_run()), &group.option(), "--", "cat"])
            .arg("/proc/self/cgroup")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let name = group.0.file_name().unwrap().to_str().unwrap();
        let version_2 = text.lines().find(|line| line.starts_with("0::")).unwrap();
        assert!(version_2.ends_with(name), "{error}: {text}");
    }
}
