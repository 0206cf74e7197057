//! Everybody who carries a mark, whoever is his parent: a pass over `/proc`.
//!
//! What is not below this process has no `ECHILD`. A mark is inherited by everything that its bearer starts, so
//! whoever has it is found by looking at all processes, and whoever is found is held by a pidfd: opened by number,
//! then the mark is read by number, then the pidfd is seen not to have ended. So the mark was its own.

use leash_tag::{Limits, Mark};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

use crate::proc_file::{Proc, own_pid};
use crate::tree::ended;

/// Passes in a row that have to be calm, and as many as are enough on a machine where processes end all the time.
const CALM: u32 = 3;
const RESTLESS: u32 = 20;

/// What a pass came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pass {
    /// Bearers who live.
    pub(crate) living: u32,
    /// Bearers who have ended and are not reaped.
    pub(crate) zombies: u32,
    /// Somebody ended between being listed and being looked at. It may have been a bearer, and have started another.
    pub(crate) fleeting: bool,
    /// Somebody could not be looked at for want of something.
    pub(crate) hole: bool,
}

/// The process table, and whose marks are looked for.
pub(crate) struct Bearers<'a, F: Fn(Mark) -> bool> {
    pub(crate) proc: &'a Proc,
    pub(crate) table: &'a OwnedFd,
    pub(crate) wanted: F,
}

impl<F: Fn(Mark) -> bool> Bearers<'_, F> {
    /// Whether limits are those of a bearer.
    pub(crate) fn includes(&self, limits: Limits) -> bool {
        self.mark(limits).is_some()
    }

    fn mark(&self, limits: Limits) -> Option<Mark> {
        Mark::decode(limits).filter(|mark| (self.wanted)(*mark))
    }

    /// Calls `visit` with each living bearer but this process, and the mark that was read while the pidfd held him.
    pub(crate) fn pass(&self, visit: &mut dyn FnMut(Pid, Mark, OwnedFd)) -> Pass {
        let mut pass = Pass::default();
        let listed = Proc::each_process(self.table, &mut |pid| {
            self.note(pid, self.proc.locks_limits(pid), visit, &mut pass);
        });
        pass.hole |= listed.is_err();
        pass
    }

    /// The same of every number instead of those that `/proc` lists: it hides a process of our own that is not dumpable.
    ///
    /// prlimit(2) asks for user and group ids or a capability and not for that, and pidfd_open(2) goes by number, so such
    /// a bearer is found and held as safely as any other. Some seconds where there are millions of numbers.
    pub(crate) fn pass_by_number(&self, visit: &mut dyn FnMut(Pid, Mark, OwnedFd)) -> Pass {
        let mut pass = Pass::default();
        self.proc.each_number(&mut |pid| {
            let limits = crate::sys::locks_limits(pid);
            // A free number is no trace of a process, and a thread is its process's.
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

/// Whether a marked number is a thread that leads no process: EINVAL, since Linux 6.15 ENOENT (pidfd_open(2)).
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

/// Passes that found nobody: what one of them proves, and what it takes to be sure.
///
/// Numbers rise, and a pass goes upwards with a listing that is never old: who starts the next and exits is met at
/// one of the two, but where numbers wrap. So several passes have to see nobody, and nothing that might have been
/// somebody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Calm {
    calm: u32,
    restless: u32,
    zombies: u32,
}

impl Calm {
    /// Takes note of a pass; whether nobody is left.
    pub(crate) fn proven(&mut self, pass: Pass) -> bool {
        // A new zombie is the trace of somebody who lived a moment ago.
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

/// Signals whom a pidfd holds, each signal followed by what comes next.
pub(crate) fn send(fd: BorrowedFd<'_>, signals: &[u8]) {
    for &number in signals {
        // Gone meanwhile is fine; who may not be signalled is found alive at the end.
        let _ = crate::sys::pidfd_signal(fd, number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: Pass = Pass { living: 0, zombies: 0, fleeting: false, hole: false };

    fn passes(passes: &[Pass]) -> Option<usize> {
        let mut calm = Calm::default();
        passes.iter().position(|pass| calm.proven(*pass))
    }

    #[test]
    fn one_pass_that_finds_nobody_proves_nothing() {
        assert_eq!(passes(&[NOBODY; 2]), None);
        assert_eq!(passes(&[NOBODY; 3]), Some(2));
    }

    #[test]
    fn whoever_lives_or_left_a_trace_begins_it_anew() {
        for other in [
            Pass { living: 1, ..NOBODY },
            Pass { fleeting: true, ..NOBODY },
            Pass { hole: true, ..NOBODY },
            Pass { zombies: 1, ..NOBODY },
        ] {
            let later = Pass { zombies: other.zombies, ..NOBODY };
            assert_eq!(
                passes(&[NOBODY, NOBODY, other, later, later, later]),
                Some(5),
                "{other:?}"
            );
        }
    }

    #[test]
    fn a_zombie_that_stays_is_no_trace() {
        let old = Pass { zombies: 3, ..NOBODY };
        assert_eq!(passes(&[old; 5]), Some(3));
    }

    #[test]
    fn where_processes_end_all_the_time_many_passes_are_enough() {
        let busy = Pass { fleeting: true, ..NOBODY };
        assert_eq!(passes(&[busy; 30]), Some(19));
        assert_eq!(
            passes(&[Pass { hole: true, ..busy }; 30]),
            None,
            "but none of them may have a hole"
        );
    }
}
