//! The processes that are left when the command has exited by itself, if they are to go on
//! (`--on-exit=keep`).
//!
//! Only a mark that says so keeps later runs from ending such a process, so the shim sets it
//! before it lets go. The shim does not set it earlier, since processes left by a killed command
//! are not left on purpose. The mark is one level deeper than the command's, since hard limits
//! can only be lowered (getrlimit(2)).

use leash_tag::{Limits, Mark, signal};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::os::proc_file::Proc;
use crate::os::{clock, mark_limits, process};
use crate::tree::marking::{self, TreeTag};
use crate::tree::threads::{Threads, threads};
use crate::tree::walk::{self, Order, Visited, Walked};

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
pub(crate) fn keep_all(proc: &Proc, tag: TreeTag) -> bool {
    let deadline = clock::now_ms().saturating_add(PATIENCE_MS);
    let mut blocked_since = None;
    let all = loop {
        let (seen, now) = (look_at_all(proc, tag), clock::now_ms());
        if seen != KeepState::Blocked {
            blocked_since = None;
        }
        match seen {
            KeepState::All => break true,
            KeepState::Blocked
                if now >= blocked_since.get_or_insert(now).saturating_add(BLOCKED_MS) =>
            {
                break true;
            }
            KeepState::Never => break false,
            _ if now >= deadline => break false,
            KeepState::Again => {}
            KeepState::Blocked | KeepState::Wait => clock::pause_ms(1),
        }
    };
    // Children go first. A parent that goes on may exit, and its children, still stopped, would
    // then be out of this walk's reach.
    let _ = walk::walk_all(proc, Order::ChildrenFirst, &mut |visited| {
        visited.signal_all(&[signal::CONT])
    });
    all
}

/// Marks this process like those that it keeps.
pub(crate) fn keep_self(tag: TreeTag) -> bool {
    let own = process::own_pid();
    let Ok(limits) = mark_limits::read(own) else { return false };
    mark_kept(own, limits, tag) == KeepState::Again
}

/// The result of one look; later values outweigh earlier ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum KeepState {
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

/// Looks at every process below this one once. Returns the state that decides.
fn look_at_all(proc: &Proc, tag: TreeTag) -> KeepState {
    let mut found = KeepState::All;
    let walked = walk::walk_all(proc, Order::ParentsFirst, &mut |visited| {
        found = found.max(keep(proc, visited, tag));
    });
    if walked == Walked::All { found } else { KeepState::Never }
}

/// Brings one process nearer to being stopped and marked as kept.
fn keep(proc: &Proc, visited: &Visited<'_>, tag: TreeTag) -> KeepState {
    let state = || threads(proc, visited.pid());
    let limits = match mark_limits::read(visited.pid()) {
        Ok(limits) => limits,
        Err(Errno::SRCH) => return KeepState::Again,
        Err(_) => {
            return if state() == Threads::Ended { KeepState::All } else { KeepState::Never };
        }
    };
    match Mark::decode(limits) {
        // The process belongs to a run inside this one, and the VM of that run is responsible for
        // it.
        Some(mark) if mark.run() != tag.run => KeepState::All,
        Some(mark) if mark.outlives() => match state() {
            Threads::Ended | Threads::Stopped => KeepState::All,
            blocked_or_not => {
                visited.signal_all(&[signal::STOP]);
                if blocked_or_not == Threads::Blocked {
                    KeepState::Blocked
                } else {
                    KeepState::Wait
                }
            }
        },
        Some(_) => {
            visited.signal_all(&[signal::STOP]);
            mark_kept(visited.pid(), limits, tag)
        }
        None => {
            if state() == Threads::Ended {
                KeepState::All
            } else {
                KeepState::Never
            }
        }
    }
}

/// Gives a process the mark of a kept one, if its limits are still those that were seen.
fn mark_kept(pid: Pid, limits: Limits, tag: TreeTag) -> KeepState {
    let Ok(mark) = Mark::nested_in(limits, tag.run, tag.worker, true) else {
        return KeepState::Never;
    };
    match marking::replace(pid, limits, mark) {
        Ok(_) | Err(Errno::SRCH) => KeepState::Again,
        Err(_) => KeepState::Never,
    }
}
