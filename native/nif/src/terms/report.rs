//! The core's report as Elixir reads it: names are atoms, and a survivor says everything about
//! itself.

use super::atoms;
use super::map::{Letter, Name, atom, map};
use leash_core::report::{Match, OwnerReport, Refused, Report, RunReport, Survivor};
use rustler::{Encoder, Env, Term};

/// Returns the map of a whole report.
pub(crate) fn report<'a>(env: Env<'a>, report: &Report) -> Term<'a> {
    let survivors = report.survivors.iter().map(|one| survivor(env, one, report));
    map!(env,
        matches: report.matches.iter().map(|found| of_match(env, found)).collect::<Vec<_>>(),
        runs: report.runs.iter().map(|found| run(env, found)).collect::<Vec<_>>(),
        survivors: survivors.collect::<Vec<_>>(),
        complete: report.complete,
        incomplete_because: report.incomplete_because.iter().map(Name).collect::<Vec<_>>(),
        unreadable: report.unreadable,
        passes: report.passes,
        elapsed_ms: report.elapsed_ms,
        records_dropped: report.records_dropped,
        refused: report.refused.map(|why| refused(env, why)),
    )
}

fn of_match<'a>(env: Env<'a>, found: &Match) -> Term<'a> {
    map!(env,
        pid: found.pid,
        start_ticks: found.start_ticks,
        command: found.command,
        state: Letter(found.state),
        uid: found.uid,
        run_id: found.run_id,
        worker: found.worker,
        carriers: found.carriers.iter().map(|name| atom(env, name)).collect::<Vec<_>>(),
        shim: found.shim,
        verdict: Name(found.verdict),
        why: found.why,
        action: Name(found.action),
        // As in `System.trap_signal/3`, for example `:sigterm`; `:shim` for a shim's own end.
        ended_by: found.ended_by.map(|name| atom(env, &name.to_ascii_lowercase())),
    )
}

fn run<'a>(env: Env<'a>, found: &RunReport) -> Term<'a> {
    map!(env,
        run_id: found.run_id,
        verdict: Name(found.verdict),
        why: found.why,
        record: Name(found.record),
        corrupt: found.corrupt.map(Name),
        lock: found.lock.map(Name),
        app: found.app,
        node: found.node,
        owners: found.owners.iter().map(|named| owner(env, named)).collect::<Vec<_>>(),
    )
}

fn owner<'a>(env: Env<'a>, named: &OwnerReport) -> Term<'a> {
    map!(env,
        source: Name(named.source),
        pid: named.pid,
        start_ticks: named.start_ticks,
        pid_ns: named.pid_ns,
        state: Name(named.state),
    )
}

fn survivor<'a>(env: Env<'a>, survivor: &Survivor, report: &Report) -> Term<'a> {
    let same =
        |found: &&Match| (found.pid, found.start_ticks) == (survivor.pid, survivor.start_ticks);
    let found = report.matches.iter().find(same);
    map!(env,
        pid: survivor.pid,
        start_ticks: survivor.start_ticks,
        command: survivor.command,
        state: Letter(survivor.state),
        uid: found.and_then(|found| found.uid),
        run_id: survivor.run_id,
        worker: found.and_then(|found| found.worker),
        why: Name(survivor.reason),
    )
}

fn refused(env: Env<'_>, why: Refused) -> Term<'_> {
    match why {
        Refused::Run(verdict) => (atoms::run(), Name(verdict)).encode(env),
        Refused::Process(refusal) => (atoms::process(), Name(refusal)).encode(env),
        other => Name(other).encode(env),
    }
}
