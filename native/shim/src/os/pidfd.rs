//! Processes that are held by a pidfd, so that no other process is taken for them.
#![allow(unsafe_code)]

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use syscalls::{Sysno, syscall};

use super::errno;
use super::signals::to_send;

/// Opens the pidfd of a process (pidfd_open(2)).
///
/// # Errors
///
/// `ESRCH`; `EINVAL`, since Linux 6.15 `ENOENT`, for a thread that leads no process.
pub(crate) fn open(pid: Pid) -> Result<OwnedFd, Errno> {
    rustix::process::pidfd_open(pid, PidfdFlags::empty())
}

/// Returns whether all threads of a process have ended, reaped or not.
pub(crate) fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    !matches!(rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&now)), Ok(0))
}

/// Signals the process of a pidfd (pidfd_send_signal(2)).
///
/// # Errors
///
/// `ESRCH`, `EPERM`.
pub(crate) fn signal(pidfd: BorrowedFd<'_>, signal: u8) -> Result<(), Errno> {
    rustix::process::pidfd_send_signal(pidfd, to_send(signal)?)
}

/// Returns whether the process of a pidfd may be signalled, and whether this machine can do that.
///
/// # Errors
///
/// `ESRCH`, `EPERM`; `ENOSYS` or what a filter says, if there is no pidfd_send_signal(2).
pub(crate) fn may_signal(pidfd: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: numbers and a null siginfo. rustix has no signal 0, which only asks (kill(2)).
    unsafe { syscall!(Sysno::pidfd_send_signal, pidfd.as_raw_fd(), 0, 0, 0) }.map_err(errno)?;
    Ok(())
}

/// Sends the signals, in order, to the process of a pidfd.
pub(crate) fn signal_all(pidfd: BorrowedFd<'_>, signals: &[u8]) {
    for &number in signals {
        // If the process is gone meanwhile, that is fine. If it may not be signalled, it is found
        // alive at the end.
        let _ = signal(pidfd, number);
    }
}
