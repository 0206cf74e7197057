//! `RLIMIT_LOCKS`, the limit that carries the mark (prlimit(2)).
#![allow(unsafe_code)]

use leash_tag::Limits;
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit};
use syscalls::{Sysno, syscall};

use super::errno;

/// Returns the limits of a process. rustix has no call that only reads.
///
/// # Errors
///
/// `EPERM` for another user's process without CAP_SYS_RESOURCE, `ESRCH`.
pub(crate) fn read(pid: Pid) -> Result<Limits, Errno> {
    const RLIMIT_LOCKS: usize = 10;
    let mut limits = [0u64; 2];
    // SAFETY: the array is as large as struct rlimit64 and lives across the call.
    unsafe { syscall!(Sysno::prlimit64, pid.as_raw_pid(), RLIMIT_LOCKS, 0, limits.as_mut_ptr()) }
        .map_err(errno)?;
    let [soft, hard] = limits;
    Ok(Limits { soft, hard })
}

/// Sets the limits of a process. Returns their values at that moment.
///
/// # Errors
///
/// `EPERM` for another user's process, or to raise a hard limit, without CAP_SYS_RESOURCE;
/// `ESRCH`.
pub(crate) fn swap(pid: Pid, limits: Limits) -> Result<Limits, Errno> {
    // rustix has no limit where the kernel has all ones.
    let finite = |limit| (limit != u64::MAX).then_some(limit);
    let new = Rlimit { current: finite(limits.soft), maximum: finite(limits.hard) };
    let old = rustix::process::prlimit(Some(pid), Resource::Locks, new)?;
    Ok(Limits { soft: old.current.unwrap_or(u64::MAX), hard: old.maximum.unwrap_or(u64::MAX) })
}
