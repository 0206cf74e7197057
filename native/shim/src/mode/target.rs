//! The process to attach: its identity, and whether it may be attached.

use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::{Pid, getppid};

use crate::os::proc_file::Proc;
use crate::os::stat::Stat;
use crate::os::{pidfd, process};

/// More parents than any process has.
const DEPTH: u32 = 256;

/// A process that may be attached, held by its pidfd.
pub(crate) struct AttachTarget {
    /// The pid, which the pidfd holds.
    pub(crate) pid: Pid,
    /// The pidfd.
    pub(crate) fd: OwnedFd,
    /// The process group at the time of the check.
    pub(crate) pgrp: i32,
}

impl AttachTarget {
    /// Opens the process, and then checks its identity. Data read by number belongs to the
    /// process if its pidfd has not ended after the read.
    ///
    /// # Errors
    ///
    /// `ESRCH`: it has ended, or its number is another's. `EINVAL`: it is pid 1, this process, an
    /// ancestor of it, or a thread of the kernel. `EPERM`: it may not be signalled.
    pub(crate) fn open((pid, ticks): (i32, Option<u64>), proc: &Proc) -> Result<Self, Errno> {
        let pid = Pid::from_raw(pid).ok_or(Errno::INVAL)?;
        if pid.is_init() || pid == process::own_pid() {
            return Err(Errno::INVAL);
        }
        let fd = pidfd::open(pid).map_err(|errno| match errno {
            // ENOENT and EINVAL: the number is a thread's.
            Errno::NOENT => Errno::INVAL,
            other => other,
        })?;
        let stat = proc.stat(pid).map_err(gone)?;
        if pidfd::has_ended(fd.as_fd()) || ticks.is_some_and(|ticks| ticks != stat.start_ticks) {
            return Err(Errno::SRCH);
        }
        if stat.kernel_thread || is_ancestor(pid, proc)? {
            return Err(Errno::INVAL);
        }
        pidfd::may_signal(fd.as_fd())?;
        Ok(Self { pid, fd, pgrp: stat.pgrp })
    }
}

/// Turns the error of a missing file below `/proc` into that of a missing process.
fn gone(errno: Errno) -> Errno {
    if errno == Errno::NOENT { Errno::SRCH } else { errno }
}

/// Returns whether a process is an ancestor of this one. A longer chain than [`DEPTH`] counts as
/// yes.
fn is_ancestor(pid: Pid, proc: &Proc) -> Result<bool, Errno> {
    let mut next = getppid();
    for _ in 0..DEPTH {
        match next {
            None => return Ok(false),
            Some(parent) if parent == pid => return Ok(true),
            Some(parent) => {
                next = proc.stat(parent).map(|Stat { ppid, .. }| Pid::from_raw(ppid))?
            }
        }
    }
    Ok(true)
}
