//! From clone to exec: the child becomes the worker.
//!
//! The order matters. The session comes first, so that the group exists before it is signalled.
//! The ids come before the death signal, because a change of ids clears it (prctl(2)). The death
//! signal comes before the look at the parent, which closes the race with a parent that died in
//! between. The signal mask comes last, so that no signal is delivered to half a worker.

use core::convert::Infallible;
use core::ffi::CStr;
use leash_tag::signal;
use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, Uid};

use super::exec;
use crate::cli::config::{Config, Origin, Stream};
use crate::cli::identity::Identity;
use crate::os::child::{self, Child, Memory};
use crate::os::vectors::Vectors;
use crate::os::{cgroup, descriptors, process, signals};
use crate::out::stage::{Failed, Stage};

/// Success, or the stage and errno of a failure.
type Prepared = Result<(), Failed>;

/// The data that the child needs.
#[derive(Clone, Copy)]
pub(crate) struct WorkerLaunch {
    /// The command line. It is a copy, since the child may borrow nothing.
    pub(crate) config: Config<'static>,
    /// Arguments and environment.
    pub(crate) vectors: Vectors,
    /// The pid of the shim, which must be the parent.
    pub(crate) shim: Pid,
    /// The worker's end of an open stdin.
    pub(crate) stdin: Option<i32>,
    /// The descriptor for a failure, as stage and errno; exec closes it.
    pub(crate) failure: i32,
}

