//! Whether a process that names a run in its environment alone may descend from that run.
//!
//! Real programs hand a copy of their environment to processes that are not theirs: `at`, batch systems, a process
//! manager's daemon, a terminal multiplexer. The environment therefore convicts only where two things hold. Something
//! explains why the process has no mark, which every descendant inherits; and its living ancestors allow that it
//! descends from the run. In doubt the process is kept and reported.

use crate::Pid;
use crate::Seen;
use crate::host::Host;
use crate::mark_loss::{MarkLoss, service_group};
use crate::seen::{Examiner, Skipped};
use leash_tag::RunId;

const DEPTH: usize = 256;

// A parent that ends while the chain is read changes the chain: so often it is read anew.
const TRIES: usize = 3;

/// Why a missing mark is no sign that the process is a stranger.
enum Explanation {
    /// The mark was off or could not be set, or the process has lowered its own limits below it.
    Certain,
    /// Something with CAP_SYS_RESOURCE may have reset it.
    Possible,
}

/// Checks the process against both conditions; the error says which one fails.
///
/// `unmarked` says that the mark of this very worker was off.
pub(crate) fn is_plausible(
    host: &Host,
    seen: &Seen,
    run: RunId,
    loss: &MarkLoss,
    unmarked: bool,
) -> Result<(), &'static str> {
    let pid = seen.identity.pid;
    if seen.mark.is_unreadable() {
        return Err("its mark cannot be read");
    }
    let explanation = if unmarked || loss.unmarked || has_lowered_limits(host, pid) {
        Explanation::Certain
    } else if loss.resettable {
        Explanation::Possible
    } else {
        return Err("only its environment names the run, and no descendant of the run can lose its mark");
    };
    let group = loss.control_group.as_deref().map(str::as_bytes);
    if matches!(explanation, Explanation::Possible)
        && (group.is_none() || service_group(host, pid).as_deref() != group)
    {
        return Err("only its environment names the run, and it is not in the control group of the run's VM");
    }
    descends(host, seen, run, group)
}

/// Lowering a limit takes no capability, so it is a way to lose a mark on every host. A stranger has the limits of the
/// daemon that started it, which nothing lowers: the kernel has ignored this limit since 2.4.25.
fn has_lowered_limits(host: &Host, pid: Pid) -> bool {
    let mut buffer = Vec::new();
    let hard = |pid, buffer: &mut Vec<u8>| host.proc().limits(pid, buffer).map(|limits| limits.hard);
    match (hard(pid, &mut buffer), hard(host.me().pid, &mut buffer)) {
        (Ok(its), Ok(ours)) => its < ours,
        _ => false,
    }
}

/// Every living ancestor, up to the process that adopts orphans, has to be of the run itself.
fn descends(host: &Host, seen: &Seen, run: RunId, group: Option<&[u8]>) -> Result<(), &'static str> {
    let mut why = "its ancestors change faster than they are read";
    for _ in 0..TRIES {
        match chain(host, seen.identity.pid, run, group) {
            Chain::OfTheRun => return Ok(()),
            Chain::Broken(reason) => return Err(reason),
            Chain::Changed => {}
            Chain::Unreadable => why = "its ancestors cannot be read",
        }
    }
    Err(why)
}

enum Chain {
    OfTheRun,
    Broken(&'static str),
    Changed,
    Unreadable,
}

fn chain(host: &Host, first: Pid, run: RunId, group: Option<&[u8]>) -> Chain {
    let mut examiner = Examiner::new(host, &[]);
    let mut buffer = Vec::new();
    let mut pid = first;
    for _ in 0..DEPTH {
        let parent = match host.stat(pid, &mut buffer) {
            Ok(stat) => stat.parent,
            Err(_) => return Chain::Changed,
        };
        // From outside of this pid namespace only a stranger can start something in it.
        let Some(parent) = parent else { return Chain::Broken("its parent is in another pid namespace") };
        if parent.get() == 1 {
            return Chain::OfTheRun;
        }
        match examiner.again(parent) {
            Ok(seen) if seen.mark.present().is_some_and(|mark| mark.run() == run && mark.outlives()) => {
                return Chain::Broken("it descends from what was kept on purpose");
            }
            Ok(seen) if seen.runs().contains(&run) => pid = parent,
            Ok(_) | Err(Skipped::Untagged) if adopts(host, pid, parent, group) => return Chain::OfTheRun,
            Ok(_) | Err(Skipped::Untagged) => {
                return Chain::Broken("an ancestor of it is no process of the run");
            }
            Err(Skipped::Gone | Skipped::Zombie) => return Chain::Changed,
            Err(Skipped::Failed(_)) => return Chain::Unreadable,
        }
    }
    Chain::Broken("its ancestors are too many")
}

/// Whether a parent is a service manager that adopted an orphan: it stands outside of the control group of the run, and
/// the process inside. A daemon that hands out jobs has them in its own group.
fn adopts(host: &Host, pid: Pid, parent: Pid, group: Option<&[u8]>) -> bool {
    group.is_some()
        && service_group(host, pid).as_deref() == group
        && service_group(host, parent).is_some_and(|its| Some(its.as_slice()) != group)
}
