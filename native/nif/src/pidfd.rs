//! Pidfds: descriptors that mean one process for ever, even if its pid is reused.

use crate::sys::{ArmError, Fd, Readiness, send_signal};
use crate::terms::atoms;
use crate::terms::failure::Reason;
use crate::terms::reply::{Done, answer, new_fd};
use leash_core::with_reserve;
use leash_tag::argv::ShimArgs;
use leash_tag::{RunId, WorkerNumber};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustler::{Atom, Binary, Encoder, Env, Term};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
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
fn shim_open(env: Env<'_>, os_pid: i32, run_id: Binary<'_>, worker: u16) -> Result<Fd, Reason> {
    let run = RunId::parse(&run_id).ok_or(atoms::not_ours())?;
    let worker = WorkerNumber::new(worker).ok_or(atoms::not_ours())?;
    let expected = ShimArgs { run, worker: Some(worker), warden: false };
    let pidfd = verified_shim(os_pid, expected)?.ok_or(atoms::not_ours())?;
    Ok(new_fd(env, pidfd)?)
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
    if ended(pidfd.as_fd())? { Err(Errno::SRCH) } else { Ok(ours?.then_some(pidfd)) }
}

fn is_shim(os_pid: i32, expected: ShimArgs) -> Result<bool, Errno> {
    let folder = format!("/proc/{os_pid}");
    let uid = std::fs::metadata(&folder).map_err(from_io)?.uid();
    let mut cmdline = Vec::new();
    let path = folder + "/cmdline";
    with_reserve(|| File::open(&path).map_err(from_io))?
        .take(CMDLINE_MAX)
        .read_to_end(&mut cmdline)
        .map_err(from_io)?;
    Ok(uid == rustix::process::geteuid().as_raw() && ShimArgs::parse(&cmdline) == Some(expected))
}

#[allow(clippy::needless_pass_by_value, reason = "the form that map_err takes")]
fn from_io(reason: std::io::Error) -> Errno {
    match reason.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT) => Errno::SRCH,
        Some(errno) => errno,
        None => Errno::IO,
    }
}

/// `pidfd_signal(fd, signo) :: :ok | {:error, :esrch | :eperm | :einval | :closed}`
///
/// Sends a signal to the process.
///
/// Normal scheduler: one system call of constant time.
#[rustler::nif]
fn pidfd_signal(fd: Fd, signo: i32) -> Done {
    Done(call(&fd, |pidfd| send_signal(pidfd, signo)))
}

/// Calls `use_it`, unless the descriptor is closed.
fn call<T>(
    fd: &Fd,
    use_it: impl FnOnce(BorrowedFd<'_>) -> Result<T, Errno>,
) -> Result<T, Reason> {
    Ok(fd.with(use_it).ok_or(ArmError::Closed)??)
}

/// `pidfd_monitor(fd, message) :: :ok | {:error, :closed | :not_pollable}`
///
/// Sends `message` to the caller once, when the process has ended. If it has ended already, the
/// message comes at once. If there are several messages for one descriptor, the last one counts.
/// Several descriptors of one process do not disturb each other.
///
/// Normal scheduler: registers the descriptor with the VM's poll set.
#[rustler::nif]
fn pidfd_monitor<'a>(env: Env<'a>, fd: Fd, message: Term<'a>) -> Done {
    Done(fd.arm(env, Readiness::Read, message).map_err(Reason::from))
}

/// `pidfd_demonitor(fd) :: :ok`
///
/// Cancels the message. It may be in the mailbox already.
///
/// Normal scheduler: takes the descriptor out of the VM's poll set.
#[rustler::nif]
fn pidfd_demonitor(env: Env<'_>, fd: Fd) -> Atom {
    fd.disarm(env, Readiness::Read);
    atoms::ok()
}

/// `pidfd_ended?(fd) :: boolean | {:error, :closed | posix}`
///
/// Returns whether the process has ended. A zombie has ended. A process whose first thread is
/// gone while others run has not.
///
/// Normal scheduler: one poll that does not wait.
#[rustler::nif(name = "pidfd_ended?")]
fn pidfd_ended(env: Env<'_>, fd: Fd) -> Term<'_> {
    answer(env, call(&fd, ended).map(|ended| ended.encode(env)))
}

/// Returns whether the process has ended. A pidfd is readable if the last thread has exited
/// (pidfd_open(2)).
fn ended(pidfd: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut polled = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    Ok(poll(&mut polled, Some(&now))? > 0)
}
