//! All processes that carry a mark, whatever their parents: a pass over `/proc`.
//!
//! A process that is not below this one gives no `ECHILD`. Everything that a bearer starts
//! inherits the mark, so a look at all processes finds every bearer. Each one found is held by a
//! pidfd. The pidfd is opened by number, then the mark is read by number, then the pidfd is seen
//! not to have ended. So the mark belongs to the process that the pidfd holds.

use leash_tag::{Limits, Mark};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

use crate::proc_file::{Proc, own_pid};
use crate::tree::ended;

/// Calm passes in a row that are the proof, and passes that are enough on a machine where
/// processes end all the time.
const CALM: u32 = 3;
const RESTLESS: u32 = 20;

/// The result of a pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pass {
    /// Bearers that live.
    pub(crate) living: u32,
    /// Bearers that have ended and are not reaped.
    pub(crate) zombies: u32,
    /// A process ended after it was listed and before it was looked at. It may have been a bearer
    /// that started another process.
    pub(crate) fleeting: bool,
    /// A process could not be looked at, for lack of a resource.
    pub(crate) hole: bool,
}

/// The process table, and the test for wanted marks.
pub(crate) struct Bearers<'a, F: Fn(Mark) -> bool> {
    pub(crate) proc: &'a Proc,
    pub(crate) table: &'a OwnedFd,
    pub(crate) wanted: F,
}

impl<F: Fn(Mark) -> bool> Bearers<'_, F> {
    /// Returns whether these are the limits of a bearer.
    pub(crate) fn includes(&self, limits: Limits) -> bool {
        self.mark(limits).is_some()
    }

    fn mark(&self, limits: Limits) -> Option<Mark> {
        Mark::decode(limits).filter(|mark| (self.wanted)(*mark))
    }

    /// Calls `visit` with each living bearer except this process. The mark was read while the
    /// pidfd held the bearer.
    pub(crate) fn pass(&self, visit: &mut dyn FnMut(Pid, Mark, OwnedFd)) -> Pass {
        let mut pass = Pass::default();
        let listed = Proc::each_process(self.table, &mut |pid| {
            self.note(pid, self.proc.locks_limits(pid), visit, &mut pass);
        });
        pass.hole |= listed.is_err();
        pass
    }

    /// Does the same for every number instead of those that `/proc` lists, which hides a process
    /// of the same user that is not dumpable.
    ///
    /// prlimit(2) asks for user and group ids or a capability, but not for that, and
    /// pidfd_open(2) goes by number. So such a bearer is found and held as safely as any other.
    /// With millions of numbers, a pass takes some seconds.
    pub(crate) fn pass_by_number(&self, visit: &mut dyn FnMut(Pid, Mark, OwnedFd)) -> Pass {
        let mut pass = Pass::default();
        self.proc.each_number(&mut |pid| {
            let limits = crate::sys::locks_limits(pid);
            // A free number is no trace of a process, and a thread belongs to its process.
            if !matches!(limits, Err(Errno::SRCH)) {
                let limits =
                    limits.map(
                        |limits| if is_thread(pid, limits) { Limits::UNLIMITED } else { limits },
                    );
                self.note(pid, limits, visit, &mut pass);
            }
        });
        pass
    }

    fn note(
        &self,
        pid: Pid,
        limits: Result<Limits, Errno>,
        visit: &mut dyn FnMut(Pid, Mark, OwnedFd),
        pass: &mut Pass,
    ) {
        if pid.as_raw_pid() == own_pid() || pid.is_init() {
            return;
        }
        match limits.and_then(|limits| self.look(pid, limits)) {
            Ok(Look::Other) => {}
            Ok(Look::Zombie) => pass.zombies += 1,
            Ok(Look::Lives(mark, fd)) => {
                pass.living += 1;
                visit(pid, mark, fd);
            }
            Err(Errno::SRCH | Errno::NOENT) => pass.fleeting = true,
            // A hidden process (hidepid) shows nothing in any number of passes.
            Err(Errno::PERM | Errno::ACCESS) => {}
            Err(_) => pass.hole = true,
        }
    }

    fn look(&self, pid: Pid, limits: Limits) -> Result<Look, Errno> {
        if !self.includes(limits) {
            return Ok(Look::Other);
        }
        let fd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        let mark = self.mark(self.proc.locks_limits(pid)?).ok_or(Errno::SRCH)?;
        Ok(if ended(fd.as_fd()) { Look::Zombie } else { Look::Lives(mark, fd) })
    }
}

