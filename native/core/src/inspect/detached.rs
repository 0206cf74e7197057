//! Trees that outlive their VM on purpose and can be found again by name.
//!
//! Only a living shim proves such a tree, by its own command line, its own mark and its own
//! program together. The shim of a kept tree may live too, but nothing told that shim to detach.
//! No run takes a kept tree over.

use crate::os::error::{Error, ErrorKind, Result};
use crate::os::pid::Pid;
use crate::os::pidfd::PidFd;
use crate::procfs::host::Host;
use crate::procfs::identity::Identity;
use crate::procfs::listing::{LISTING, each_process};
use crate::procfs::parse::cmdline::READ_LIMIT;
use crate::runs::owner::OwnerState;
use crate::tags::process_reader::{Carriers, ProcessReader, Skipped};
use crate::tags::shim::runs_shim;
use crate::tags::tagged_process::TaggedProcess;
use leash_tag::argv;
use leash_tag::{Mark, RunId, WorkerNumber};
use rustix::io::Errno;
use std::ops::ControlFlow;
use std::time::Duration;

/// One tree, described by its shim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detached {
    /// The shim.
    pub shim: Identity,
    /// The value of `--name`, any bytes.
    pub name: Vec<u8>,
    /// The run that started it.
    pub run: RunId,
    /// The number of the worker within that run.
    pub worker: WorkerNumber,
    /// The nesting depth of that run.
    pub depth: u8,
    /// The longest time of the shim's own ladder; `None` if it has no end.
    pub patience: Option<Duration>,
    /// The worker itself; `None` if it has ended or does not run yet.
    pub leader: Option<Pid>,
    /// The VM that started the tree; `None` if that VM could not name itself.
    pub owner: Option<Pid>,
    /// Whether that VM lives.
    pub owner_state: OwnerState,
    /// The command and its arguments.
    pub command: Vec<Vec<u8>>,
    /// The age of the tree.
    pub age: Duration,
}

/// The result of a search for detached trees.
#[derive(Debug, Default)]
pub struct AllDetached {
    /// The trees of this user in this pid namespace, in the order of their shims' numbers.
    pub trees: Vec<Detached>,
    /// Whether the search cannot have missed a tree.
    pub complete: bool,
}

/// Looks for all detached trees of this user.
///
/// Makes one system call for each process. Reads files only of processes whose mark says that
/// they outlive their VM.
///
/// # Errors
///
/// `NoProc` if `/proc` is missing or shows another pid namespace.
pub fn detached() -> Result<AllDetached> {
    let host = Host::current()?;
    let mut found = AllDetached { trees: Vec::new(), complete: true };
    let mut reader = ProcessReader::new(&host, &[]);
    let listing = each_process(&host, LISTING, |pid| {
        match look(&host, &mut reader, pid) {
            Ok(Some((tree, _pidfd))) => found.trees.push(tree),
            Ok(None) => {}
            Err(_) => found.complete = false,
        }
        ControlFlow::Continue(())
    });
    found.complete &= listing.is_ok();
    Ok(found)
}

/// Opens the shim of a tree that was found before, if the process is still that shim.
///
/// # Errors
///
/// `Gone` if the shim has ended. `Reused` if another process has its number, or if the process is
/// no longer a shim of that tree.
pub fn open_detached(shim: &Identity, run: RunId, worker: WorkerNumber) -> Result<PidFd> {
    let host = Host::current()?;
    let looked = look(&host, &mut ProcessReader::new(&host, &[]), shim.pid);
    match looked.map_err(Error::of_process)? {
        Some((tree, pidfd)) if tree.shim.is(shim) && (tree.run, tree.worker) == (run, worker) => {
            Ok(pidfd)
        }
        Some(_) => Err(Error::new(ErrorKind::Reused).about(shim.pid)),
        // The number is free, or another process has it.
        None => match PidFd::open(shim.pid) {
            Err(error) if error.is_gone() => Err(error),
            Ok(pidfd) if pidfd.is_ended() => Err(Error::new(ErrorKind::Gone).about(shim.pid)),
            _ => Err(Error::new(ErrorKind::Reused).about(shim.pid)),
        },
    }
}

