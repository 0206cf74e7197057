//! The shim's preparation of itself, before there is a worker.

use leash_tag::{Mark, NoDepthLeft};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::Pid;

use crate::cli::config::{Config, Origin};
use crate::os::proc_file::Proc;
use crate::os::{descriptors, mark_limits, pidfd, process};

/// The mark in the `ready` report.
#[derive(Clone, Copy)]
pub(crate) struct MarkReport {
    /// The outcome.
    pub(crate) code: u8,
    /// The error of prlimit(2), 0 if there is none.
    pub(crate) errno: u16,
}

impl MarkReport {
    /// The mark is set.
    const SET: u8 = 0;
    /// There are too many runs in one another.
    const NO_DEPTH_LEFT: u8 = 2;
    /// prlimit(2) failed.
    const FAILED: u8 = 3;

    /// The mark is turned off.
    pub(crate) const OFF: Self = Self { code: 1, errno: 0 };

    fn failed(error: Errno) -> Self {
        Self { code: Self::FAILED, errno: u16::try_from(error.raw_os_error()).unwrap_or(0) }
    }

    /// Returns an error if there is no mark, for callers that need one: `ELOOP` if no depth is
    /// left, or the error of prlimit(2).
    pub(crate) fn required(self) -> Result<(), Errno> {
        match self.code {
            Self::SET => Ok(()),
            Self::NO_DEPTH_LEFT => Err(Errno::LOOP),
            _ => Err(Errno::from_raw_os_error(i32::from(self.errno))),
        }
    }
}

/// Marks this process, and its children inherit the mark. A mark that cannot be set costs one way
/// to find the tree, but the start goes on.
pub(crate) fn mark(config: &Config<'_>) -> MarkReport {
    if !config.mark {
        return MarkReport::OFF;
    }
    let own = process::own_pid();
    let limits = match mark_limits::read(own) {
        Ok(limits) => limits,
        Err(error) => return MarkReport::failed(error),
    };
    match Mark::nested_in(limits, config.run, config.worker, config.detach) {
        Ok(mark) => match mark_limits::swap(own, mark.limits()) {
            Ok(_) => MarkReport { code: MarkReport::SET, errno: 0 },
            Err(error) => MarkReport::failed(error),
        },
        Err(NoDepthLeft) => MarkReport { code: MarkReport::NO_DEPTH_LEFT, errno: 0 },
    }
}

/// Makes sure that 0, 1 and 2 are open, so that nothing opened later takes their place.
pub(crate) fn standard_descriptors() {
    if !(0..=2).all(|fd| rustix::io::fcntl_getfd(descriptors::borrow(fd)).is_ok()) {
        let _ = descriptors::open_null_above(2);
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
            descriptors::close_range(first, fd - 1);
            first = fd + 1;
        }
    }
    descriptors::close_range(first, u32::MAX);
    for fd in kept.into_iter().flatten() {
        descriptors::close_on_exec(descriptors::borrow(fd));
    }
}

/// Opens the owner's pidfd and checks that it belongs to the right process. Returns `None` for an
/// owner that cannot be looked at, so that the leash alone has to do.
///
/// # Errors
///
/// `ESRCH`: the owner has ended.
pub(crate) fn owner(
    owner: Option<(i32, u64)>,
    proc: Option<&Proc>,
) -> Result<Option<OwnedFd>, Errno> {
    let owner = owner.and_then(|(pid, ticks)| Some((Pid::from_raw(pid)?, ticks)));
    let Some((pid, start_ticks)) = owner else { return Ok(None) };
    let fd = match pidfd::open(pid) {
        Err(Errno::SRCH) => return Err(Errno::SRCH),
        other => other.ok(),
    };
    match proc.map(|proc| proc.stat(pid)) {
        Some(Ok(stat)) if stat.start_ticks == start_ticks => Ok(fd),
        Some(Ok(_)) if fd.is_some() => Err(Errno::SRCH),
        // The process is unreadable (hidepid) or ended just now. In both cases it is not known to
        // be the owner.
        _ => Ok(None),
    }
}

/// Lets go of stdin and stdout, which belong to the command. `producer | leash-shim … | consumer`
/// has to see them close when the command closes them. stderr stays, for the shim's own messages.
pub(crate) fn let_go_of_streams(config: &Config<'_>) {
    // A warden passes on streams that are `/dev/null` already.
    let is_warden = config.origin() == Origin::Warden;
    let used =
        |number| is_warden || config.leash == Some(number) || config.report == Some(number);
    // A process that outlives its VM must not keep the VM's stderr open, be it a pipe or a
    // terminal.
    let is_silent = (config.detach || config.warden) && config.report.is_some();
    silence([!used(0), !used(1), is_silent]);
}

/// Turns some of 0 to 2 to `/dev/null`.
pub(crate) fn silence(streams: [bool; 3]) {
    if streams == [false; 3] {
        return;
    }
    let Ok(null) = descriptors::open_null() else { return };
    for (number, _) in (0..).zip(streams).filter(|(_, is_silent)| *is_silent) {
        let _ = descriptors::become_stream(&null, number);
    }
}