/// Returns whether a marked number is a thread that leads no process: EINVAL, since Linux 6.15
/// ENOENT (pidfd_open(2)).
fn is_thread(pid: Pid, limits: Limits) -> bool {
    Mark::decode(limits).is_some()
        && matches!(
            rustix::process::pidfd_open(pid, PidfdFlags::empty()),
            Err(Errno::INVAL | Errno::NOENT)
        )
}

enum Look {
    Other,
    Zombie,
    Lives(Mark, OwnedFd),
}

/// Counts the passes that found no bearer, until they prove that none is left.
///
/// Numbers rise, and a pass goes upwards with a listing that is never old. So a process that
/// starts the next one and exits is met, or the next one is, unless numbers wrap. Therefore
/// several passes have to see no bearer, and no trace of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Calm {
    calm: u32,
    restless: u32,
    zombies: u32,
}

impl Calm {
    /// Takes note of a pass. Returns whether no bearer is left.
    pub(crate) fn proven(&mut self, pass: Pass) -> bool {
        // A new zombie is the trace of a process that lived a moment ago.
        let traces = pass.zombies > core::mem::replace(&mut self.zombies, pass.zombies);
        if pass.living > 0 || pass.hole {
            (self.calm, self.restless) = (0, 0);
        } else if pass.fleeting || traces {
            (self.calm, self.restless) = (0, self.restless.saturating_add(1));
        } else {
            self.calm = self.calm.saturating_add(1);
        }
        self.calm >= CALM || self.restless >= RESTLESS
    }
}

/// Sends the signals, in order, to the process that a pidfd holds.
pub(crate) fn send(fd: BorrowedFd<'_>, signals: &[u8]) {
    for &number in signals {
        // If the process is gone meanwhile, that is fine. If it may not be signalled, it is found
        // alive at the end.
        let _ = crate::sys::pidfd_signal(fd, number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: Pass = Pass { living: 0, zombies: 0, fleeting: false, hole: false };

    fn passes(passes: &[Pass]) -> Option<usize> {
        let mut calm = Calm::default();
        passes.iter().position(|pass| calm.proven(*pass))
    }

    #[test]
    fn one_pass_that_finds_no_process_proves_nothing() {
        assert_eq!(passes(&[EMPTY; 2]), None);
        assert_eq!(passes(&[EMPTY; 3]), Some(2));
    }

    #[test]
    fn a_process_that_lives_or_left_a_trace_begins_it_anew() {
        for other in [
            Pass { living: 1, ..EMPTY },
            Pass { fleeting: true, ..EMPTY },
            Pass { hole: true, ..EMPTY },
            Pass { zombies: 1, ..EMPTY },
        ] {
            let later = Pass { zombies: other.zombies, ..EMPTY };
            assert_eq!(passes(&[EMPTY, EMPTY, other, later, later, later]), Some(5), "{other:?}");
        }
    }

    #[test]
    fn a_zombie_that_stays_is_no_trace() {
        let old = Pass { zombies: 3, ..EMPTY };
        assert_eq!(passes(&[old; 5]), Some(3));
    }

    #[test]
    fn where_processes_end_all_the_time_many_passes_are_enough() {
        let busy = Pass { fleeting: true, ..EMPTY };
        assert_eq!(passes(&[busy; 30]), Some(19));
        assert_eq!(
            passes(&[Pass { hole: true, ..busy }; 30]),
            None,
            "but none of them may have a hole"
        );
    }
}
