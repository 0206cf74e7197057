//! The processes in the trees of this run, for `Leash.list/1` and for guards.

use crate::terms::args::List;
use crate::terms::atoms;
use crate::terms::failure::Reason;
use crate::terms::map::Letter;
use leash_core::{Host, Pid, ProcessUsage, UsageQuery};
use leash_tag::RunId;
use rustler::types::tuple::make_tuple;
use rustler::{Binary, Encoder, Env, Term};

/// `census(run_id, [{worker, shim_pid | nil}], commands) :: {:ok, [member]} | {:error, reason}`
///
/// Returns the members, sorted by worker and pid. A member is `{worker, pid, parent | nil, state,
/// command, rss_bytes, cpu_ms, age_ms}`.
///
/// Dirty I/O: passes over `/proc`.
#[rustler::nif(schedule = "DirtyIo")]
fn census<'a>(
    env: Env<'a>,
    run: Binary<'a>,
    workers: List<(u16, Option<i32>)>,
    commands: usize,
) -> Result<Vec<Term<'a>>, Reason> {
    let run = RunId::parse(&run).ok_or(Reason::Invalid(atoms::run_id()))?;
    let shims =
        workers.iter().filter_map(|&(worker, pid)| Some((Pid::new(pid?)?, worker))).collect();
    let workers = workers.iter().map(|&(worker, _)| worker).collect();
    let members = Host::current()
        .and_then(|host| {
            leash_core::usage(
                &host,
                &UsageQuery { run, workers: &workers, shims: &shims, commands },
            )
        })
        .map_err(Reason::File)?;
    Ok(members.iter().map(|member| term(env, member)).collect())
}

fn term<'a>(env: Env<'a>, member: &ProcessUsage) -> Term<'a> {
    make_tuple(
        env,
        &[
            member.worker.encode(env),
            member.pid.as_u32().encode(env),
            member.parent.map(Pid::as_u32).encode(env),
            Letter(member.state).encode(env),
            member.command.encode(env),
            member.rss_bytes.encode(env),
            member.cpu_ms.encode(env),
            member.age_ms.encode(env),
        ],
    )
}
