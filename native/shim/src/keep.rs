//! The processes that are left when the command has exited by itself, if they are to go on
//! (`--on-exit=keep`).
//!
//! Only a mark that says so keeps later runs from ending such a process, so the shim sets it
//! before it lets go. The shim does not set it earlier, since processes left by a killed command
//! are not left on purpose. The mark is one level deeper than the command's, since hard limits
//! can only be lowered (getrlimit(2)).

use leash_tag::{Limits, Mark};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::foreign::Foreign;
use crate::marking::{self, Tag};
use crate::proc_file::Proc;
use crate::sys::{self, signal};
use crate::tree::{self, Met, Order, Threads, Walked};

/// The time in which all of them must be stopped and marked. A loaded machine takes less, and an
/// operator would wait longer.
const PATIENCE_MS: u64 = 2_000;

/// The time after which a process that still waits in the kernel counts as stopped, if all others
/// are. It waits for one of them: after vfork(2), for a child that is stopped before its exec. It
/// cannot fork, and has the mark.
const BLOCKED_MS: u64 = 50;

/// Marks all processes below this one as kept. Returns `false` if not all of them can be marked.
///
/// All of them are stopped for the moment. Otherwise any number of looks could miss a chain of
/// processes that each start the next and exit. A stopped process neither exits nor forks. If a
/// fork had begun when the process was signalled, the fork is over when the process is seen
/// stopped. The child is then in its list. A process that exits leaves a zombie, and leaves its
/// children to the shim.
///
/// So the set is complete once a look finds all of them stopped or dead, with the new mark since
/// before the look began.
pub(crate) fn keep_all(proc: &Proc, foreign: &Foreign, tag: Tag) -> bool {
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
    // Children go first. A parent that goes on may exit, and its children, still stopped, would
    // then be out of this walk's reach.
    let _ = foreign.walk(proc, Order::ChildrenFirst, &mut |met| met.signal(signal::CONT));
    all
}

/// Marks this process like those that it keeps.
pub(crate) fn self_too(tag: Tag) -> bool {
    let own = rustix::process::getpid();
    let Ok(limits) = sys::locks_limits(own) else { return false };
    mark_kept(own, limits, tag) == Look::Again
}

/// The result of one look; later values outweigh earlier ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Look {
    /// All have the mark.
    All,
    /// A process waits in the kernel and cannot be stopped.
    Blocked,
    /// A process is not stopped yet.
    Wait,
    /// A process was marked just now, or ended.
    Again,
    /// A process cannot be marked.
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
        // The process belongs to a run inside this one, and the VM of that run is responsible for
        // it.
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
