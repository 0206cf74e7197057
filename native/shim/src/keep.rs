//! Whoever is left when the command has exited by itself, where that is to go on (`--on-exit=keep`).
//!
//! A mark that says so is all that keeps later runs from ending it, so it is set before we let go; it is not
//! set any earlier, because whoever is left by a command that was killed is not left on purpose. The mark is
//! one level deeper than the command's: hard limits can only be lowered (getrlimit(2)).

use leash_tag::{Limits, Mark};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::foreign::Foreign;
use crate::marking::{self, Tag};
use crate::proc_file::Proc;
use crate::sys::{self, signal};
use crate::tree::{self, Met, Order, Threads, Walked};

/// How long everybody gets to be stopped and marked: more than a loaded machine takes, and less than an operator
/// would wait.
const PATIENCE_MS: u64 = 2_000;

/// Who waits that long in the kernel after everybody else was stopped waits for one of them: after vfork(2) for a
/// child that is stopped before its exec. It cannot fork, and has the mark.
const BLOCKED_MS: u64 = 50;

/// Marks everybody below this process as kept. `false` where that cannot be done for all of them.
///
/// Everybody is stopped for the moment, since a chain of processes each of which starts the next and exits could
/// be missed by any number of looks. A stopped process neither exits nor forks; a fork that had begun when it was
/// signalled is over when it is seen stopped, and its child is in its list. Who exits leaves a zombie, and its
/// children to us. So when a look finds everybody stopped or dead, and all of them with the new mark since before
/// it began, there is nobody else.
pub(crate) fn everybody(proc: &Proc, foreign: &Foreign, tag: Tag) -> bool {
    let deadline = sys::now_ms().saturating_add(PATIENCE_MS);
    let mut blocked_since = None;
    let all = loop {
        let (seen, now) = (look(proc, foreign, tag), sys::now_ms());
        if seen != Look::Blocked {
            blocked_since = None;
        }
        match seen {
            Look::All => break true,
            Look::Blocked
                if now >= blocked_since.get_or_insert(now).saturating_add(BLOCKED_MS) =>
            {
                break true;
            }
            Look::Never => break false,
            _ if now >= deadline => break false,
            Look::Again => {}
            Look::Blocked | Look::Wait => sys::pause_ms(1),
        }
    };
    // Children first: a parent that goes on may exit, and take those who are still stopped out of this walk's
    // reach.
    let _ = foreign.walk(proc, Order::ChildrenFirst, &mut |met| met.signal(signal::CONT));
    all
}

/// Marks this process like those that it keeps.
pub(crate) fn self_too(tag: Tag) -> bool {
    let own = rustix::process::getpid();
    let Ok(limits) = sys::locks_limits(own) else { return false };
    mark_kept(own, limits, tag) == Look::Again
}

/// What one look came to, the later ones outdoing the earlier.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Look {
    /// Nobody is without the mark.
    All,
    /// Somebody waits in the kernel and cannot be stopped.
    Blocked,
    /// Somebody is not stopped yet.
    Wait,
    /// Somebody was marked just now, or went.
    Again,
    /// Somebody cannot be marked.
    Never,
}

fn look(proc: &Proc, foreign: &Foreign, tag: Tag) -> Look {
    let mut found = Look::All;
    let walked = foreign.walk(proc, Order::ParentsFirst, &mut |met| {
        found = found.max(keep(proc, met, tag));
    });
    if walked == Walked::All { found } else { Look::Never }
}

fn keep(proc: &Proc, met: &Met<'_>, tag: Tag) -> Look {
    let threads = || tree::threads(proc, met.pid());
    let limits = match sys::locks_limits(met.pid()) {
        Ok(limits) => limits,
        Err(Errno::SRCH) => return Look::Again,
        Err(_) => return if threads() == Threads::Ended { Look::All } else { Look::Never },
    };
    match Mark::decode(limits) {
        // Of a run inside this one, whose own VM answers for it.
        Some(mark) if mark.run() != tag.run => Look::All,
        Some(mark) if mark.outlives() => match threads() {
            Threads::Ended | Threads::Stopped => Look::All,
            blocked_or_not => {
                met.signal(signal::STOP);
                if blocked_or_not == Threads::Blocked { Look::Blocked } else { Look::Wait }
            }
        },
        Some(_) => {
            met.signal(signal::STOP);
            mark_kept(met.pid(), limits, tag)
        }
        None => {
            if threads() == Threads::Ended {
                Look::All
            } else {
                Look::Never
            }
        }
    }
}

fn mark_kept(pid: Pid, limits: Limits, tag: Tag) -> Look {
    let Ok(mark) = Mark::nested_in(limits, tag.run, tag.worker, true) else { return Look::Never };
    match marking::replace(pid, limits, mark) {
        Ok(_) | Err(Errno::SRCH) => Look::Again,
        Err(_) => Look::Never,
    }
}
