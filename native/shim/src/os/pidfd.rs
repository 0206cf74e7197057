//! Processes that are held by a pidfd, so that no other process is taken for them.

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

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

/// Sends the signals, in order, to the process of a pidfd.
pub(crate) fn signal_all(pidfd: BorrowedFd<'_>, signals: &[u8]) {
    for &number in signals {
        // If the process is gone meanwhile, that is fine. If it may not be signalled, it is found
        // alive at the end.
        let _ = signal(pidfd, number);
    }
}
