//! A process that another program started, before and after a shim attaches it.

use crate::failure::{of_file, of_process, refusal};
use crate::process::identity;
use crate::reply::{atoms, error, ok};
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
fn attach_option(env: Env<'_>, pid: i32, start_ticks: u64, inode: Option<u64>) -> Term<'_> {
    let Some(identity) = identity(pid, start_ticks, inode) else {
        return error(env, atoms::esrch());
    };
    match Host::current() {
        Err(failure) => of_process(env, &failure),
        Ok(host) => match (host.refusal(identity.pid), Handle::open(&identity)) {
            (Some(why), _) => error(env, (atoms::refused(), refusal(why))),
            (None, Err(failure)) => of_process(env, &failure),
            (None, Ok(_)) => {
                ok(env, format!("{pid}:{}", host.clock().to_local(identity.start_ticks)))
            }
        },
    }
}

/// `not_covered(pid, run_id, worker) :: {:ok, [%{pid:, command:, why:}]} | {:error, reason}`
///
/// Returns the processes that left the attached tree before it was attached.
///
/// Dirty I/O: a pass over `/proc`.
#[rustler::nif(schedule = "DirtyIo")]
fn not_covered<'a>(env: Env<'a>, pid: u32, run: Binary<'a>, worker: u16) -> Term<'a> {
    let (Some(pid), Some(run)) = (Pid::from_u32(pid), RunId::parse(&run)) else {
        return error(env, atoms::invalid());
    };
    match leash_core::not_covered(pid, run, worker) {
        Err(failure) => of_file(env, &failure),
        Ok(found) => crate::encode::term(env, &found)
            .map_or_else(|_| error(env, atoms::unknown()), |found| ok(env, found)),
    }
}
