//! A control group of version 2: the files of cgroups(7) that end, enter and remove it.

use core::ffi::CStr;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::clock;

/// The pauses between attempts to remove a group whose processes were just killed, 255 ms in all.
const PAUSES_MS: [u64; 8] = [1, 2, 4, 8, 16, 32, 64, 128];

/// Opens the directory of a group.
///
/// # Errors
///
/// `ENOENT`, `ENOTDIR`, `EACCES`; `EMFILE`.
pub(crate) fn open(path: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// Moves this process into the group.
///
/// # Errors
///
/// `EACCES`: this process may not. `EBUSY`, `EOPNOTSUPP`, `ENODEV`: the group cannot have
/// processes. `EAGAIN`: its limit on processes (which only a fork meets) or real-time rules.
pub(crate) fn enter(group: impl AsFd) -> Result<(), Errno> {
    write(group, c"cgroup.procs", b"0")
}

/// Sends SIGKILL to all processes of the group and of those below it (`cgroup.kill`, Linux 5.14).
/// The kernel sends it to each child of a fork under way, too.
pub(crate) fn kill(group: impl AsFd) -> Result<(), Errno> {
    write(group, c"cgroup.kill", b"1")
}

/// Removes a group. Processes in it are killed: they joined it, and are no descendants.
///
/// A group with groups below it stays.
pub(crate) fn remove(group: impl AsFd, path: &CStr) {
    for pause in PAUSES_MS {
        match rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR) {
            Err(Errno::BUSY) if kill(&group).is_ok() => clock::pause_ms(pause),
            _ => return,
        }
    }
}

/// Writes to a file of the group.
fn write(group: impl AsFd, file: &CStr, bytes: &[u8]) -> Result<(), Errno> {
    let file = rustix::fs::openat(group, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, bytes).map(drop)
}
