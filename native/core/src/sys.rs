//! The one kernel call that neither rustix nor nix wraps: reading another process's limit.
//!
//! rustix's `prlimit` always *sets*; a mark must be read without touching it.
#![allow(unsafe_code)]

use crate::Pid;
use leash_tag::Limits;
use nix::libc;
use rustix::io::Errno;

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
