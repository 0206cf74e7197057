//! A process that another program started, before and after a shim attaches it.

use crate::terms::args::identity;
use crate::terms::atoms;
use crate::terms::failure::Reason;
use crate::terms::map::{Name, map};
use leash_core::{Handle, Host, Pid};
use leash_tag::RunId;
use rustler::{Binary, Env, Term};

/// `attach_option(pid, start_ticks, inode | nil) :: {:ok, binary} | {:error, reason}`
///
/// Returns the value of the shim's `--attach` for exactly that process. The process must be
/// alive, and attaching it must not be refused. The value has the start in ticks of `/proc` as
/// read here.
///
/// Dirty I/O: reads `/proc`.
#[rustler::nif(schedule = "DirtyIo")]
fn attach_option(pid: i32, start_ticks: u64, inode: Option<u64>) -> Result<String, Reason> {
    let identity = identity(pid, start_ticks, inode).ok_or(atoms::esrch())?;
    let host = Host::current().map_err(Reason::Process)?;
    if let Some(why) = host.refusal(identity.pid) {
        return Err(Reason::Refused(why));
    }
    Handle::open(&identity).map_err(Reason::Process)?;
    Ok(format!("{pid}:{}", host.clock().to_local(identity.start_ticks)))
}

/// `not_covered(pid, run_id, worker) :: {:ok, [%{pid:, command:, why:}]} | {:error, reason}`
///
/// Returns the processes that left the attached tree before it was attached.
///
/// Dirty I/O: a pass over `/proc`.
#[rustler::nif(schedule = "DirtyIo")]
fn not_covered<'a>(
    env: Env<'a>,
    pid: u32,
    run: Binary<'a>,
    worker: u16,
) -> Result<Vec<Term<'a>>, Reason> {
    let pid = Pid::from_u32(pid).ok_or(atoms::invalid())?;
    let run = RunId::parse(&run).ok_or(atoms::invalid())?;
    let found = leash_core::not_covered(pid, run, worker).map_err(Reason::File)?;
    let found = found
        .iter()
        .map(|one| map!(env, pid: one.pid.as_u32(), command: one.command, why: Name(one.why)));
    Ok(found.collect())
}
