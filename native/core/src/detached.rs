//! Trees that outlive their VM on purpose and can be found again by name.
//!
//! Only a living shim speaks for one: its own command line, its own mark and its own program together. The shim of a kept
//! tree may live, too, but it was not told to detach: nothing takes that over.

use crate::error::{Error, ErrorKind, Result};
use crate::host::Host;
use crate::scan::{LISTING, each_process};
use crate::seen::{Examiner, Skipped, runs_shim};
use crate::witness::{Claim, OwnerState};
use crate::{Carriers, Identity, Pid, PidFd, Seen};
use leash_tag::argv;
use leash_tag::{Mark, RunId, WorkerNumber};
use rustix::io::Errno;
use std::ops::ControlFlow;
use std::time::Duration;

/// One tree, by its shim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detached {
    /// The shim.
    pub shim: Identity,
    /// What its `--name` says, any bytes.
    pub name: Vec<u8>,
    /// The run that started it.
    pub run: RunId,
    /// Its number within that run.
    pub worker: WorkerNumber,
    /// How deep that run was nested.
    pub depth: u8,
    /// How long its own ladder may take; `None` for ever.
    pub patience: Option<Duration>,
    /// The worker itself; `None` where it has ended or does not run yet.
    pub leader: Option<Pid>,
    /// The VM that started it; `None` where that could not name itself.
    pub owner: Option<Pid>,
    /// Whether that VM lives.
    pub owner_state: OwnerState,
    /// The command and its arguments.
    pub command: Vec<Vec<u8>>,
    /// How long it has been running.
    pub age: Duration,
}

/// What a look for them came to.
#[derive(Debug, Default)]
pub struct AllDetached {
    /// Those of this user in this pid namespace, by the number of their shims.
    pub trees: Vec<Detached>,
    /// Whether none can have been missed.
    pub complete: bool,
}

/// Looks for all detached trees of this user.
///
/// One system call for each process, and files of those only whose mark says that they outlive their VM.
///
/// # Errors
///
/// `NoProc` where `/proc` is missing or shows another pid namespace.
pub fn detached() -> Result<AllDetached> {
    let host = Host::current()?;
    let mut found = AllDetached { trees: Vec::new(), complete: true };
    let mut examiner = Examiner::new(&host, &[]);
    let listing = each_process(&host, LISTING, |pid| {
        match look(&host, &mut examiner, pid) {
            Ok(Some((tree, _pidfd))) => found.trees.push(tree),
            Ok(None) => {}
            Err(_) => found.complete = false,
        }
        ControlFlow::Continue(())
    });
    found.complete &= listing.is_ok();
    Ok(found)
}

/// A descriptor of the shim of a tree that was found before, if it still is that one.
///
/// # Errors
///
/// `Gone` where it has ended, `Reused` where the number is another's or the process is no shim of that tree any more.
pub fn open_detached(shim: &Identity, run: RunId, worker: WorkerNumber) -> Result<PidFd> {
    let host = Host::current()?;
    let looked = look(&host, &mut Examiner::new(&host, &[]), shim.pid);
    match looked.map_err(Error::of_process)? {
        Some((tree, pidfd)) if tree.shim.is(shim) && (tree.run, tree.worker) == (run, worker) => {
            Ok(pidfd)
        }
        Some(_) => Err(Error::new(ErrorKind::Reused).about(shim.pid)),
        // Nobody, or somebody else.
        None => match PidFd::open(shim.pid) {
            Err(error) if error.is_gone() => Err(error),
            Ok(pidfd) if pidfd.is_ended() => Err(Error::new(ErrorKind::Gone).about(shim.pid)),
            _ => Err(Error::new(ErrorKind::Reused).about(shim.pid)),
        },
    }
}