/// Returns the tree of which a process is the shim. Returns `Err` if its mark says that it
/// outlives its VM, and it cannot be read.
fn look(
    host: &Host,
    reader: &mut ProcessReader<'_>,
    pid: Pid,
) -> std::result::Result<Option<(Detached, PidFd)>, Errno> {
    if !outlives(reader, pid)? {
        return Ok(None);
    }
    // The rest is read while a descriptor holds the process, and counts only if the process lives
    // afterwards.
    let pidfd = match PidFd::open_raw(pid) {
        Ok(pidfd) => pidfd,
        Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let mark = match reader.read_mark(pid) {
        Ok(mark) => mark,
        Err(skipped) => return failed(skipped),
    };
    let process = match reader.read_tags(pid, mark, Carriers::MarkOnly) {
        Ok(process) => process,
        Err(skipped) => return failed(skipped),
    };
    let mut cmdline = Vec::new();
    match host.proc().read_of(pid, "cmdline", READ_LIMIT, &mut cmdline) {
        Ok(_) => {}
        Err(Errno::SRCH | Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno),
    }
    let tree = described(host, &process, &cmdline, pidfd.inode());
    Ok(tree.filter(|_| !pidfd.is_ended()).map(|tree| (tree, pidfd)))
}

fn outlives(reader: &mut ProcessReader<'_>, pid: Pid) -> std::result::Result<bool, Errno> {
    match reader.read_mark(pid) {
        Ok(mark) => Ok(mark.present().is_some_and(|mark| mark.outlives())),
        // If the limits of a process cannot be read, it is another user's.
        Err(_) => Ok(false),
    }
}

fn failed<T>(skipped: Skipped) -> std::result::Result<Option<T>, Errno> {
    match skipped {
        Skipped::Failed(errno) => Err(errno),
        Skipped::Gone | Skipped::Zombie | Skipped::Untagged => Ok(None),
    }
}

fn described(
    host: &Host,
    process: &TaggedProcess,
    cmdline: &[u8],
    inode: Option<u64>,
) -> Option<Detached> {
    let pid = process.identity.pid;
    let shim = process.shim_of(host.uid())?;
    let mark = process.mark.present()?;
    let run = shim.args.run;
    let worker = shim.args.worker?;
    let name = argv::shim_name(cmdline)?;
    // The shim sets this mark itself, and its whole tree inherits it. Without it, no later check
    // could tell which processes to end.
    let marked = mark.outlives() && mark.run() == run && mark.worker() == Some(worker);
    let detaches = argv::shim_option(cmdline, b"on-hangup") == Some(b"detach");
    // A VM that runs inside of such a tree must not take it over.
    if !(marked && detaches && runs_shim(host, pid) && is_here(host, pid))
        || host.refusal(pid).is_some()
    {
        return None;
    }
    let named = process.owner_in_argv(host);
    let age = host.clock().machine_now().saturating_sub(process.identity.start_ticks);
    Some(Detached {
        shim: Identity { pidfs_inode: inode, ..process.identity },
        name: name.to_vec(),
        run,
        worker,
        depth: mark.depth(),
        patience: shim.patience,
        leader: leader(host, pid, mark),
        owner: named.map(|named| named.pid),
        owner_state: named.map_or(OwnerState::Unknown, |named| named.state(host)),
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

/// Whether the process is in our pid namespace, so that the numbers on its command line mean the
/// same here.
fn is_here(host: &Host, pid: Pid) -> bool {
    host.pid_ns().is_some_and(|ours| host.proc().namespace(&format!("{pid}/ns/pid")) == Ok(ours))
}

/// The process that the shim started first. Processes reparented to the shim began later.
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
