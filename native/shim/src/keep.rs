//! Whoever is left when the command has exited by itself, where that is to go on (`--on-exit=keep`).
//!
//! A mark that says so is all that keeps later runs from ending it, so it is set before we let go; it is not
//! set any earlier, because whoever is left by a command that was killed is not left on purpose. The mark is
//! one level deeper than the command's: hard limits can only be lowered (getrlimit(2)).

use leash_tag::{Mark, RunId, WorkerNumber};
use rustix::process::Pid;

use crate::foreign::Foreign;
use crate::proc_file::Proc;
use crate::sys::{self, signal};
use crate::tree::{self, Order, Walked};

/// Looks until nobody without the new mark is found.
const PASSES: u32 = 256;

/// What all processes of a tree carry.
#[derive(Clone, Copy)]
pub(crate) struct Tag {
    pub(crate) run: RunId,
    pub(crate) worker: Option<WorkerNumber>,
}

/// Marks everybody below this process as kept. `false` where that cannot be done for all of them.
///
/// Everybody is stopped for the moment, since a chain of processes each of which starts the next and exits could
/// be missed by any number of looks. A stopped process neither exits nor forks, not even in a fork that has
/// begun (fork(2) starts over while a signal is pending), so that its children are all in its list: when a look
/// finds nobody without the new mark, there is nobody.
pub(crate) fn everybody(proc: &Proc, foreign: &Foreign, tag: Tag) -> bool {
    let all = (0..PASSES).find_map(|_| look(proc, foreign, tag)).unwrap_or(false);
    // Children first: a parent that goes on may exit, and take those who are still stopped out of this walk's
    // reach.
    let _ = tree::walk(proc, foreign, Order::ChildrenFirst, &mut |met| met.signal(signal::CONT));
    all
}

/// `None` where one more look is needed.
fn look(proc: &Proc, foreign: &Foreign, tag: Tag) -> Option<bool> {
    let (mut changed, mut failed) = (false, false);
    let walked = tree::walk(proc, foreign, Order::ParentsFirst, &mut |met| {
        if let Ok(Some(mark)) = sys::locks_limits(met.pid()).map(Mark::decode)
            // Kept already, or of a run inside this one, whose own VM answers for it.
            && (mark.run() != tag.run || mark.outlives())
        {
            return;
        }
        met.signal(signal::STOP);
        match keep(met.pid(), tag) {
            Kept::Now => changed = true,
            Kept::Not => failed |= met.stat(proc).is_some_and(|stat| stat.lives()),
        }
    });
    match (walked, failed, changed) {
        (Walked::All, false, true) => None,
        (Walked::All, false, false) => Some(true),
        _ => Some(false),
    }
}

enum Kept {
    Now,
    Not,
}

fn keep(pid: Pid, tag: Tag) -> Kept {
    let Ok(limits) = sys::locks_limits(pid) else { return Kept::Not };
    if Mark::decode(limits).is_none_or(|mark| mark.run() != tag.run) {
        return Kept::Not;
    }
    let Ok(mark) = Mark::nested_in(limits, tag.run, tag.worker, true) else { return Kept::Not };
    match sys::swap_locks_limits(pid, mark.limits()) {
        Ok(old) if old == limits => Kept::Now,
        // The number was another's by then: that one gets back what it had.
        Ok(old) => {
            let _ = sys::swap_locks_limits(pid, old);
            Kept::Now
        }
        Err(_) => Kept::Not,
    }
}
