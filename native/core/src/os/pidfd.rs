//! A descriptor that holds a process, so that no other process can take its place.

use crate::os::error::{Error, ErrorKind, Result};
use crate::os::pid::Pid;
use crate::os::reserve::with_reserve;
use crate::os::signal::Signal;
use crate::os::syscalls;
use crate::os::user_ids::Uids;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

// <linux/magic.h>, PID_FS_MAGIC; pidfds live in pidfs since Linux 6.9.
const PIDFS_MAGIC: u64 = 0x5049_4446;

/// A descriptor of one process. It never refers to a later process with the same number.
#[derive(Debug)]
pub struct PidFd {
    fd: OwnedFd,
}

impl PidFd {
    /// Calls `pidfd_open(pid, 0)` on the process that has the number now.
    ///
    /// # Errors
    ///
    /// `Gone` if there is no such process. `Unknown` if the number is a thread's that leads no
    /// process.
    pub fn open(pid: Pid) -> Result<Self> {
        Self::open_raw(pid).map_err(|errno| {
            match errno {
                // A thread's number: EINVAL, since Linux 6.15 ENOENT (pidfd_open(2)).
                Errno::INVAL | Errno::NOENT => Error::new(ErrorKind::Unknown),
                other => Error::of_process(other),
            }
            .about(pid)
        })
    }

    pub(crate) fn open_raw(pid: Pid) -> std::result::Result<Self, Errno> {
        let raw = pid.raw().ok_or(Errno::INVAL)?;
        with_reserve(|| pidfd_open(raw, PidfdFlags::empty())).map(|fd| Self { fd })
    }

    pub(crate) fn open_unreserved(pid: Pid) -> Option<Self> {
        pidfd_open(pid.raw()?, PidfdFlags::empty()).ok().map(|fd| Self { fd })
    }

    /// Whether the whole process, every thread of it, has ended.
    ///
    /// A leader in state Z whose other threads run has not ended. (pidfd_open(2): the descriptor
    /// is readable when "the process" terminates.) If poll itself fails, the answer is `false`:
    /// not proven.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        loop {
            match poll(&mut fds, Some(&now)) {
                Err(Errno::INTR) => {}
                Ok(1..) => return fds.iter().any(|fd| fd.revents().contains(PollFlags::IN)),
                _ => return false,
            }
        }
    }

    /// Sends a signal with `pidfd_send_signal(2)`.
    ///
    /// # Errors
    ///
    /// `Gone` once the process is reaped. `NotPermitted` if it is another user's.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let raw = signal.raw().ok_or(Error::new(ErrorKind::Unsupported))?;
        pidfd_send_signal(&self.fd, raw).map_err(Error::of_process)
    }

    /// Whether signals through descriptors are possible at all. Tries signal 0, which has no
    /// effect on the process.
    pub(crate) fn can_signal(&self) -> bool {
        syscalls::pidfd_signal_nothing(self.as_fd()).is_ok()
    }

    /// The user ids; `None` before Linux 6.13.
    pub(crate) fn uids(&self) -> Option<Uids> {
        syscalls::pidfd_told(self.as_fd()).map(|told| told.uids)
    }

    /// The parent, if this pid namespace has it; `None` before Linux 6.13.
    pub(crate) fn parent(&self) -> Option<Pid> {
        Pid::from_u32(syscalls::pidfd_told(self.as_fd())?.parent)
    }

    /// The pidfs inode, unique for every process until reboot; `None` before Linux 6.9.
    #[must_use]
    pub fn inode(&self) -> Option<u64> {
        let filesystem = rustix::fs::fstatfs(&self.fd).ok()?;
        #[allow(clippy::unnecessary_cast, reason = "the field's type differs between targets")]
        let magic = filesystem.f_type as u64;
        if magic != PIDFS_MAGIC {
            return None;
        }
        rustix::fs::fstat(&self.fd).ok().map(|stat| stat.st_ino)
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<PidFd> for OwnedFd {
    fn from(pidfd: PidFd) -> Self {
        pidfd.fd
    }
}

impl From<OwnedFd> for PidFd {
    /// Wraps a descriptor that `pidfd_open` gave.
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}
