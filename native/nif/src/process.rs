//! Any process of the machine, by identity: pid, start and pidfs inode together.

use crate::info::{self, Info};
use crate::sys::Fd;
use crate::terms::args::{Parts, identity, parts};
use crate::terms::atoms;
use crate::terms::failure::{Reason, refusal};
use crate::terms::reply::{answer, new_fd};
use leash_core::{Handle, Host, Identity, Pid, PidFd};
use rustler::{Encoder, Env, Term};

/// `process_identify(pid) :: {:ok, {pid, start_ticks, inode | nil}} | {:error, reason}`
///
/// Returns the identity of the process that has the pid now.
///
/// Dirty I/O: reads `/proc`.
#[rustler::nif(schedule = "DirtyIo")]
fn process_identify(pid: i32) -> Result<Parts, Reason> {
    let pid = Pid::new(pid).ok_or(atoms::esrch())?;
    leash_core::identify(pid).map(|identity| parts(&identity)).map_err(Reason::Process)
}

/// `process_open(pid, start_ticks, inode | nil) :: {:ok, fd} | {:error, reason}`
///
/// Returns a pidfd of exactly that process.
///
/// Dirty I/O: reads `/proc`.
#[rustler::nif(schedule = "DirtyIo")]
fn process_open(
    env: Env<'_>,
    pid: i32,
    start_ticks: u64,
    inode: Option<u64>,
) -> Result<Fd, Reason> {
    let (_, pidfd) = open(pid, start_ticks, inode)?;
    Ok(new_fd(env, pidfd.into())?)
}

fn open(pid: i32, start_ticks: u64, inode: Option<u64>) -> Result<(Identity, PidFd), Reason> {
    let identity = identity(pid, start_ticks, inode).ok_or(atoms::esrch())?;
    let pidfd = Handle::open(&identity).map_err(Reason::Process)?;
    Ok((identity, pidfd))
}

/// `process_alive(pid, start_ticks, inode | nil) :: boolean | {:error, reason}`
///
/// Returns whether exactly that process is alive.
///
/// Dirty I/O: reads `/proc`.
#[rustler::nif(schedule = "DirtyIo")]
fn process_alive(env: Env<'_>, pid: i32, start_ticks: u64, inode: Option<u64>) -> Term<'_> {
    let alive = match identity(pid, start_ticks, inode).map(|identity| Handle::open(&identity)) {
        Some(Ok(_)) => Ok(true),
        Some(Err(failure)) if !failure.is_gone() => Err(Reason::Process(failure)),
        _ => Ok(false),
    };
    answer(env, alive.map(|alive| alive.encode(env)))
}

/// `process_refusal(pid) :: nil | :vm | :ancestor | :kernel_thread | :pid_1 | {:error, reason}`
///
/// Returns why Leash never signals the process, or `nil`.
///
/// Dirty I/O: reads `/proc`.
#[rustler::nif(schedule = "DirtyIo")]
fn process_refusal(env: Env<'_>, pid: i32) -> Term<'_> {
    let why = Pid::new(pid)
        .ok_or_else(|| atoms::esrch().into())
        .and_then(|pid| leash_core::refusal(pid).map_err(Reason::Process));
    answer(env, why.map(|why| why.map(refusal).encode(env)))
}

/// `process_info(pid, start_ticks, inode | nil) :: {:ok, map} | {:error, reason}`
///
/// Returns the facts about the process, see `Leash.OSProcess.info/1`.
///
/// Dirty I/O: reads `/proc`.
#[rustler::nif(schedule = "DirtyIo")]
fn process_info(pid: i32, start_ticks: u64, inode: Option<u64>) -> Result<Info, Reason> {
    let (identity, pidfd) = open(pid, start_ticks, inode)?;
    let info = info::read(&identity);
    // The data is this process's only if the process has not ended meanwhile.
    if pidfd.is_ended() {
        return Err(atoms::esrch().into());
    }
    Ok(info.ok_or(atoms::unknown())?)
}

/// `process_children(pid, start_ticks, inode | nil) :: {:ok, [{pid, start_ticks, inode | nil}]} |
/// {:error, reason}`
///
/// Returns the children of the process.
///
/// Dirty I/O: reads `/proc`.
#[rustler::nif(schedule = "DirtyIo")]
fn process_children(
    pid: i32,
    start_ticks: u64,
    inode: Option<u64>,
) -> Result<Vec<Parts>, Reason> {
    let (identity, pidfd) = open(pid, start_ticks, inode)?;
    let children = children(identity.pid);
    if pidfd.is_ended() {
        return Err(atoms::esrch().into());
    }
    Ok(children.map_err(Reason::Process)?.iter().map(parts).collect())
}

/// Identifies the children by pid, then looks again. A process that is still a child then was one
/// all along.
fn children(parent: Pid) -> leash_core::Result<Vec<Identity>> {
    let host = Host::current()?;
    let identified =
        host.children(parent)?.into_iter().filter_map(|pid| Some(host.identify(pid).ok()?.0));
    let identified: Vec<_> = identified.collect();
    let still = host.children(parent)?;
    Ok(identified.into_iter().filter(|child| still.binary_search(&child.pid).is_ok()).collect())
}
