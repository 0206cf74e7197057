//! Whether a process that names a run in its environment alone may descend from that run.
//!
//! Real programs hand a copy of their environment to processes that are not theirs: `at`, batch
//! systems, a process manager's daemon, a terminal multiplexer. So the environment convicts only
//! if two conditions hold:
//!
//! - Something explains why the process has no mark, which every descendant inherits.
//! - The living ancestors of the process allow that it descends from the run.
//!
//! In doubt, the process is kept and reported.

use crate::os::pid::Pid;
use crate::procfs::host::Host;
use crate::runs::mark_loss::{MarkLoss, service_group};
use crate::runs::worker_group::GroupName;
use crate::tags::process_reader::{ProcessReader, Skipped};
use crate::tags::tagged_process::TaggedProcess;
use leash_tag::RunId;

const DEPTH: usize = 256;

// A parent that ends while the chain is read changes the chain. The chain is read at most this
// many times.
const TRIES: usize = 3;

/// The reason why a missing mark does not show that the process is a stranger.
enum Explanation {
    /// The mark was off or could not be set, or the process lowered its own limits below it.
    Certain,
    /// Something with CAP_SYS_RESOURCE may have reset it.
    Possible,
}

/// Checks the process against both conditions. The error says which one fails.
///
/// `unmarked` says that the mark of this very worker was off.
pub(crate) fn is_plausible(
    host: &Host,
    process: &TaggedProcess,
    run: RunId,
    loss: &MarkLoss,
    unmarked: bool,
) -> Result<(), &'static str> {
    let pid = process.identity.pid;
    if process.mark.is_unreadable() {
        return Err("its mark cannot be read");
    }
    // What becomes another user does so where marks can be reset. A worker without a mark of its
    // own explains nothing about that user.
    let is_anothers = process.uids.is_none_or(|uids| uids.real != host.uid());
    let explanation = if unmarked || loss.unmarked || has_lowered_limits(host, pid) {
        Explanation::Certain
    } else if loss.resettable {
        Explanation::Possible
    } else {
        return Err(
            "only its environment names the run, and no descendant of the run can lose its mark",
        );
    };
    let group = loss.control_group.as_deref().map(str::as_bytes);
    if (is_anothers || matches!(explanation, Explanation::Possible))
        && !is_inside(host, pid, run, group)
    {
        return Err(
            "only its environment names the run, and it is not in the control group of the run's VM",
        );
    }
    let adopters = match explanation {
        Explanation::Certain => loss.ancestors.as_slice(),
        Explanation::Possible => &[],
    };
    descends(host, process.identity.pid, &Family { run, group, adopters })
}

/// Whether a process that says nothing of the run may have lost every carrier of it.
///
/// `sudo` and a login shell (`su -`) clear the environment, and PAM resets the mark. The control
/// group of the VM and the ancestors are what is left. They convict nothing.
pub(crate) fn is_possible(host: &Host, pid: Pid, run: RunId, loss: &MarkLoss) -> bool {
    let group = loss.control_group.as_deref().map(str::as_bytes);
    loss.resettable
        && is_inside(host, pid, run, group)
        && descends(host, pid, &Family { run, group, adopters: &[] }).is_ok()
}

/// Whether a process is in the group of the run's VM, or in one that was made for a worker of
/// the run. A process is born there, or was moved there by a process with the right to do so.
fn is_inside(host: &Host, pid: Pid, run: RunId, group: Option<&[u8]>) -> bool {
    let Some(path) = service_group(host, pid) else { return false };
    let mut parts = path.split(|&byte| byte == b'/').filter_map(GroupName::parse);
    Some(path.as_slice()) == group || parts.any(|name| name.run == run && !name.may_outlive)
}

/// The processes that may be living ancestors of a process of a run.
struct Family<'a> {
    run: RunId,
    group: Option<&'a [u8]>,
    // A daemon above the VM hands out jobs and also adopts orphans (pm2 with a VM as its app). So
    // its children count only if the process itself shows that it lost its mark.
    adopters: &'a [(u32, u64)],
}

/// Whether the process has a lower hard limit than this one.
///
/// Lowering a limit takes no capability, so a process can lose its mark that way on every host. A
/// stranger has the limits of the daemon that started it. Nothing lowers those, because the
/// kernel has ignored this limit since 2.4.25.
fn has_lowered_limits(host: &Host, pid: Pid) -> bool {
    let mut buffer = Vec::new();
    let hard =
        |pid, buffer: &mut Vec<u8>| host.proc().limits(pid, buffer).map(|limits| limits.hard);
    match (hard(pid, &mut buffer), hard(host.me().pid, &mut buffer)) {
        (Ok(its), Ok(ours)) => its < ours,
        _ => false,
    }
}

/// Checks that every living ancestor, up to the process that adopts orphans, is of the run
/// itself.
fn descends(host: &Host, pid: Pid, family: &Family<'_>) -> Result<(), &'static str> {
    let mut why = "its ancestors change faster than they are read";
    for _ in 0..TRIES {
        match chain(host, pid, family) {
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

fn chain(host: &Host, first: Pid, family: &Family<'_>) -> Chain {
    let mut reader = ProcessReader::new(host, &[]);
    let mut buffer = Vec::new();
    let mut pid = first;
    for _ in 0..DEPTH {
        let parent = match host.stat(pid, &mut buffer) {
            Ok(stat) => stat.parent,
            Err(_) => return Chain::Changed,
        };
        // If the parent is outside of this pid namespace, only a stranger can have started the
        // process.
        let Some(parent) = parent else {
            return Chain::Broken("its parent is in another pid namespace");
        };
        if parent.get() == 1 {
            return Chain::OfTheRun;
        }
        match reader.read_all(parent) {
            Ok(process)
                if process
                    .mark
                    .present()
                    .is_some_and(|mark| mark.run() == family.run && mark.outlives()) =>
            {
                return Chain::Broken("it descends from what was kept on purpose");
            }
            Ok(process) if process.runs().contains(&family.run) => pid = parent,
            Ok(_) | Err(Skipped::Untagged) if family.adopts(host, pid, parent) => {
                return Chain::OfTheRun;
            }
            Ok(_) | Err(Skipped::Untagged) => {
                return Chain::Broken("an ancestor of it is no process of the run");
            }
            Err(Skipped::Gone | Skipped::Zombie) => return Chain::Changed,
            Err(Skipped::Failed(_)) => return Chain::Unreadable,
        }
    }
    Chain::Broken("its ancestors are too many")
}

impl Family<'_> {
    /// Whether the parent adopted an orphan.
    ///
    /// The parent is an ancestor of the VM, or a service manager. A service manager is outside of
    /// the run's control group while the process is inside. A daemon that hands out jobs has them
    /// in its own group.
    fn adopts(&self, host: &Host, pid: Pid, parent: Pid) -> bool {
        self.is_adopter(host, parent)
            || is_inside(host, pid, self.run, self.group)
                && service_group(host, parent).is_some()
                && !is_inside(host, parent, self.run, self.group)
    }

    fn is_adopter(&self, host: &Host, parent: Pid) -> bool {
        let ticks = host.stat(parent, &mut Vec::new()).map(|stat| stat.start_ticks);
        ticks.is_ok_and(|ticks| self.adopters.contains(&(parent.as_u32(), ticks)))
    }
}
