//! The processes in the trees of this run, for `Leash.list/1` and for guards.

use crate::failure::of_file;
use crate::list::List;
use crate::reply::{atoms, error, ok};
use leash_core::{Host, Pid, ProcessUsage, UsageQuery};
use leash_tag::RunId;
use rustler::types::tuple::make_tuple;
use rustler::{Binary, Encoder, Env, NewBinary, Term};

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
) -> Term<'a> {
    let Some(run) = RunId::parse(&run) else {
        return error(env, (atoms::invalid(), atoms::run_id()));
    };
    let shims =
        workers.iter().filter_map(|&(worker, pid)| Some((Pid::new(pid?)?, worker))).collect();
    let workers = workers.iter().map(|&(worker, _)| worker).collect();
    let counted = Host::current().and_then(|host| {
        leash_core::usage(&host, &UsageQuery { run, workers: &workers, shims: &shims, commands })
    });
    match counted {
        Ok(members) => {
            ok(env, members.iter().map(|member| term(env, member)).collect::<Vec<_>>())
        }
        Err(failure) => of_file(env, &failure),
    }
}

fn term<'a>(env: Env<'a>, member: &ProcessUsage) -> Term<'a> {
    let text = |text: &str| Term::from(NewBinary::from_slice(env, text.as_bytes()));
    make_tuple(
        env,
        &[
            member.worker.encode(env),
            member.pid.as_u32().encode(env),
            member.parent.map(Pid::as_u32).encode(env),
            text(member.state.encode_utf8(&mut [0; 4])),
            text(&member.command),
            member.rss_bytes.encode(env),
            member.cpu_ms.encode(env),
            member.age_ms.encode(env),
        ],
    )
}
