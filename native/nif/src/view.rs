//! The core's report as Elixir reads it: names are atoms, and a survivor says everything about
//! itself.

use leash_core::report::{Action, Match, Reason, Refused, Report, RunReport, Survivor};
use leash_core::{Incomplete, Verdict};
use serde::{Serialize, Serializer};

#[derive(Serialize)]
pub(crate) struct ReportView<'a> {
    matches: Vec<MatchView<'a>>,
    runs: &'a [RunReport],
    survivors: Vec<SurvivorView<'a>>,
    complete: bool,
    incomplete_because: &'a [Incomplete],
    unreadable: usize,
    passes: u32,
    elapsed_ms: u64,
    records_dropped: &'a [String],
    refused: Option<Refused>,
}

#[derive(Serialize)]
struct MatchView<'a> {
    pid: u32,
    start_ticks: Option<u64>,
    command: &'a str,
    state: char,
    uid: Option<u32>,
    run_id: Option<&'a str>,
    worker: Option<u16>,
    carriers: Vec<Name>,
    shim: bool,
    verdict: Verdict,
    why: &'a str,
    action: Action,
    ended_by: Option<Name>,
}

#[derive(Serialize)]
struct SurvivorView<'a> {
    pid: u32,
    start_ticks: Option<u64>,
    command: &'a str,
    state: char,
    uid: Option<u32>,
    run_id: Option<&'a str>,
    worker: Option<u16>,
    why: Reason,
}

impl<'a> ReportView<'a> {
    pub(crate) fn of(report: &'a Report) -> Self {
        Self {
            matches: report.matches.iter().map(MatchView::of).collect(),
            runs: &report.runs,
            survivors: report
                .survivors
                .iter()
                .map(|survivor| SurvivorView::of(survivor, report))
                .collect(),
            complete: report.complete,
            incomplete_because: &report.incomplete_because,
            unreadable: report.unreadable,
            passes: report.passes,
            elapsed_ms: report.elapsed_ms,
            records_dropped: &report.records_dropped,
            refused: report.refused,
        }
    }
}

impl<'a> MatchView<'a> {
    fn of(found: &'a Match) -> Self {
        Self {
            pid: found.pid,
            start_ticks: found.start_ticks,
            command: &found.command,
            state: found.state,
            uid: found.uid,
            run_id: found.run_id.as_deref(),
            worker: found.worker,
            carriers: found.carriers.iter().copied().map(Name).collect(),
            shim: found.shim,
            verdict: found.verdict,
            why: &found.why,
            action: found.action,
            ended_by: found.ended_by.map(|name| Name(signal_atom(name))),
        }
    }
}

impl<'a> SurvivorView<'a> {
    fn of(survivor: &'a Survivor, report: &'a Report) -> Self {
        let same = |found: &&Match| {
            (found.pid, found.start_ticks) == (survivor.pid, survivor.start_ticks)
        };
        let found = report.matches.iter().find(same);
        Self {
            pid: survivor.pid,
            start_ticks: survivor.start_ticks,
            command: &survivor.command,
            state: survivor.state,
            uid: found.and_then(|found| found.uid),
            run_id: survivor.run_id.as_deref(),
            worker: found.and_then(|found| found.worker),
            why: survivor.reason,
        }
    }
}

/// A name from the core's source, an atom in Elixir.
struct Name(&'static str);

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit_variant("Name", 0, self.0)
    }
}

/// Returns a name in the form that Elixir writes, for example `:sigterm` as in
/// `System.trap_signal/3`. The core writes `SIGTERM`, and `shim` for a process that a shim ended.
fn signal_atom(name: &'static str) -> &'static str {
    const NAMES: [&str; 31] = [
        "sighup",
        "sigint",
        "sigquit",
        "sigill",
        "sigtrap",
        "sigabrt",
        "sigbus",
        "sigfpe",
        "sigkill",
        "sigusr1",
        "sigsegv",
        "sigusr2",
        "sigpipe",
        "sigalrm",
        "sigterm",
        "sigstkflt",
        "sigchld",
        "sigcont",
        "sigstop",
        "sigtstp",
        "sigttin",
        "sigttou",
        "sigurg",
        "sigxcpu",
        "sigxfsz",
        "sigvtalrm",
        "sigprof",
        "sigwinch",
        "sigio",
        "sigpwr",
        "sigsys",
    ];
    NAMES.into_iter().find(|lower| lower.eq_ignore_ascii_case(name)).unwrap_or(name)
}
