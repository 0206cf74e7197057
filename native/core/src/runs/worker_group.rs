//! The control group of one worker: made before its start, read and removed after its end.
//!
//! Its directory is named `leash-RUN-N`, so that a later run knows whose it was. A tree that may
//! outlive its VM on purpose has one named `leash-RUN-N-keep`, in which nothing is ever ended for
//! its place alone.

use crate::os::pid::Pid;
use crate::os::pidfd::PidFd;
use crate::os::signal::Signal;
use crate::procfs::own_group::{barrier, has_processes, is_group, parent, words};
use crate::procfs::parse::cgroup;
use leash_tag::{RunId, WorkerNumber};
use rustix::io::Errno;
use rustix::process::geteuid;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The reason why there is no group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupError {
    /// No hierarchy of version 2 is mounted.
    NoHierarchy,
    /// A configured path is no control group of version 2.
    NotAGroup(PathBuf),
    /// This controller is not available below that group: version 1 has it, or no group above
    /// hands it down.
    NoController(String, PathBuf),
    /// That group has processes, so that no controller can be enabled in it.
    Occupied(PathBuf),
    /// The group has processes or groups that cannot be ended.
    Busy(PathBuf),
    /// The kernel's error, by its number, and the file.
    File(i32, PathBuf),
}

/// The place where groups of workers are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupPlace {
    /// The group above them.
    pub parent: PathBuf,
    /// The controllers that can be had there.
    pub controllers: Vec<String>,
}

/// The numbers that a group keeps of its processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupUsage {
    /// Whether the kernel killed a process for want of memory; `None` without the controller.
    pub oom_killed: Option<bool>,
    /// The most memory in bytes (Linux 5.19).
    pub peak_memory: Option<u64>,
    /// CPU time in microseconds.
    pub cpu_time: Option<u64>,
}

/// Finds the place where groups of workers are made.
///
/// # Errors
///
/// `NoHierarchy`, `NotAGroup`; `File` if it cannot be read.
pub fn group_place(configured: Option<&Path>) -> Result<GroupPlace, GroupError> {
    let parent = parent(configured).ok_or(GroupError::NoHierarchy)?;
    // A path that does not exist is an error of its own.
    std::fs::metadata(&parent).map_err(|error| file(&error, &parent))?;
    if !is_group(&parent) {
        return Err(GroupError::NotAGroup(parent));
    }
    if let Some(procs) = barrier(&parent) {
        return Err(GroupError::File(Errno::ACCESS.raw_os_error(), procs));
    }
    let of = |name: &str| words(&parent, name).map_err(|error| file(&error, &parent.join(name)));
    let mut controllers = of("cgroup.subtree_control")?;
    // In any group but the root, processes and controllers exclude each other.
    let can_enable =
        !parent.join("cgroup.type").exists() || !has_processes(&parent).unwrap_or(true);
    if can_enable {
        controllers = of("cgroup.controllers")?;
    }
    Ok(GroupPlace { parent, controllers })
}

/// Makes the group of a worker and writes its limits, each a file and its text. The part of a
/// file's name before the dot is its controller. Returns the group's path.
///
/// # Errors
///
/// `NoController`, `Occupied`, `Busy` if an earlier group of that name cannot be removed; `File`.
/// Nothing is left then.
pub fn make_group(
    place: &Path,
    name: &str,
    limits: &[(String, String)],
) -> Result<PathBuf, GroupError> {
    let mut wanted: Vec<&str> = limits.iter().filter_map(|(file, _)| controller(file)).collect();
    wanted.dedup();
    enable(place, &wanted)?;
    // The memory of a group without limits is counted where that can be had.
    let _ = enable(place, &["memory"]);
    let path = place.join(name);
    match std::fs::create_dir(&path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            remove_group(&path, true)?;
            std::fs::create_dir(&path)
        }
        made => made,
    }
    .map_err(|error| file(&error, &path))?;
    let written = limits.iter().try_for_each(|(name, text)| write(&path.join(name), text));
    if let Err(error) = written {
        let _ = std::fs::remove_dir(&path);
        return Err(error);
    }
    // The tree ends as one: a worker that lost a child to the kernel is no worker any more. The
    // file is missing without the controller and before Linux 4.19.
    let _ = write(&path.join("memory.oom.group"), "1");
    Ok(path)
}

