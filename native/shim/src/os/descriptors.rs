//! File descriptors by number.
#![allow(unsafe_code)]

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, FdFlags};
use syscalls::{Sysno, syscall};

use super::errno;

/// Borrows an inherited descriptor (0 to 2, leash, report), which stays open for the whole life
/// of this process.
pub(crate) fn borrow(fd: i32) -> BorrowedFd<'static> {
    // SAFETY: nothing in this program closes these. If one was not open to begin with, every use
    // of it is EBADF, which poll(2) gives as POLLNVAL: a leash that is let go.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Keeps a descriptor open for the whole life of this process.
pub(crate) fn keep(fd: OwnedFd) -> BorrowedFd<'static> {
    borrow(fd.into_raw_fd())
}

/// Opens `/dev/null` for both directions.
pub(crate) fn open_null() -> Result<OwnedFd, Errno> {
    rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

/// Opens `/dev/null` above this number, and leaves no number up to it free. Another descriptor
/// that is opened later does not land there.
pub(crate) fn open_null_above(number: i32) -> Result<OwnedFd, Errno> {
    loop {
        let null = open_null()?;
        if null.as_raw_fd() > number {
            return Ok(null);
        }
        let _ = keep(null);
    }
}

/// Makes `fd` one of the standard streams, which exec leaves open (dup3(2)).
pub(crate) fn become_stream(fd: impl AsFd, number: u8) -> Result<(), Errno> {
    match number {
        0 => rustix::stdio::dup2_stdin(fd),
        1 => rustix::stdio::dup2_stdout(fd),
        _ => rustix::stdio::dup2_stderr(fd),
    }
}

/// Copies a descriptor to a number, open or not, so that exec leaves it open (dup3(2)).
///
/// # Errors
///
/// `EBADF`, `EINVAL` where they are the same.
pub(crate) fn copy_to(fd: BorrowedFd<'_>, number: i32) -> Result<(), Errno> {
    // SAFETY: only numbers; what is closed there is a placeholder that nothing uses.
    unsafe { syscall!(Sysno::dup3, fd.as_raw_fd(), number, 0) }.map_err(errno)?;
    Ok(())
}

/// Passes an inherited standard stream on to the program that is executed next.
pub(crate) fn pass_on(number: u8) -> Result<(), Errno> {
    rustix::io::fcntl_setfd(borrow(i32::from(number)), FdFlags::empty())
}

/// Keeps an inherited descriptor from the worker.
pub(crate) fn close_on_exec(fd: impl AsFd) {
    let _ = rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC);
}

/// Closes every descriptor of a range (close_range(2), Linux 5.9).
pub(crate) fn close_range(first: u32, last: u32) {
    /// The bound before Linux 5.9, which closes one by one. No starter passes descriptors beyond
    /// it to a program.
    const ONE_BY_ONE: u32 = 65_536;
    if first > last {
        return;
    }
    // SAFETY: only numbers; descriptors that this process owns as values are opened later.
    if unsafe { syscall!(Sysno::close_range, first, last, 0) }.is_err() {
        for fd in first..=last.min(ONE_BY_ONE) {
            // SAFETY: as above; EBADF is fine.
            let _ = unsafe { syscall!(Sysno::close, fd) };
        }
    }
}

/// Closes one descriptor by its number.
pub(crate) fn close(fd: i32) {
    if let Ok(fd) = u32::try_from(fd) {
        close_range(fd, fd);
    }
}
