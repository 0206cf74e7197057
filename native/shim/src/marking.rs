//! A mark for a process that is there already.
//!
//! prlimit(2) goes by number. A pidfd that has not ended after the call says that the number was its process's all
//! along, since a number is free again only when its process is reaped. Otherwise the mark may be on somebody who
//! has nothing to do with it: it is taken away again before anything else is done.

use leash_tag::{Limits, Mark, RunId, WorkerNumber};
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use rustix::process::Pid;

use crate::sys;
use crate::tree::ended;

/// What all processes of the tree are to carry.
#[derive(Clone, Copy)]
pub(crate) struct Tag {
    pub(crate) run: RunId,
    pub(crate) worker: Option<WorkerNumber>,
    /// What we ourselves had inherited: a run around all of us is no supervisor of that process.
    pub(crate) inherited: Limits,
}

impl Tag {
    pub(crate) fn is_on(self, mark: Mark) -> bool {
        mark.run() == self.run && mark.worker() == self.worker && !mark.outlives()
    }
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marking {
    /// It has the mark now.
    Done,
    /// It had the mark.
    Before,
    /// It has another one, and so a supervisor.
    Others,
    /// It has ended.
    Gone,
    /// It cannot have one.
    Never(Errno),
}

/// Marks the process of a pidfd.
pub(crate) fn mark(pid: Pid, fd: BorrowedFd<'_>, tag: Tag) -> Marking {
    let limits = match sys::locks_limits(pid) {
        Ok(limits) => limits,
        Err(Errno::SRCH) => return Marking::Gone,
        Err(errno) => return Marking::Never(errno),
    };
    match Mark::decode(limits) {
        Some(mark) if tag.is_on(mark) => return Marking::Before,
        Some(_) if limits != tag.inherited => return Marking::Others,
        _ => {}
    }
    let Ok(mark) = Mark::nested_in(limits, tag.run, tag.worker, false) else {
        return Marking::Never(Errno::LOOP);
    };
    if ended(fd) {
        return Marking::Gone;
    }
    match sys::swap_locks_limits(pid, mark.limits()) {
        Ok(_) if ended(fd) => {
            take_back(pid, limits);
            Marking::Gone
        }
        Ok(old) if old == limits => Marking::Done,
        // Somebody else marked it in this very moment.
        Ok(old) => {
            take_back(pid, old);
            Marking::Others
        }
        Err(Errno::SRCH) => Marking::Gone,
        Err(errno) => Marking::Never(errno),
    }
}

/// A hard limit is raised with CAP_SYS_RESOURCE only; without it, it is lowered to the highest that is no mark. The
/// kernel enforces neither.
fn take_back(pid: Pid, old: Limits) {
    if sys::swap_locks_limits(pid, old).is_err() {
        let _ = sys::swap_locks_limits(pid, Mark::NONE_BELOW);
    }
}
