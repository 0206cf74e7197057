//! Trees that outlive their VM on purpose: a search for them, and a descriptor with which a VM
//! takes one over.

use crate::encode;
use crate::failure::of_process;
use crate::info::Bytes;
use crate::pidfd::new_fd;
use crate::reply::{atoms, error, ok};
use leash_core::{Detached, Host, Identity, OwnerState, Pid};
use leash_tag::{RunId, WorkerNumber};
use rustler::{Binary, Env, Term};
use serde::Serialize;

#[derive(Serialize)]
struct Found {
    trees: Vec<Tree>,
    complete: bool,
}

#[derive(Serialize)]
struct Tree {
    name: Bytes,
    run_id: String,
    worker: u16,
    depth: u8,
    shim_pid: Pid,
    start_ticks: u64,
    pidfs_inode: Option<u64>,
    os_pid: Option<Pid>,
    owner_pid: Option<Pid>,
    owner: OwnerState,
    /// True if that owner is the asking VM itself.
    own: bool,
    /// The time that its ladder may take, `nil` without a limit.
    patience_ms: Option<u64>,
    command: Vec<Bytes>,
    age_ms: u64,
}

impl Tree {
    fn of(tree: Detached, me: Option<Pid>) -> Self {
        let millis =
            |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            name: Bytes(tree.name),
            run_id: tree.run.to_string(),
            worker: tree.worker.get(),
            depth: tree.depth,
            shim_pid: tree.shim.pid,
            start_ticks: tree.shim.start_ticks,
            pidfs_inode: tree.shim.pidfs_inode,
            os_pid: tree.leader,
            own: tree.owner.is_some()
                && tree.owner == me
                && tree.owner_state == OwnerState::Alive,
            owner_pid: tree.owner,
            owner: tree.owner_state,
            patience_ms: tree.patience.map(millis),
            command: tree.command.into_iter().map(Bytes).collect(),
            age_ms: millis(tree.age),
        }
    }
}

/// `detached() :: {:ok, %{trees: [map], complete: boolean}} | {:error, :no_proc | reason}`
///
/// Returns the detached trees.
///
/// Dirty I/O: passes over `/proc`.
#[rustler::nif(schedule = "DirtyIo")]
fn detached(env: Env<'_>) -> Term<'_> {
    let me = Host::current().ok().map(|host| host.me().pid);
    match leash_core::detached() {
        Err(failure) => of_process(env, &failure),
        Ok(found) => {
            let trees = found.trees.into_iter().map(|tree| Tree::of(tree, me)).collect();
            encode::term(env, &Found { trees, complete: found.complete })
                .map_or_else(|_| error(env, atoms::unknown()), |term| ok(env, term))
        }
    }
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
) -> Term<'a> {
    let expected = Pid::new(pid).zip(RunId::parse(&run_id).zip(WorkerNumber::new(worker)));
    let Some((pid, (run, worker))) = expected else { return error(env, atoms::esrch()) };
    match leash_core::open_detached(&Identity { pid, start_ticks, pidfs_inode }, run, worker) {
        Ok(pidfd) => new_fd(env, pidfd.into()),
        Err(failure) => of_process(env, &failure),
    }
}
