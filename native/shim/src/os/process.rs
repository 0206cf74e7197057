//! The pid, the parent and the end of this process.
#![allow(unsafe_code)]

use rustix::io::Errno;
use rustix::process::{Pid, Signal};
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
