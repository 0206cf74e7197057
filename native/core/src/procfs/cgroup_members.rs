//! The processes in all control groups: a list that `hidepid` does not shorten.
//!
//! Every process is in exactly one group of version 2, and `cgroup.procs` lists the processes of
//! a group for every reader (cgroups(7)). So the groups below the root of the machine list them
//! all.

use crate::os::pid::Pid;
use rustix::fs::statfs;
use rustix::io::Errno;
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

// linux/magic.h
const CGROUP2_SUPER_MAGIC: i128 = 0x6367_7270;

// Where systemd mounts version 2: alone, or beside version 1.
const ROOTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

// More groups than this are no faster than trying every number.
const MOST_GROUPS: usize = 50_000;

/// Lists every process of this pid namespace, sorted. Returns `None` where the root of all groups
/// cannot be seen (a cgroup namespace, version 1 alone), or a group cannot be read.
pub(crate) fn every_process() -> Option<Vec<Pid>> {
    let root = ROOTS.iter().map(Path::new).find(|root| is_root_of_all(root))?;
    let mut found = HashSet::new();
    // A process that moves or forks during the first walk is seen by the second.
    for _ in 0..2 {
        walk(root, &mut found).ok()?;
    }
    let mut pids: Vec<_> = found.into_iter().filter_map(Pid::from_u32).collect();
    pids.sort_unstable();
    Some(pids)
}

/// Whether a directory is the root of all groups of version 2. Every other group has
/// `cgroup.events`, also where a cgroup namespace shows it as the root.
fn is_root_of_all(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| i128::from(found.f_type) == CGROUP2_SUPER_MAGIC)
        && path.join("cgroup.procs").exists()
        && !path.join("cgroup.events").exists()
}

fn walk(root: &Path, found: &mut HashSet<u32>) -> io::Result<()> {
    let mut left = vec![root.to_path_buf()];
    let mut groups = 0;
    while let Some(group) = left.pop() {
        groups += 1;
        if groups > MOST_GROUPS {
            return Err(io::ErrorKind::Other.into());
        }
        match read_group(&group, found, &mut left) {
            Err(error) if is_removed(&error) => {}
            read => read?,
        }
    }
    Ok(())
}

fn read_group(group: &Path, found: &mut HashSet<u32>, left: &mut Vec<PathBuf>) -> io::Result<()> {
    match std::fs::read_to_string(group.join("cgroup.procs")) {
        // A process of another pid namespace has the number 0.
        Ok(text) => found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok())),
        // The group has threads only. The group above lists their processes.
        Err(error) if errno(&error) == Some(Errno::OPNOTSUPP) => {}
        Err(error) => return Err(error),
    }
    for entry in std::fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            left.push(entry.path());
        }
    }
    Ok(())
}

fn is_removed(error: &io::Error) -> bool {
    matches!(errno(error), Some(Errno::NOENT | Errno::NODEV))
}

fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw_os_error)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "clippy knows only #[test] functions as tests")]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_process_is_listed_as_long_as_it_lives() {
        let Some(before) = every_process() else {
            return println!("skipped: the root of all control groups is not to be seen");
        };
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        let pid = Pid::from_u32(child.id()).unwrap();
        let during = every_process().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let after = every_process().unwrap();
        assert!(before.contains(&Pid::current()) && during.contains(&pid));
        assert!(!after.contains(&pid));
    }

    #[test]
    fn a_group_below_the_root_is_not_taken_for_the_root() {
        let Some(root) = ROOTS.iter().map(Path::new).find(|root| is_root_of_all(root)) else {
            return println!("skipped: the root of all control groups is not to be seen");
        };
        let below = |entry: io::Result<std::fs::DirEntry>| entry.unwrap().path();
        let groups = std::fs::read_dir(root).unwrap().map(below).filter(|path| path.is_dir());
        for group in groups {
            assert!(!is_root_of_all(&group), "{}", group.display());
        }
    }
}
