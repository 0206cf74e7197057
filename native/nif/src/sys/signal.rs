//! `pidfd_send_signal(2)` for every signal. rustix does not send the real-time signals.

use super::errno::last_errno;
use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// Sends signal `number` to the process that `pidfd` means.
pub(crate) fn send_signal(pidfd: BorrowedFd<'_>, number: i32) -> Result<(), Errno> {
    // Signal 0 would only ask whether the process exists, and a zombie does.
    if number <= 0 {
        return Err(Errno::INVAL);
    }
    let no_info = ptr::null::<libc::siginfo_t>();
    // SAFETY: no memory is passed; a number that is not a signal is EINVAL.
    let outcome = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), number, no_info, 0)
    };
    if outcome == 0 { Ok(()) } else { Err(last_errno()) }
}
