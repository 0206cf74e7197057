//! The kernel calls that neither rustix nor nix wraps.
//!
//! rustix's `prlimit` always *sets*, but a mark must be read without touching it. rustix's
//! `pidfd_send_signal` knows no signal 0. Its calls for a process's own limits cannot fail, but
//! under a filter of system calls they do.
//!
//! Neither crate wraps the call that reads what a pidfd tells.
#![allow(unsafe_code)]

use crate::os::pid::Pid;
use crate::os::user_ids::Uids;
use leash_tag::Limits;
use nix::libc;
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// Calls `prlimit(pid, RLIMIT_LOCKS, NULL, &old)`: soft and hard limit of a process or of a
/// thread.
///
/// Fails with EPERM if the target's real, effective and saved ids are not all the caller's and
/// the caller lacks CAP_SYS_RESOURCE (prlimit(2)). `/proc/<pid>/limits` tells the limits then.
pub(crate) fn file_lock_limits(pid: Pid) -> Result<Limits, Errno> {
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the new limit is null, so nothing is set. `old` is a live, writable `rlimit` for
    // the whole call, and the kernel writes no more than one.
    let result =
        unsafe { libc::prlimit(pid.get(), libc::RLIMIT_LOCKS, std::ptr::null(), &raw mut old) };
    if result == 0 {
        Ok(Limits { soft: old.rlim_cur, hard: old.rlim_max })
    } else {
        Err(Errno::from_raw_os_error(nix::errno::Errno::last_raw()))
    }
}

/// Whether this process can set its own limits. Tries it with the values that they have.
pub(crate) fn may_set_own_file_locks(limits: Limits) -> bool {
    let same = libc::rlimit { rlim_cur: limits.soft, rlim_max: limits.hard };
    // SAFETY: `same` lives across the call, and nothing is written.
    unsafe { libc::prlimit(0, libc::RLIMIT_LOCKS, &raw const same, std::ptr::null_mut()) == 0 }
}

/// Calls `pidfd_send_signal(pidfd, 0)`. Checks whether the process could be signalled, and sends
/// nothing.
pub(crate) fn pidfd_signal_nothing(pidfd: BorrowedFd<'_>) -> Result<(), Errno> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: no memory is passed.
    let result =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), 0, no_info, 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(Errno::from_raw_os_error(nix::errno::Errno::last_raw()))
    }
}

/// `struct pidfd_info` in its first version, 64 bytes (<linux/pidfd.h>).
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    ruid: u32,
    rgid: u32,
    euid: u32,
    egid: u32,
    suid: u32,
    sgid: u32,
    fsuid: u32,
    fsgid: u32,
    exit_code: i32,
}

const PIDFD_GET_INFO: Opcode = opcode::read_write::<PidfdInfo>(0xff, 11);
const PIDFD_INFO_CREDS: u64 = 1 << 1;

/// The answers of a pidfd about its process, also if `/proc` hides the process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PidfdTold {
    /// The user ids as the caller's user namespace sees them, like `status` of a `/proc` that it
    /// opens.
    pub(crate) uids: Uids,
    /// The parent's number in the caller's pid namespace; 0 if it has none there.
    pub(crate) parent: u32,
}

/// Calls `ioctl(pidfd, PIDFD_GET_INFO)`, since Linux 6.13. Returns `None` before 6.13, if the
/// call is refused, and if the process has ended.
pub(crate) fn pidfd_told(pidfd: BorrowedFd<'_>) -> Option<PidfdTold> {
    let mut info = PidfdInfo { mask: PIDFD_INFO_CREDS, ..PidfdInfo::default() };
    // SAFETY: the operation reads and writes one `struct pidfd_info`, of the size that its number
    // says. Any bytes are a valid one.
    unsafe { ioctl(pidfd, Updater::<PIDFD_GET_INFO, PidfdInfo>::new(&mut info)) }.ok()?;
    (info.mask & PIDFD_INFO_CREDS != 0).then_some(PidfdTold {
        uids: Uids { real: info.ruid, effective: info.euid, saved: info.suid },
        parent: info.ppid,
    })
}
