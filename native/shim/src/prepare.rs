//! The shim's preparation of itself, before there is a worker.

use leash_tag::{Limits, Mark};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, FdFlags};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit};

use crate::args::Config;
use crate::proc_file::Proc;
use crate::sys;

/// The outcome of the mark, as the `ready` report says it.
#[derive(Clone, Copy)]
pub(crate) struct MarkOutcome {
    pub(crate) code: u8,
    pub(crate) errno: u16,
    /// The hard limit of the shim's processes, if it is set.
    pub(crate) hard: Option<u64>,
}

impl MarkOutcome {
    /// Returns an error if there is no mark, for callers that need one: `ELOOP` if no depth is
    /// left, or the error of prlimit(2).
    pub(crate) fn required(self) -> Result<(), Errno> {
        match self.code {
            0 => Ok(()),
            2 => Err(Errno::LOOP),
            _ => Err(Errno::from_raw_os_error(i32::from(self.errno))),
        }
    }
}

/// The code in the `ready` report for a mark that is turned off.
pub(crate) const MARK_OFF: u8 = 1;

/// Marks this process, and its children inherit the mark. A mark that cannot be set costs one way
/// to find the tree, but the start goes on.
pub(crate) fn mark(config: &Config<'_>) -> MarkOutcome {
    if !config.mark {
        return MarkOutcome { code: MARK_OFF, errno: 0, hard: None };
    }
    let failed = |error: Errno| {
        let errno = u16::try_from(error.raw_os_error()).unwrap_or(0);
        MarkOutcome { code: 3, errno, hard: None }
    };
    // The call is not rustix's own, which counts as infallible, since a filter of system calls
    // may refuse the call.
    let limits = match sys::locks_limits(rustix::process::getpid()) {
        Ok(limits) => limits,
        Err(error) => return failed(error),
    };
    let Ok(mark) = Mark::nested_in(limits, config.run, config.worker, config.detach) else {
        return MarkOutcome { code: 2, errno: 0, hard: None };
    };
    let Limits { soft, hard } = mark.limits();
    let new = Rlimit { current: Some(soft), maximum: Some(hard) };
    match rustix::process::prlimit(None, Resource::Locks, new) {
        Ok(_) => MarkOutcome { code: 0, errno: 0, hard: Some(hard) },
        Err(error) => failed(error),
    }
}

/// Makes sure that 0, 1 and 2 are open, so that nothing opened later takes their place.
pub(crate) fn standard_descriptors() {
    if (0..=2).all(|fd| rustix::io::fcntl_getfd(sys::borrow(fd)).is_ok()) {
        return;
    }
    loop {
        match rustix::fs::open(c"/dev/null", OFlags::RDWR, Mode::empty()) {
            Ok(fd) if rustix::fd::AsRawFd::as_raw_fd(&fd) <= 2 => core::mem::forget(fd),
            _ => return,
        }
    }
}

/// Closes all inherited descriptors, except those that were passed to the shim. Those get
/// close-on-exec, so that no worker inherits them.
pub(crate) fn close_others(config: &Config<'_>) {
    let mut kept = config.descriptors();
    kept.sort_unstable();
    let mut first = 3u32;
    for fd in kept.into_iter().flatten().filter_map(|fd| u32::try_from(fd).ok()) {
        if fd >= first {
            sys::close_range(first, fd - 1);
            first = fd + 1;
        }
    }
    sys::close_range(first, u32::MAX);
    for fd in kept.into_iter().flatten() {
        close_on_exec(sys::borrow(fd));
    }
}

/// Keeps an inherited descriptor from the worker.
pub(crate) fn close_on_exec(fd: impl AsFd) {
    let _ = rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC);
}

/// The owner, as far as it can be watched.
pub(crate) enum Owner {
    /// The owner's pidfd.
    Watched(OwnedFd),
    /// The owner cannot be looked at, so the leash alone has to do.
    Unwatched,
    /// The owner is gone already.
    Gone,
}

/// Opens the owner's pidfd and checks that it belongs to the right process.
pub(crate) fn owner(owner: Option<(i32, u64)>, proc: Option<&Proc>) -> Owner {
    let Some((pid, start_ticks)) = owner else { return Owner::Unwatched };
    let Some(pid) = Pid::from_raw(pid) else { return Owner::Unwatched };
    let fd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => fd,
        Err(Errno::SRCH) => return Owner::Gone,
        Err(_) => return Owner::Unwatched,
    };
    match proc.map(|proc| proc.stat(pid)) {
        Some(Ok(stat)) if stat.start_ticks != start_ticks => Owner::Gone,
        Some(Ok(_)) => Owner::Watched(fd),
        // The process is unreadable (hidepid) or ended just now. In both cases it is not known to
        // be the owner.
        Some(Err(_)) | None => Owner::Unwatched,
    }
}
