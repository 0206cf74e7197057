//! All processes that carry a mark, whatever their parents: a pass over `/proc`.
//!
//! A process that is not below this one gives no `ECHILD`. Everything that a marked process
//! starts inherits the mark, so a look at all processes finds every marked process. Each one
//! found is held by a pidfd. The pidfd is opened by number, then the mark is read by number, then
//! the pidfd is seen not to have ended. So the mark belongs to the process that the pidfd holds.

use leash_tag::{Limits, Mark, PassResult, Quiescence};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::os::proc_file::Proc;
use crate::os::{mark_limits, pidfd, process};

/// The result of a pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pass {
    /// Marked processes that live.
    pub(crate) living: u32,
    /// Marked processes that have ended and are not reaped.
    pub(crate) zombies: u32,
    /// A process ended after it was listed and before it was looked at. It may have been a marked
    /// process that started another process.
    pub(crate) churn: bool,
    /// A process could not be looked at, for lack of a resource.
    pub(crate) hole: bool,
}

/// The source of the pids of a pass.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum PidSource {
    /// The list in `/proc`.
    Listing,
    /// Every possible number. `/proc` may hide a process of the same user that is not dumpable.
    ///
    /// prlimit(2) asks for user and group ids or a capability, but not for that, and
    /// pidfd_open(2) goes by number. So such a process is found and held as safely as any other.
    /// With millions of numbers, a pass takes some seconds.
    AllPids,
}

/// The process table, and the test for wanted marks.
pub(crate) struct MarkScan<'a, F: Fn(Mark) -> bool> {
    /// The `/proc` of this pid namespace.
    pub(crate) proc: &'a Proc,
    /// Its listing.
    pub(crate) table: &'a OwnedFd,
    /// The test.
    pub(crate) wanted: F,
}

impl<F: Fn(Mark) -> bool> MarkScan<'_, F> {
    /// Returns whether these are the limits of a marked process.
    pub(crate) fn includes(&self, limits: Limits) -> bool {
        self.mark(limits).is_some()
    }

    /// Returns the mark in these limits, if it is a wanted one.
    fn mark(&self, limits: Limits) -> Option<Mark> {
        Mark::decode(limits).filter(|mark| (self.wanted)(*mark))
    }

    /// Calls `visit` with each living marked process except this one. The mark was read while the
    /// pidfd held the process.
    pub(crate) fn pass(
        &self,
        source: PidSource,
        visit: &mut dyn FnMut(Pid, Mark, OwnedFd),
    ) -> Pass {
        let mut pass = Pass::default();
        match source {
            PidSource::Listing => {
                let listed = Proc::each_process(self.table, &mut |pid| {
                    self.note(pid, self.proc.locks_limits(pid), visit, &mut pass);
                });
                pass.hole |= listed.is_err();
            }
            PidSource::AllPids => self.proc.each_number(&mut |pid| {
                let limits = mark_limits::read(pid);
                // A free number is no trace of a process, and a thread belongs to its process.
                if !matches!(limits, Err(Errno::SRCH)) {
                    let of_thread = limits.is_ok_and(|limits| is_thread(pid, limits));
                    let limits = if of_thread { Ok(Limits::UNLIMITED) } else { limits };
                    self.note(pid, limits, visit, &mut pass);
                }
            }),
        }
        pass
    }

    /// Takes one process into account.
    fn note(
        &self,
        pid: Pid,
        limits: Result<Limits, Errno>,
        visit: &mut dyn FnMut(Pid, Mark, OwnedFd),
        pass: &mut Pass,
    ) {
        if pid == process::own_pid() || pid.is_init() {
            return;
        }
        match limits.and_then(|limits| self.examine(pid, limits)) {
            Ok(Examined::Other) => {}
            Ok(Examined::Zombie) => pass.zombies += 1,
            Ok(Examined::Lives(mark, fd)) => {
                pass.living += 1;
                visit(pid, mark, fd);
            }
            Err(Errno::SRCH | Errno::NOENT) => pass.churn = true,
            // A hidden process (hidepid) shows nothing in any number of passes.
            Err(Errno::PERM | Errno::ACCESS) => {}
            Err(_) => pass.hole = true,
        }
    }

    /// Looks at a process. Its mark is read again once its pidfd is open.
    fn examine(&self, pid: Pid, limits: Limits) -> Result<Examined, Errno> {
        if !self.includes(limits) {
            return Ok(Examined::Other);
        }
        let fd = pidfd::open(pid)?;
        let mark = self.mark(self.proc.locks_limits(pid)?).ok_or(Errno::SRCH)?;
        Ok(if pidfd::has_ended(fd.as_fd()) {
            Examined::Zombie
        } else {
            Examined::Lives(mark, fd)
        })
    }
}

/// Returns whether a marked number is a thread that leads no process: EINVAL, since Linux 6.15
/// ENOENT (pidfd_open(2)).
fn is_thread(pid: Pid, limits: Limits) -> bool {
    Mark::decode(limits).is_some() && matches!(pidfd::open(pid), Err(Errno::INVAL | Errno::NOENT))
}

/// The result of a look at one process.
enum Examined {
    /// It has no wanted mark.
    Other,
    /// It has ended and is not reaped.
    Zombie,
    /// It has the mark, and the pidfd holds it.
    Lives(Mark, OwnedFd),
}

/// Tells [`Quiescence`] what the passes saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ScanProof {
    quiescence: Quiescence,
    zombies: u32,
}

impl ScanProof {
    /// Takes note of a pass. Returns whether no marked process is left.
    pub(crate) fn note(&mut self, pass: Pass) -> bool {
        // A new zombie is the trace of a process that lived a moment ago.
        let traces = pass.zombies > core::mem::replace(&mut self.zombies, pass.zombies);
        self.quiescence.note(if pass.living > 0 || pass.hole {
            PassResult::Found
        } else if pass.churn || traces {
            PassResult::Churn
        } else {
            PassResult::Quiet
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: Pass = Pass { living: 0, zombies: 0, churn: false, hole: false };

    fn passes(passes: &[Pass]) -> Option<usize> {
        let mut proof = ScanProof::default();
        passes.iter().position(|pass| proof.note(*pass))
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
            Pass { churn: true, ..EMPTY },
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
        let busy = Pass { churn: true, ..EMPTY };
        assert_eq!(passes(&[busy; 30]), Some(19));
        assert_eq!(
            passes(&[Pass { hole: true, ..busy }; 30]),
            None,
            "but none of them may have a hole"
        );
    }
}
