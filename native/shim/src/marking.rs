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

/// What all processes of a tree carry.
#[derive(Clone, Copy)]
pub(crate) struct Tag {
    pub(crate) run: RunId,
    pub(crate) worker: Option<WorkerNumber>,
}

impl Tag {
    pub(crate) fn is_on(self, mark: Mark) -> bool {
        mark.run() == self.run && mark.worker() == self.worker && !mark.outlives()
    }
}

/// Gives the tag to those who are there.
#[derive(Clone, Copy)]
pub(crate) struct Marker {
    pub(crate) tag: Tag,
    /// What we ourselves had inherited: a run around all of us is no supervisor of that process.
    pub(crate) inherited: Limits,
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
pub(crate) fn mark(pid: Pid, fd: BorrowedFd<'_>, marker: Marker) -> Marking {
    let Marker { tag, inherited } = marker;
    let limits = match sys::locks_limits(pid) {
        Ok(limits) => limits,
        Err(Errno::SRCH) => return Marking::Gone,
        Err(errno) => return Marking::Never(errno),
    };
    match Mark::decode(limits) {
        Some(mark) if tag.is_on(mark) => return Marking::Before,
        Some(_) if limits != inherited => return Marking::Others,
        _ => {}
    }
    let Ok(mark) = Mark::nested_in(limits, tag.run, tag.worker, false) else {
        return Marking::Never(Errno::LOOP);
    };
    if ended(fd) {
        return Marking::Gone;
    }
    match replace(pid, limits, mark) {
        Ok(replaced) if ended(fd) => {
            if replaced {
                take_back(pid, limits);
            }
            Marking::Gone
        }
        Ok(true) => Marking::Done,
        // Somebody else marked it in this very moment.
        Ok(false) => Marking::Others,
        Err(Errno::SRCH) => Marking::Gone,
        Err(errno) => Marking::Never(errno),
    }
}

/// Marks whoever has a number and still the limits that were seen. Who has others gets them back: the number is
/// somebody else's by now, or he was marked in this very moment.
pub(crate) fn replace(pid: Pid, seen: Limits, mark: Mark) -> Result<bool, Errno> {
    let old = sys::swap_locks_limits(pid, mark.limits())?;
    if old != seen {
        take_back(pid, old);
    }
    Ok(old == seen)
}

/// A hard limit is raised with CAP_SYS_RESOURCE only; without it, it is lowered to the highest that is no mark. The
/// kernel enforces neither.
fn take_back(pid: Pid, old: Limits) {
    if sys::swap_locks_limits(pid, old).is_err() {
        let _ = sys::swap_locks_limits(pid, Mark::NONE_BELOW);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::{AsFd, OwnedFd};
    use rustix::process::PidfdFlags;
    use std::process::{Child, Command};

    struct Process(Child, Pid, OwnedFd);

    impl Process {
        fn start() -> Self {
            let child = Command::new("sleep").arg("20").spawn().unwrap();
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
            let fd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap();
            Self(child, pid, fd)
        }

        fn mark(&self, tag: Tag) -> Marking {
            let inherited = sys::locks_limits(rustix::process::getpid()).unwrap();
            mark(self.1, self.2.as_fd(), Marker { tag, inherited })
        }

        fn limits(&self) -> Limits {
            sys::locks_limits(self.1).unwrap()
        }
    }

    impl Drop for Process {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn tag(run: u64, worker: u16) -> Tag {
        Tag { run: RunId::from_number(run).unwrap(), worker: WorkerNumber::new(worker) }
    }

    #[test]
    fn a_process_is_marked_once_and_by_one() {
        let process = Process::start();
        assert_eq!(process.mark(tag(7, 3)), Marking::Done);
        let limits = process.limits();
        assert!(tag(7, 3).is_on(Mark::decode(limits).unwrap()));
        assert_eq!(process.mark(tag(7, 3)), Marking::Before);
        assert_eq!(process.mark(tag(7, 4)), Marking::Others);
        assert_eq!(process.mark(tag(8, 3)), Marking::Others);
        assert_eq!(process.limits(), limits);
    }

    #[test]
    fn who_has_ended_is_not_marked() {
        let mut process = Process::start();
        process.0.kill().unwrap();
        while !ended(process.2.as_fd()) {}
        let before = process.limits();
        assert_eq!(process.mark(tag(7, 3)), Marking::Gone);
        assert_eq!(process.limits(), before);
    }

    #[test]
    fn who_is_not_who_was_seen_keeps_what_he_has() {
        let process = Process::start();
        let seen = process.limits();
        assert_eq!(process.mark(tag(7, 3)), Marking::Done);
        let theirs = process.limits();
        // Without CAP_SYS_RESOURCE only a lower hard limit can be set, and then not be taken back.
        let ours = [6, 8].map(|run| {
            Mark::nested_in(seen, tag(run, 4).run, tag(run, 4).worker, false).unwrap()
        });
        let mark = ours.into_iter().find(|mark| mark.limits().hard < theirs.hard).unwrap();
        assert_eq!(replace(process.1, seen, mark), Ok(false));
        assert!(process.limits() == theirs || Mark::decode(process.limits()).is_none());
    }

    #[test]
    fn a_mark_that_hit_somebody_else_is_taken_back() {
        let process = Process::start();
        let before = process.limits();
        assert_eq!(process.mark(tag(7, 3)), Marking::Done);
        take_back(process.1, before);
        assert_eq!(Mark::decode(process.limits()), Mark::decode(before));
    }
}
