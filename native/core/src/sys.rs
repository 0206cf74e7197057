//! The kernel calls that neither rustix nor nix wraps.
//!
//! rustix's `prlimit` always *sets*, and a mark must be read without touching it; its `pidfd_send_signal` knows no signal 0, and
//! its limits of one's own cannot fail, which under a filter of system calls they do.
#![allow(unsafe_code)]

use crate::Pid;
use leash_tag::Limits;
use nix::libc;
use rustix::io::Errno;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// `prlimit(pid, RLIMIT_LOCKS, NULL, &old)`: soft and hard limit of a process or of a thread.
///
/// EPERM where real, effective and saved ids of the target are not all the caller's and the caller
/// lacks CAP_SYS_RESOURCE (prlimit(2)); `/proc/<pid>/limits` says it then.
pub(crate) fn file_lock_limits(pid: Pid) -> Result<Limits, Errno> {
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the new limit is null, so nothing is set; `old` is a live, writable `rlimit` for the whole call, and
    // the kernel writes no more than one.
    let result = unsafe { libc::prlimit(pid.get(), libc::RLIMIT_LOCKS, std::ptr::null(), &raw mut old) };
    if result == 0 {
        Ok(Limits { soft: old.rlim_cur, hard: old.rlim_max })
    } else {
        Err(Errno::from_raw_os_error(nix::errno::Errno::last_raw()))
    }
}

/// Whether this process's own limits can be set, which is tried with what they are.
pub(crate) fn may_set_own_file_locks(limits: Limits) -> bool {
    let same = libc::rlimit { rlim_cur: limits.soft, rlim_max: limits.hard };
    // SAFETY: `same` lives across the call, and nothing is written.
    unsafe { libc::prlimit(0, libc::RLIMIT_LOCKS, &raw const same, std::ptr::null_mut()) == 0 }
}

/// `pidfd_send_signal(pidfd, 0)`: asks whether it could be signalled, and sends nothing.
pub(crate) fn pidfd_signal_nothing(pidfd: BorrowedFd<'_>) -> Result<(), Errno> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: no memory is passed.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), 0, no_info, 0) };
    if result == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(nix::errno::Errno::last_raw())) }
}
