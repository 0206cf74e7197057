//! The ids and the end of this process.
#![allow(unsafe_code)]

use rustix::io::Errno;
use rustix::process::{Gid, Pid, Signal, Uid};
use syscalls::{Sysno, syscall};

/// Ends the process (exit_group(2)).
pub fn exit(status: u8) -> ! {
    loop {
        // SAFETY: ends the process; no pointer involved.
        let _ = unsafe { syscall!(Sysno::exit_group, usize::from(status)) };
    }
}

/// Returns this process's pid.
pub(crate) fn own_pid() -> Pid {
    rustix::process::getpid()
}

/// Calls setgroups(2), setresgid(2) and setresuid(2), each if asked for. The order matters:
/// without the rights of the old uid, the others fail.
///
/// # Errors
///
/// `EPERM` without the capabilities, `EINVAL`.
pub(crate) fn become_user(
    groups: Option<&[Gid]>,
    gid: Option<u32>,
    uid: Option<u32>,
) -> Result<(), Errno> {
    if let Some(groups) = groups {
        rustix::thread::set_thread_groups(groups)?;
    }
    if let Some(gid) = gid.map(Gid::from_raw) {
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    }
    if let Some(uid) = uid.map(Uid::from_raw) {
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    }
    Ok(())
}

/// Makes the kernel send `signal` when the parent ends.
///
/// # Errors
///
/// `ESRCH` if it has ended already.
pub(crate) fn die_with(parent: Pid, signal: Signal) -> Result<(), Errno> {
    rustix::process::set_parent_process_death_signal(Some(signal))?;
    // The look comes second, since the parent may die in between.
    if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(Errno::SRCH) }
}

/// Makes this process a subreaper: the children of a descendant that ends become its own.
pub(crate) fn become_subreaper() -> bool {
    rustix::process::set_child_subreaper(Some(own_pid())).is_ok()
}
