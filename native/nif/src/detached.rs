//! Trees that outlive their VM on purpose: a search for them, and a descriptor with which a VM
//! takes one over.

use crate::sys::Fd;
use crate::terms::args::identity;
use crate::terms::atoms;
use crate::terms::failure::Reason;
use crate::terms::map::{Bytes, Name, map};
use crate::terms::reply::new_fd;
use leash_core::{Detached, Host, OwnerState, Pid};
use leash_tag::{RunId, WorkerNumber};
use rustler::{Binary, Env, Term};
use std::time::Duration;

/// `detached() :: {:ok, %{trees: [map], complete: boolean}} | {:error, :no_proc | reason}`
///
/// Returns the detached trees.
///
/// Dirty I/O: passes over `/proc`.
#[rustler::nif(schedule = "DirtyIo")]
fn detached(env: Env<'_>) -> Result<Term<'_>, Reason> {
    let me = Host::current().ok().map(|host| host.me().pid);
    let found = leash_core::detached().map_err(Reason::Process)?;
    let trees: Vec<_> = found.trees.into_iter().map(|one| tree(env, one, me)).collect();
    Ok(map!(env, trees: trees, complete: found.complete))
}

fn tree(env: Env<'_>, tree: Detached, me: Option<Pid>) -> Term<'_> {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let is_own = tree.owner.is_some() && tree.owner == me;
    map!(env,
        name: Bytes(tree.name),
        run_id: tree.run.to_string(),
        worker: tree.worker.get(),
        depth: tree.depth,
        shim_pid: tree.shim.pid.as_u32(),
        start_ticks: tree.shim.start_ticks,
        pidfs_inode: tree.shim.pidfs_inode,
        os_pid: tree.leader.map(Pid::as_u32),
        owner_pid: tree.owner.map(Pid::as_u32),
        owner: Name(tree.owner_state),
        // Whether that owner is the asking VM itself.
        own: is_own && tree.owner_state == OwnerState::Alive,
        // The time that its ladder may take, `nil` without a limit.
        patience_ms: tree.patience.map(millis),
        command: tree.command.into_iter().map(Bytes).collect::<Vec<_>>(),
        age_ms: millis(tree.age),
    )
}

/// `detached_open(pid, start_ticks, inode | nil, run_id, worker) :: {:ok, fd} | {:error, :esrch |
/// :reused | reason}`
///
/// Returns a pidfd of the shim that [`detached`] found, if it is still the shim of that tree.
///
/// Dirty I/O: reads `/proc`.
#[rustler::nif(schedule = "DirtyIo")]
fn detached_open<'a>(
    env: Env<'a>,
    pid: i32,
    start_ticks: u64,
    pidfs_inode: Option<u64>,
    run_id: Binary<'a>,
    worker: u16,
) -> Result<Fd, Reason> {
    let identity = identity(pid, start_ticks, pidfs_inode).ok_or(atoms::esrch())?;
    let run = RunId::parse(&run_id).ok_or(atoms::esrch())?;
    let worker = WorkerNumber::new(worker).ok_or(atoms::esrch())?;
    let pidfd = leash_core::open_detached(&identity, run, worker).map_err(Reason::Process)?;
    Ok(new_fd(env, pidfd.into())?)
}