fn controller(file: &str) -> Option<&str> {
    file.split_once('.').map(|(controller, _)| controller)
}

/// Hands controllers down to the groups below `place`.
fn enable(place: &Path, wanted: &[&str]) -> Result<(), GroupError> {
    if wanted.is_empty() {
        return Ok(());
    }
    let control = place.join("cgroup.subtree_control");
    let of = |name: &str| words(place, name).map_err(|error| file(&error, &place.join(name)));
    let enabled = of("cgroup.subtree_control")?;
    let missing: Vec<_> =
        wanted.iter().filter(|name| !enabled.iter().any(|it| it == *name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let available = of("cgroup.controllers")?;
    if let Some(name) = missing.iter().find(|name| !available.iter().any(|it| it == **name)) {
        return Err(GroupError::NoController((**name).to_string(), place.to_owned()));
    }
    let text: Vec<_> = missing.iter().map(|name| format!("+{name}")).collect();
    write(&control, &text.join(" ")).map_err(|error| match error {
        GroupError::File(errno, _) if errno == Errno::BUSY.raw_os_error() => {
            GroupError::Occupied(place.to_owned())
        }
        other => other,
    })
}

/// Reads what a group has used.
#[must_use]
pub fn group_usage(path: &Path) -> GroupUsage {
    let value = |file: &str, name: &str| {
        let text = std::fs::read_to_string(path.join(file)).ok()?;
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        lines.find(|(key, _)| *key == name)?.1.parse::<u64>().ok()
    };
    let peak = || std::fs::read_to_string(path.join("memory.peak")).ok()?.trim().parse().ok();
    GroupUsage {
        oom_killed: value("memory.events", "oom_kill").map(|count| count > 0),
        peak_memory: peak(),
        cpu_time: value("cpu.stat", "usage_usec"),
    }
}

/// Removes the group of a worker, with the groups below it. With `kill`, processes that are left
/// in it get SIGKILL; without, they keep it.
///
/// # Errors
///
/// `Busy` if processes are left. After SIGKILL, they end in a moment: try again. `File`.
pub fn remove_group(path: &Path, kill: bool) -> Result<(), GroupError> {
    let busy = |error: &io::Error| error.raw_os_error() == Some(Errno::BUSY.raw_os_error());
    match std::fs::remove_dir(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if busy(&error) => {}
        Err(error) => return Err(file(&error, path)),
    }
    if !is_group(path) {
        return Err(GroupError::NotAGroup(path.to_owned()));
    }
    if kill {
        kill_group(path);
    }
    for below in groups_below(path) {
        remove_group(&below, kill)?;
    }
    std::fs::remove_dir(path).map_err(|error| {
        if busy(&error) { GroupError::Busy(path.to_owned()) } else { file(&error, path) }
    })
}

/// Removes the empty groups of a run that is over. Returns whether none is left.
///
/// A process that is left in one is not of the run as far as its tags tell, and stays. Only
/// directories of this user count.
pub(crate) fn remove_empty_groups(directory: &Path, run: RunId) -> bool {
    let Ok(entries) = std::fs::read_dir(directory) else { return true };
    let is_of_run = |entry: &std::fs::DirEntry| {
        GroupName::parse(entry.file_name().as_bytes()).is_some_and(|name| name.run == run)
            && entry.metadata().is_ok_and(|data| data.uid() == geteuid().as_raw())
            && is_group(&entry.path())
    };
    let groups = entries.flatten().filter(is_of_run).map(|entry| entry.path());
    // Each of them is tried, whatever becomes of the others.
    groups.filter(|path| !is_removed_soon(path)).count() == 0
}

/// Removes a group without ending anything in it. The kernel lets a process go a moment after its
/// descriptor says that it has ended, so this looks again for some milliseconds.
fn is_removed_soon(path: &Path) -> bool {
    (0..20).any(|tried| {
        if tried > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        !matches!(remove_group(path, false), Err(GroupError::Busy(_)))
    })
}

/// Sends SIGKILL to all processes of a group and of those below it, unless one of them is this
/// process, or one that is never signalled.
fn kill_group(path: &Path) {
    let members = members(path);
    let me = Pid::current();
    if members.iter().any(|pid| *pid == me || pid.is_init()) {
        return;
    }
    // Linux 5.14.
    if write(&path.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    for pid in members {
        // The descriptor comes first: a process that is still in the group has the number then.
        let Ok(pidfd) = PidFd::open(pid) else { continue };
        if is_member(pid, path) && !pidfd.is_ended() {
            let _ = pidfd.signal(Signal::KILL);
        }
    }
}

/// Returns whether a process is in a group or in one below it.
fn is_member(pid: Pid, path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let text = std::fs::read(format!("/proc/{}/cgroup", pid.get())).unwrap_or_default();
    let path = cgroup::version_2(&text).unwrap_or_default();
    path.split(|&byte| byte == b'/').any(|part| part == name)
}

/// Returns the processes of a group and of those below it.
pub(crate) fn members(path: &Path) -> Vec<Pid> {
    let text = std::fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    // A process outside of this pid namespace is shown as 0.
    let mut pids: Vec<_> =
        text.lines().filter_map(|line| Pid::from_u32(line.parse().ok()?)).collect();
    for below in groups_below(path) {
        pids.extend(members(&below));
    }
    pids
}

fn groups_below(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.map(|entry| entry.path()).collect()
}

/// The worker that a group is named after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupName {
    /// The run.
    pub run: RunId,
    /// The worker.
    pub worker: WorkerNumber,
    /// Whether the tree may outlive its VM on purpose.
    pub may_outlive: bool,
}

impl GroupName {
    /// Reads the name of a directory: `leash-RUN-N`, or `leash-RUN-N-keep`.
    #[must_use]
    pub fn parse(name: &[u8]) -> Option<Self> {
        let rest = name.strip_prefix(b"leash-")?;
        let (run, worker) = rest.split_at_checked(RunId::LEN)?;
        let worker = worker.strip_prefix(b"-")?;
        let (worker, may_outlive) = match worker.strip_suffix(b"-keep") {
            Some(worker) => (worker, true),
            None => (worker, false),
        };
        let (run, worker) = (RunId::parse(run)?, WorkerNumber::parse(worker)?);
        Some(Self { run, worker, may_outlive })
    }
}

fn write(path: &Path, text: &str) -> Result<(), GroupError> {
    let write = || OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes());
    write().map_err(|error| file(&error, path))
}

fn file(error: &io::Error, path: &Path) -> GroupError {
    // A path with a NUL reaches no system call.
    let errno = error.raw_os_error().unwrap_or(Errno::INVAL.raw_os_error());
    GroupError::File(errno, path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_run_worker_and_whether_the_tree_may_stay() {
        let (run, worker) = (RunId::parse(b"s59m65f").unwrap(), WorkerNumber::new(17).unwrap());
        for (name, may_outlive) in
            [(&b"leash-s59m65f-17"[..], false), (b"leash-s59m65f-17-keep", true)]
        {
            assert_eq!(GroupName::parse(name), Some(GroupName { run, worker, may_outlive }));
        }
        for name in [
            &b"leash-s59m65f"[..],
            b"leash-s59m65f-",
            b"leash-s59m65f-0",
            b"leash-s59m65f-17x",
            b"leash-s59m65f-17-",
            b"leash-s59m65f--keep",
            b"leash-s59m65f-17-keep-keep",
            b"leash-S59M65F-17",
            b"leash-s59m65-17",
            b"xleash-s59m65f-17",
            b"leash-test-s59m65f",
            b"",
        ] {
            assert_eq!(GroupName::parse(name), None, "{}", String::from_utf8_lossy(name));
        }
    }
}