/// The tree of which a process is the shim. `Err` where it says that it outlives its VM and cannot be read.
fn look(
    host: &Host,
    examiner: &mut Examiner<'_>,
    pid: Pid,
) -> std::result::Result<Option<(Detached, PidFd)>, Errno> {
    if !outlives(examiner, pid)? {
        return Ok(None);
    }
    // Everything else is read while a descriptor holds the process, and believed only if it lives afterwards.
    let pidfd = match PidFd::open_raw(pid) {
        Ok(pidfd) => pidfd,
        Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let mark = match examiner.mark(pid) {
        Ok(mark) => mark,
        Err(skipped) => return failed(skipped),
    };
    let seen = match examiner.rest(pid, mark, Carriers::MarkOnly) {
        Ok(seen) => seen,
        Err(skipped) => return failed(skipped),
    };
    let mut cmdline = Vec::new();
    match host.proc().read_of(pid, "cmdline", crate::parse::cmdline::READ_LIMIT, &mut cmdline) {
        Ok(_) => {}
        Err(Errno::SRCH | Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno),
    }
    let tree = described(host, &seen, &cmdline, pidfd.inode());
    Ok(tree.filter(|_| !pidfd.is_ended()).map(|tree| (tree, pidfd)))
}

fn outlives(examiner: &mut Examiner<'_>, pid: Pid) -> std::result::Result<bool, Errno> {
    match examiner.mark(pid) {
        Ok(mark) => Ok(mark.present().is_some_and(|mark| mark.outlives())),
        // Whose limits cannot be read is another user's.
        Err(_) => Ok(false),
    }
}

fn failed<T>(skipped: Skipped) -> std::result::Result<Option<T>, Errno> {
    match skipped {
        Skipped::Failed(errno) => Err(errno),
        Skipped::Gone | Skipped::Zombie | Skipped::Untagged => Ok(None),
    }
}

fn described(host: &Host, seen: &Seen, cmdline: &[u8], inode: Option<u64>) -> Option<Detached> {
    let pid = seen.identity.pid;
    let shim = seen.shim_of(host.uid())?;
    let mark = seen.mark.present()?;
    let run = shim.args.run;
    let worker = shim.args.worker?;
    let name = argv::shim_name(cmdline)?;
    // The mark is what it set itself and its whole tree inherits: without it nobody would know later whom to end.
    let marked = mark.outlives() && mark.run() == run && mark.worker() == Some(worker);
    let detaches = argv::shim_option(cmdline, b"on-hangup") == Some(b"detach");
    // A VM that runs inside of such a tree must not take it over.
    if !(marked && detaches && runs_shim(host, pid) && is_here(host, pid))
        || host.refusal(pid).is_some()
    {
        return None;
    }
    let claim = Claim::of_shim(host, seen);
    let age = host.clock().machine_now().saturating_sub(seen.identity.start_ticks);
    Some(Detached {
        shim: Identity { pidfs_inode: inode, ..seen.identity },
        name: name.to_vec(),
        run,
        worker,
        depth: mark.depth(),
        patience: shim.patience,
        leader: leader(host, pid, mark),
        owner: claim.map(|claim| claim.pid),
        owner_state: claim.map_or(OwnerState::Unknown, |claim| claim.state(host)),
        command: argv::args(cmdline)
            .skip_while(|arg| *arg != b"--")
            .skip(1)
            .map(<[u8]>::to_vec)
            .collect(),
        age: Duration::from_secs(1).mul_f64(seconds(host, age)),
    })
}

fn seconds(host: &Host, ticks: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "an age for people")]
    let (ticks, per_second) = (ticks as f64, host.clock().ticks(1).max(1) as f64);
    ticks / per_second
}

/// Numbers on its command line mean the same here.
fn is_here(host: &Host, pid: Pid) -> bool {
    host.pid_ns().is_some_and(|ours| host.proc().namespace(&format!("{pid}/ns/pid")) == Ok(ours))
}

/// The first that the shim started: what was reparented to it began later.
fn leader(host: &Host, shim: Pid, mark: &Mark) -> Option<Pid> {
    let mut buffer = Vec::new();
    let children = host.children(shim).ok()?;
    children
        .into_iter()
        .filter(|&child| {
            host.proc()
                .limits(child, &mut buffer)
                .is_ok_and(|limits| Mark::decode(limits) == Some(*mark))
        })
        .filter_map(|child| Some((host.stat(child, &mut Vec::new()).ok()?.start_ticks, child)))
        .min()
        .map(|(_, child)| child)
}
