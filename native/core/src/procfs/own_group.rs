//! The control group of version 2 below which this VM makes the groups of its workers.
//!
//! The rule (cgroups(7), "Delegation" and "no internal processes"):
//!
//! 1. A directory that is configured is taken as it is.
//! 2. In the root group, that is the root: it may have processes beside controllers.
//! 3. In a leaf below a group that has no process and that this process may change, it is that
//!    group. This is a unit with `Delegate=` and `DelegateSubgroup=`, or a container whose start
//!    moved into a leaf. A slice is never taken: it belongs to systemd.
//! 4. Otherwise it is the own group. It has a process, so no controller can be enabled in it.

use crate::procfs::parse::{cgroup, mounts};
use rustix::fs::{Access, AtFlags, CWD};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The magic number of the file system (linux/magic.h).
const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;

/// Returns the group below which groups of workers are made, if there is a hierarchy of version
/// 2.
pub(crate) fn parent(configured: Option<&Path>) -> Option<PathBuf> {
    if let Some(path) = configured {
        return Some(path.to_owned());
    }
    let (top, own) = own()?;
    if is_root(&own) {
        return Some(own);
    }
    match own.parent() {
        Some(above) if own != top && is_delegated(above) => Some(above.to_owned()),
        _ => Some(own),
    }
}

/// Returns the mount point and the own group below it.
fn own() -> Option<(PathBuf, PathBuf)> {
    let groups = std::fs::read("/proc/self/cgroup").ok()?;
    let mounts = std::fs::read("/proc/self/mountinfo").ok()?;
    let path = cgroup::version_2(&groups)?;
    let below = |root: &[u8]| {
        let path = if root == b"/" { path } else { path.strip_prefix(root)? };
        let path = path.strip_prefix(b"/").unwrap_or(path);
        // A path outside of the cgroup namespace begins with `..`.
        let is_below = path.is_empty() || !path.starts_with(b"..");
        is_below.then(|| Path::new(OsStr::from_bytes(path)).to_owned())
    };
    mounts::cgroup2(&mounts).find_map(|(root, point)| {
        let top = PathBuf::from(OsStr::from_bytes(&point));
        let path = below(&root)?;
        let own = if path.as_os_str().is_empty() { top.clone() } else { top.join(path) };
        is_group(&own).then_some((top, own))
    })
}

/// Returns the file that keeps this process from starting children below a group.
///
/// The kernel asks for the right to write `cgroup.procs` of the nearest group that is above both
/// the old and the new group (cgroups(7), "Delegation containment").
pub(crate) fn barrier(group: &Path) -> Option<PathBuf> {
    let (top, own) = own()?;
    let above = |path: &Path| own.starts_with(path) && path.starts_with(&top);
    let common = group.ancestors().find(|path| above(path))?;
    let procs = common.join("cgroup.procs");
    let may = rustix::fs::accessat(CWD, &procs, Access::WRITE_OK, AtFlags::EACCESS);
    may.is_err().then_some(procs)
}

/// Returns whether a directory is a control group of version 2.
pub(crate) fn is_group(path: &Path) -> bool {
    // The field is signed on some machines and unsigned on others.
    #[allow(clippy::unnecessary_cast)]
    rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type as i64 == CGROUP2_SUPER_MAGIC)
}

/// Returns whether this is the one group that has no type.
fn is_root(group: &Path) -> bool {
    !group.join("cgroup.type").exists()
}

/// Returns whether this process may make groups there with controllers of their own.
fn is_delegated(group: &Path) -> bool {
    let is_slice = group.file_name().is_some_and(|name| name.as_bytes().ends_with(b".slice"));
    let writable = |name: &str| {
        rustix::fs::accessat(CWD, group.join(name), Access::WRITE_OK, AtFlags::EACCESS).is_ok()
    };
    !is_slice
        && !is_root(group)
        && ["", "cgroup.procs", "cgroup.subtree_control"].into_iter().all(writable)
        && has_processes(group).is_ok_and(|some| !some)
}

/// Returns whether a group itself has processes.
///
/// # Errors
///
/// The error of reading `cgroup.procs`.
pub(crate) fn has_processes(group: &Path) -> io::Result<bool> {
    std::fs::read(group.join("cgroup.procs")).map(|text| !text.is_empty())
}

/// Returns the words of a file of a group: `memory pids` of `cgroup.controllers`.
pub(crate) fn words(group: &Path, file: &str) -> io::Result<Vec<String>> {
    let text = std::fs::read_to_string(group.join(file))?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}
