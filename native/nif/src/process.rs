//! Any process of the machine, by identity: pid, start and pidfs inode together.

use crate::failure::{of_process, refusal};
use crate::info;
use crate::pidfd::new_fd;
use crate::reply::{atoms, error, ok};
use leash_core::{Handle, Host, Identity, Pid};
use rustler::{Encoder, Env, Term};

/// `process_identify(pid) :: {:ok, {pid, start_ticks, inode | nil}} | {:error, reason}`
///
/// Returns the identity of the process that has the pid now.
///
/// Dirty I/O: reads `/proc`.
#[rustler::nif(schedule = "DirtyIo")]
fn process_identify(env: Env<'_>, pid: i32) -> Term<'_> {
    let Some(pid) = Pid::new(pid) else { return error(env, atoms::esrch()) };
    match leash_core::identify(pid) {
        Ok(identity) => ok(env, parts(&identity)),
        Err(failure) => of_process(env, &failure),
    }
}

/// `process_open(pid, start_ticks, inode | nil) :: {:ok, fd} | {:error, reason}`
///
/// Returns a pidfd of exactly that process.
///
/// Dirty I/O: reads `/proc`.
#[rustler::nif(schedule = "DirtyIo")]
fn process_open(env: Env<'_>, pid: i32, start_ticks: u64, inode: Option<u64>) -> Term<'_> {
    let Some(identity) = identity(pid, start_ticks, inode) else {
        return error(env, atoms::esrch());
    };
    match Handle::open(&identity) {
        Ok(pidfd) => new_fd(env, pidfd.into()),
        Err(failure) => of_process(env, &failure),
    }
}

/// `process_alive(pid, start_ticks, inode | nil) :: boolean | {:error, reason}`
///
/// Returns whether exactly that process is alive.
///
/// Dirty I/O: reads `/proc`.
#[rustler::nif(schedule = "DirtyIo")]
fn process_alive(env: Env<'_>, pid: i32, start_ticks: u64, inode: Option<u64>) -> Term<'_> {
    let Some(identity) = identity(pid, start_ticks, inode) else { return false.encode(env) };
    match Handle::open(&identity) {
        Ok(_) => true.encode(env),
        Err(failure) if failure.is_gone() => false.encode(env),
        Err(failure) => of_process(env, &failure),
    }
}

/// `process_refusal(pid) :: nil | :vm | :ancestor | :kernel_thread | :pid_1 | {:error, reason}`
///
/// Returns why Leash never signals the process, or `nil`.
///
/// Dirty I/O: reads `/proc`.
#[rustler::nif(schedule = "DirtyIo")]
fn process_refusal(env: Env<'_>, pid: i32) -> Term<'_> {
    let Some(pid) = Pid::new(pid) else { return error(env, atoms::esrch()) };
    match leash_core::refusal(pid) {
        Ok(None) => atoms::nil().encode(env),
        Ok(Some(why)) => refusal(why).encode(env),
        Err(failure) => of_process(env, &failure),
    }
}

/// `process_info(pid, start_ticks, inode | nil) :: {:ok, map} | {:error, reason}`
///
/// Returns the facts about the process, see `Leash.OSProcess.info/1`.
///
/// Dirty I/O: reads `/proc`.
#[rustler::nif(schedule = "DirtyIo")]
fn process_info(env: Env<'_>, pid: i32, start_ticks: u64, inode: Option<u64>) -> Term<'_> {
    let Some(identity) = identity(pid, start_ticks, inode) else {
        return error(env, atoms::esrch());
    };
    match Handle::open(&identity) {
        Err(failure) => of_process(env, &failure),
        // The data is this process's only if the process has not ended meanwhile.
        Ok(pidfd) => match info::read(&identity) {
            Some(info) if !pidfd.is_ended() => crate::encode::term(env, &info)
                .map_or_else(|_| error(env, atoms::unknown()), |map| ok(env, map)),
            None if !pidfd.is_ended() => error(env, atoms::unknown()),
            _ => error(env, atoms::esrch()),
        },
    }
}

/// `process_children(pid, start_ticks, inode | nil) :: {:ok, [{pid, start_ticks, inode | nil}]} |
/// {:error, reason}`
///
/// Returns the children of the process.
///
/// Dirty I/O: reads `/proc`.
#[rustler::nif(schedule = "DirtyIo")]
fn process_children(env: Env<'_>, pid: i32, start_ticks: u64, inode: Option<u64>) -> Term<'_> {
    let Some(identity) = identity(pid, start_ticks, inode) else {
        return error(env, atoms::esrch());
    };
    match Handle::open(&identity) {
        Err(failure) => of_process(env, &failure),
        Ok(pidfd) => match children(identity.pid) {
            _ if pidfd.is_ended() => error(env, atoms::esrch()),
            Ok(children) => ok(env, children.iter().map(parts).collect::<Vec<_>>()),
            Err(failure) => of_process(env, &failure),
        },
    }
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

type Parts = (u32, u64, Option<u64>);

fn parts(identity: &Identity) -> Parts {
    (identity.pid.as_u32(), identity.start_ticks, identity.pidfs_inode)
}

pub(crate) fn identity(pid: i32, start_ticks: u64, pidfs_inode: Option<u64>) -> Option<Identity> {
    Pid::new(pid).map(|pid| Identity { pid, start_ticks, pidfs_inode })
}