/// Starts the child.
///
/// Until its exec the child works in the shim's own memory, as after vfork(2). But the shim goes
/// on, so that an exec that hangs does not make it deaf. A child that changes its rights gets a
/// copy instead. Otherwise a program that may trace the child could write to the memory of a shim
/// with the old rights.
///
/// # Errors
///
/// Stage and errno of the child's start.
pub(crate) fn start(
    launch: WorkerLaunch,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Child, Failed> {
    let changes = launch.config.identity.changes_rights();
    let memory = if changes { Memory::Own } else { Memory::Shared };
    let outside = |enters: Option<i32>| {
        child::start_child(memory, move || become_worker(&launch, enters))
            .map_err(|errno| (Stage::Fork, errno))
    };
    let Some(cgroup) = cgroup else { return outside(None) };
    match child::start_child_in(cgroup, memory, move || become_worker(&launch, None)) {
        // A kernel before 5.7, or a filter: the child moves itself before it is anything.
        Err(Errno::NOSYS | Errno::PERM | Errno::TOOBIG | Errno::INVAL) => {
            outside(Some(cgroup.as_raw_fd()))
        }
        Err(errno @ (Errno::AGAIN | Errno::NOMEM)) => Err((Stage::Fork, errno)),
        started => started.map_err(|errno| (Stage::Cgroup, errno)),
    }
}

/// Runs in the child, which enters that control group first. Returns an exit status, and only if
/// the child did not become the worker.
fn become_worker(launch: &WorkerLaunch, enters: Option<i32>) -> u8 {
    let entered = enters.map_or(Ok(()), |group| cgroup::enter(descriptors::borrow(group)));
    let entered = entered.map_err(|errno| (Stage::Cgroup, errno));
    let Err((stage, errno)) =
        entered.and_then(|()| prepare(launch)).and_then(|()| execute(launch));
    let raw = u16::try_from(errno.raw_os_error()).unwrap_or(0);
    let [high, low] = raw.to_be_bytes();
    let _ = rustix::io::write(descriptors::borrow(launch.failure), &[stage as u8, high, low]);
    match (stage, errno) {
        (Stage::Exec, Errno::NOENT) => 127,
        (Stage::Exec, _) => 126,
        _ => 125,
    }
}

/// Prepares the child, in the order for which the module gives the reasons.
fn prepare(launch: &WorkerLaunch) -> Prepared {
    let config = &launch.config;
    session(config).map_err(|e| (Stage::Setsid, e))?;
    config.limits.set().map_err(|e| (Stage::Limits, e))?;
    give_terminal(config);
    change_identity(&config.identity)?;
    process::die_with(launch.shim, Signal::KILL).map_err(|e| (Stage::Pdeathsig, e))?;
    streams(config, launch.stdin)?;
    terminal(config).map_err(|e| (Stage::Terminal, e))?;
    if let Some(directory) = config.cd {
        rustix::process::chdir(directory).map_err(|e| (Stage::Chdir, e))?;
    }
    reset_signals(config.origin());
    Ok(())
}

/// Gives the child the worker's user and privileges.
fn change_identity(identity: &Identity) -> Prepared {
    if let Some(mask) = identity.umask {
        rustix::process::umask(Mode::from_raw_mode(mask));
    }
    let is_endable = identity.is_endable();
    identity.assume().map_err(|e| (Stage::Ids, e))?;
    // A shim that may not change its user lacks more than this, so that is reported first.
    if !is_endable {
        return Err((Stage::Endable, Errno::PERM));
    }
    identity.limit_privileges().map_err(|e| (Stage::Capabilities, e))
}

/// Sets signal dispositions and mask as a program expects them.
pub(crate) fn reset_signals(origin: Origin) {
    reset_dispositions(origin);
    signals::set_mask(0);
}

/// Resets the dispositions. The VM's fork server ignores SIGPIPE and SIGFPE, and an ignored
/// signal stays ignored across exec. By hand, a signal that nohup(1) has turned off stays off.
/// The warden has reset its own dispositions once and for all.
pub(crate) fn reset_dispositions(origin: Origin) {
    for number in (1..=signal::MAX).filter(|_| origin != Origin::Warden) {
        if !(origin == Origin::Hand && signals::is_turned_off(number)) {
            signals::default_disposition(number);
        }
    }
}

/// Begins a session, except in the foreground. There the program stays in the shim's group, so it
/// has the terminal when the shim has it. The signals of keyboard and shell to the group reach
/// both.
fn session(config: &Config<'_>) -> Result<(), Errno> {
    if !config.foreground {
        rustix::process::setsid()?;
    }
    Ok(())
}

/// Makes the worker's user the owner of its terminal, as a login does. Otherwise a program could
/// use its terminal, but not open it by its name. Only the old user may have the right to do so.
fn give_terminal(config: &Config<'_>) {
    let owner = config.identity.uid.filter(|_| config.controlling_tty).map(Uid::from_raw);
    let fd = match config.stdin {
        Stream::Descriptor(fd) => fd,
        _ => 0,
    };
    if owner.is_some() {
        let _ = rustix::fs::fchown(descriptors::borrow(fd), owner, None);
    }
}

/// Makes stdin the controlling terminal of the new session (ioctl_tty(2)). The kernel puts the
/// child's group into its foreground. A terminal that another session has is not taken from it.
fn terminal(config: &Config<'_>) -> Result<(), Errno> {
    if config.controlling_tty {
        rustix::process::ioctl_tiocsctty(descriptors::borrow(0))?;
    }
    Ok(())
}

/// Sets up the worker's streams.
fn streams(config: &Config<'_>, open_stdin: Option<i32>) -> Prepared {
    stream(0, config.stdin, open_stdin).map_err(|e| (Stage::Stdin, e))?;
    stream(1, config.stdout, None).map_err(|e| (Stage::Stdout, e))?;
    stream(2, config.stderr, None).map_err(|e| (Stage::Stderr, e))
}

/// Sets up one stream.
fn stream(number: u8, target: Stream<'_>, open_stdin: Option<i32>) -> Result<(), Errno> {
    let fd = match target {
        // The leash may be the worker's stdin too, and close-on-exec was set for the leash.
        Stream::Inherit => return descriptors::pass_on(number),
        Stream::Null => return descriptors::become_stream(descriptors::open_null()?, number),
        Stream::File(path) => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND;
            let flags = flags | OFlags::NOCTTY | OFlags::CLOEXEC;
            let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o666))?;
            return descriptors::become_stream(file, number);
        }
        // The number is above 2, so the copy is another descriptor, without close-on-exec.
        Stream::Descriptor(fd) => fd,
        Stream::Open => open_stdin.ok_or(Errno::BADF)?,
        Stream::Stdout => 1,
    };
    descriptors::become_stream(descriptors::borrow(fd), number)
}

/// Executes the command. Returns only on failure.
fn execute(launch: &WorkerLaunch) -> Result<Infallible, Failed> {
    let WorkerLaunch { config, vectors, .. } = launch;
    let run = |path: &CStr| vectors.exec(path, config.command_index, config.arg0);
    Err((Stage::Exec, exec::execute(config.command, *vectors, run)))
}
