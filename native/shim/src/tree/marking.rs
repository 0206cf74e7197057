//! A mark for a process that is there already.
//!
//! prlimit(2) goes by number, and a number is free only once its process is reaped. So if the
//! pidfd has not ended after the call, the number belonged to its process all along. Otherwise
//! the mark may be on an unrelated process, and it is taken away again before anything else is
//! done.

use leash_tag::{Limits, Mark, RunId, WorkerNumber};
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use rustix::process::Pid;

use crate::os::{mark_limits, pidfd};

/// The part of the mark that all processes of a tree share.
#[derive(Clone, Copy)]
pub(crate) struct TreeTag {
    /// The run.
    pub(crate) run: RunId,
    /// The worker within the run.
    pub(crate) worker: Option<WorkerNumber>,
}

impl TreeTag {
    /// Returns whether a mark says the same, of a process that does not outlive its VM.
    pub(crate) fn is_on(self, mark: Mark) -> bool {
        mark.run() == self.run && mark.worker() == self.worker && !mark.outlives()
    }
}

/// The tag to give, and the limits that it may replace.
#[derive(Clone, Copy)]
pub(crate) struct Marker {
    /// The tag.
    pub(crate) tag: TreeTag,
    /// The limits that the shim inherited: a run around both of them is no supervisor of that
    /// process.
    pub(crate) inherited: Limits,
}

/// The outcome of marking one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MarkOutcome {
    /// The process has the mark now.
    Marked,
    /// The process had the mark before.
    AlreadyMarked,
    /// The process has another mark, and so a supervisor.
    OtherMark,
    /// The process has ended.
    Ended,
    /// The process cannot have a mark.
    Unmarkable(Errno),
}

/// Marks the process of a pidfd.
pub(crate) fn mark(pid: Pid, fd: BorrowedFd<'_>, marker: Marker) -> MarkOutcome {
    let Marker { tag, inherited } = marker;
    let limits = match mark_limits::read(pid) {
        Ok(limits) => limits,
        Err(Errno::SRCH) => return MarkOutcome::Ended,
        Err(errno) => return MarkOutcome::Unmarkable(errno),
    };
    match Mark::decode(limits) {
        Some(mark) if tag.is_on(mark) => return MarkOutcome::AlreadyMarked,
        Some(_) if limits != inherited => return MarkOutcome::OtherMark,
        _ => {}
    }
    let Ok(mark) = Mark::nested_in(limits, tag.run, tag.worker, false) else {
        return MarkOutcome::Unmarkable(Errno::LOOP);
    };
    if pidfd::has_ended(fd) {
        return MarkOutcome::Ended;
    }
    match replace(pid, limits, mark) {
        Ok(replaced) if pidfd::has_ended(fd) => {
            if replaced {
                take_back(pid, limits);
            }
            MarkOutcome::Ended
        }
        Ok(true) => MarkOutcome::Marked,
        // Another program marked it at this very moment.
        Ok(false) => MarkOutcome::OtherMark,
        Err(Errno::SRCH) => MarkOutcome::Ended,
        Err(errno) => MarkOutcome::Unmarkable(errno),
    }
}

/// Marks the process with this number if it still has the limits that were seen. If it has
/// others, it gets them back. Then the number belongs to another process by now, or another
/// program marked this one at that very moment.
pub(crate) fn replace(pid: Pid, seen: Limits, mark: Mark) -> Result<bool, Errno> {
    let old = mark_limits::swap(pid, mark.limits())?;
    if old != seen {
        take_back(pid, old);
    }
    Ok(old == seen)
}

/// Restores the old limits. Raising a hard limit needs CAP_SYS_RESOURCE. Without it, the limit is
/// lowered to the highest value that is no mark. The kernel enforces neither value.
fn take_back(pid: Pid, old: Limits) {
    if mark_limits::swap(pid, old).is_err() {
        let _ = mark_limits::swap(pid, Mark::NONE_BELOW);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::{AsFd, OwnedFd};
    use std::process::{Child, Command};

    struct Process(Child, Pid, OwnedFd);

    impl Process {
        fn start() -> Self {
            let child = Command::new("sleep").arg("20").spawn().unwrap();
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
            let fd = pidfd::open(pid).unwrap();
            Self(child, pid, fd)
        }

        fn mark(&self, tag: TreeTag) -> MarkOutcome {
            let inherited = mark_limits::read(rustix::process::getpid()).unwrap();
            mark(self.1, self.2.as_fd(), Marker { tag, inherited })
        }

        fn limits(&self) -> Limits {
            mark_limits::read(self.1).unwrap()
        }
    }

    impl Drop for Process {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn tag(run: u64, worker: u16) -> TreeTag {
        TreeTag { run: RunId::from_number(run).unwrap(), worker: WorkerNumber::new(worker) }
    }

    #[test]
    fn a_process_is_marked_once_and_by_one() {
        let process = Process::start();
        assert_eq!(process.mark(tag(7, 3)), MarkOutcome::Marked);
        let limits = process.limits();
        assert!(tag(7, 3).is_on(Mark::decode(limits).unwrap()));
        assert_eq!(process.mark(tag(7, 3)), MarkOutcome::AlreadyMarked);
        assert_eq!(process.mark(tag(7, 4)), MarkOutcome::OtherMark);
        assert_eq!(process.mark(tag(8, 3)), MarkOutcome::OtherMark);
        assert_eq!(process.limits(), limits);
    }

    #[test]
    fn a_process_that_has_ended_is_not_marked() {
        let mut process = Process::start();
        process.0.kill().unwrap();
        while !pidfd::has_ended(process.2.as_fd()) {}
        let before = process.limits();
        assert_eq!(process.mark(tag(7, 3)), MarkOutcome::Ended);
        assert_eq!(process.limits(), before);
    }

    #[test]
    fn a_process_that_took_a_seen_number_keeps_its_limit() {
        let process = Process::start();
        let seen = process.limits();
        assert_eq!(process.mark(tag(7, 3)), MarkOutcome::Marked);
        let theirs = process.limits();
        // Without CAP_SYS_RESOURCE only a lower hard limit can be set, and then not be taken
        // back.
        let ours = [6, 8].map(|run| {
            Mark::nested_in(seen, tag(run, 4).run, tag(run, 4).worker, false).unwrap()
        });
        let mark = ours.into_iter().find(|mark| mark.limits().hard < theirs.hard).unwrap();
        assert_eq!(replace(process.1, seen, mark), Ok(false));
        assert!(process.limits() == theirs || Mark::decode(process.limits()).is_none());
    }

    #[test]
    fn a_mark_that_hit_another_process_is_taken_back() {
        let process = Process::start();
        let before = process.limits();
        assert_eq!(process.mark(tag(7, 3)), MarkOutcome::Marked);
        take_back(process.1, before);
        assert_eq!(Mark::decode(process.limits()), Mark::decode(before));
    }
}
