//! Pidfds: descriptors that mean one process for ever, even if its pid is reused.

use crate::reply::{atoms, errno, error, ok};
use crate::sys::{ArmError, Fd, OwnerGone, Readiness, send_signal};
use leash_core::with_reserve;
use leash_tag::argv::ShimArgs;
use leash_tag::{RunId, WorkerNumber};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustler::{Binary, Encoder, Env, Term};
use std::fs::File;
use std::io::Read;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

/// The read limit; a shim's first three arguments fit many times over.
const CMDLINE_MAX: u64 = 8 * 1024;

/// `shim_open(os_pid, run_id, worker) :: {:ok, fd} | {:error, :esrch | :not_ours | posix}`
///
/// Returns a pidfd of the shim that runs `worker` of `run_id`. The proof is its command line, its
/// uid, and that the shim was still alive after both were read. Before the shim is executed the
/// answer is `:not_ours`.
///
/// Dirty I/O: reads `/proc`.
#[rustler::nif(schedule = "DirtyIo")]
fn shim_open<'a>(env: Env<'a>, os_pid: i32, run_id: Binary<'a>, worker: u16) -> Term<'a> {
    let expected = RunId::parse(&run_id).zip(WorkerNumber::new(worker));
    let Some((run, worker)) = expected else { return error(env, atoms::not_ours()) };
    match verified_shim(os_pid, ShimArgs { run, worker: Some(worker), warden: false }) {
        Ok(Some(pidfd)) => new_fd(env, pidfd),
        Ok(None) => error(env, atoms::not_ours()),
        Err(reason) => errno(env, reason),
    }
}

/// Returns the pid of one process that is not pid 1. The check comes first, because rustix
/// asserts in a debug build that the number is not negative.
fn not_init(os_pid: i32) -> Option<Pid> {
    Some(os_pid).filter(|&number| number > 1).and_then(Pid::from_raw)
}

fn verified_shim(os_pid: i32, expected: ShimArgs) -> Result<Option<OwnedFd>, Errno> {
    let Some(pid) = not_init(os_pid) else { return Ok(None) };
    // A shim that cannot be held is not ended, and one that is taken for gone is ended at once.
    let pidfd = with_reserve(|| pidfd_open(pid, PidfdFlags::empty()))?;
    let ours = is_shim(os_pid, expected);
    // The check comes last: as long as the pidfd's process is alive, no other process had its
    // pid.
    if ended(&pidfd)? { Err(Errno::SRCH) } else { Ok(ours?.then_some(pidfd)) }
}

fn is_shim(os_pid: i32, expected: ShimArgs) -> Result<bool, Errno> {
    let folder = format!("/proc/{os_pid}");
    let uid = std::fs::metadata(&folder).map_err(|reason| from_io(&reason))?.uid();
    let mut cmdline = Vec::new();
    let path = folder + "/cmdline";
    with_reserve(|| File::open(&path).map_err(|reason| from_io(&reason)))?
        .take(CMDLINE_MAX)
        .read_to_end(&mut cmdline)
        .map_err(|reason| from_io(&reason))?;
    Ok(uid == rustix::process::geteuid().as_raw() && ShimArgs::parse(&cmdline) == Some(expected))
}

pub(crate) fn from_io(reason: &std::io::Error) -> Errno {
    match reason.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT) => Errno::SRCH,
        Some(errno) => errno,
        None => Errno::IO,
    }
}

/// Returns `{:ok, fd}` of a descriptor that belongs to the caller.
pub(crate) fn new_fd(env: Env<'_>, descriptor: OwnedFd) -> Term<'_> {
    match new_fd_of(env, descriptor) {
        Ok(fd) => ok(env, fd),
        Err(_) => error(env, atoms::noproc()),
    }
}

/// Returns a descriptor that belongs to the caller. The caller is running, so it cannot be gone.
pub(crate) fn new_fd_of(env: Env<'_>, descriptor: OwnedFd) -> Result<Fd, OwnerGone> {
    Fd::new(env, descriptor, &env.pid())
}

/// `pidfd_signal(fd, signo) :: :ok | {:error, :esrch | :eperm | :einval | :closed}`
///
/// Sends a signal to the process.
///
/// Normal scheduler: one system call of constant time.
#[rustler::nif]
fn pidfd_signal(env: Env<'_>, fd: Fd, signo: i32) -> Term<'_> {
    match fd.with(|pidfd| send_signal(pidfd, signo)) {
        None => error(env, atoms::closed()),
        Some(Ok(())) => atoms::ok().encode(env),
        Some(Err(reason)) => errno(env, reason),
    }
}

/// `pidfd_monitor(fd, message) :: :ok | {:error, :closed | :not_pollable}`
///
/// Sends `message` to the caller once, when the process has ended. If it has ended already, the
/// message comes at once. If there are several messages for one descriptor, the last one counts.
/// Several descriptors of one process do not disturb each other.
///
/// Normal scheduler: registers the descriptor with the VM's poll set.
#[rustler::nif]
fn pidfd_monitor<'a>(env: Env<'a>, fd: Fd, message: Term<'a>) -> Term<'a> {
    match fd.arm(env, Readiness::Read, message) {
        Ok(()) => atoms::ok().encode(env),
        Err(ArmError::Closed) => error(env, atoms::closed()),
        Err(ArmError::Refused) => error(env, atoms::not_pollable()),
    }
}

/// `pidfd_demonitor(fd) :: :ok`
///
/// Cancels the message. It may be in the mailbox already.
///
/// Normal scheduler: takes the descriptor out of the VM's poll set.
#[rustler::nif]
fn pidfd_demonitor(env: Env<'_>, fd: Fd) -> Term<'_> {
    fd.disarm(env, Readiness::Read);
    atoms::ok().encode(env)
}

/// `pidfd_ended?(fd) :: boolean | {:error, :closed | posix}`
///
/// Returns whether the process has ended. A zombie has ended. A process whose first thread is
/// gone while others run has not.
///
/// Normal scheduler: one poll that does not wait.
#[rustler::nif(name = "pidfd_ended?")]
fn pidfd_ended(env: Env<'_>, fd: Fd) -> Term<'_> {
    match fd.with(|pidfd| ended(pidfd)) {
        None => error(env, atoms::closed()),
        Some(Ok(ended)) => ended.encode(env),
        Some(Err(reason)) => errno(env, reason),
    }
}

/// Returns whether the process has ended. A pidfd is readable if the last thread has exited
/// (pidfd_open(2)).
pub(crate) fn ended(pidfd: impl std::os::fd::AsFd) -> Result<bool, Errno> {
    let pidfd: BorrowedFd<'_> = pidfd.as_fd();
    let mut polled = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    Ok(poll(&mut polled, Some(&now))? > 0)
}
