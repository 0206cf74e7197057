//! `leash kill`: ends what one dead run left.
//!
//! | the run is | without `--force` | with `--force` |
//! |---|---|---|
//! | dead | ended | ended |
//! | alive | refused | its VM gets SIGTERM; once the VM has ended, what it left is ended |
//! | neither for certain | refused | refused |

use crate::args::KillArgs;
use crate::cleanup;
use crate::control::terminate::{TerminatedVm, terminate};
use crate::exit::{Exit, Failure};
use crate::render::output::{complain, print_json, print_lines};
use crate::render::report;
use crate::render::style::Style;
use crate::render::text::verdict;
use crate::run_dir_location::RunDirLocation;
use leash_core::report::Refused;
use leash_core::{CleanupKind, Report, Verdict};
use leash_tag::RunId;
use serde::Serialize;
use std::sync::Arc;

/// The document of `--json`.
#[derive(Serialize)]
struct Document<'a> {
    run_id: String,
    /// The effect of `--force` on the VM.
    forced: Option<TerminatedVm>,
    report: &'a Report,
}

/// Ends what one dead run left. With `--force`, a live run's VM is terminated first.
pub(crate) fn run(location: &RunDirLocation, args: &KillArgs) -> Result<Exit, Failure> {
    let dir = location.open()?;
    let (run, outliving, hard) = (args.run_id, args.outliving, &args.hard);
    let end = || {
        let kind = CleanupKind::Run { run, own_run: None, outliving };
        cleanup::run(kind, hard.stop.clone(), hard.deadline, Some(Arc::clone(&dir)))
    };
    let mut report = end()?;
    let mut forced = None;
    if args.force && report.refused == Some(Refused::Run(Verdict::Live)) {
        let vm = terminate(&dir, run, hard.deadline)?;
        forced = Some(vm);
        if vm.ended {
            report = end()?;
        }
    }
    if args.json {
        let document = Document { run_id: run.to_string(), forced, report: &report };
        print_json(&location.path, document)?;
    } else {
        print_lines(&text(&report, forced))?;
    }
    conclude(run, &report, forced)
}

/// Returns what became of the VM and of what the run left.
fn text(report: &Report, forced: Option<TerminatedVm>) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(TerminatedVm { pid, signal, ended, elapsed_ms }) = forced {
        let became = if ended { "ended" } else { "still lives" };
        lines.push(format!(
            "the VM, process {pid}, got {signal} and {became} after {elapsed_ms} ms"
        ));
    }
    if report.refused.is_none() {
        lines.extend(report::table(report, false, Style::of_stdout()));
        lines.push(report::summary(report, false));
    } else if forced.is_some_and(|vm| vm.ended) && report.runs.is_empty() {
        lines.push("nothing of its run is left".to_owned());
    }
    lines
}

/// Returns the exit status, and prints on stderr what belongs to it.
fn conclude(run: RunId, report: &Report, forced: Option<TerminatedVm>) -> Result<Exit, Failure> {
    if forced.is_some_and(|vm| !vm.ended) {
        complain(&format!("{run}: its VM has not ended in time; nothing else was done"));
        return Ok(Exit::Left);
    }
    let known = report.runs.iter().find(|known| known.run_id == run.to_string());
    match (report.refused, known) {
        (None, _) => Ok(cleanup::exit(report)),
        // A VM that ended in good order leaves no record, and no process that names its run.
        (Some(_), None) if forced.is_some() => Ok(cleanup::exit(report)),
        (Some(_), None) => Err(Failure::new(Exit::Left, format!("{run}: no such run"))),
        (Some(refused), Some(known)) => {
            let of = if let Refused::Run(verdict) = refused { verdict } else { known.verdict };
            Err(Failure::new(Exit::Refused, refusal(run, of, &known.why)))
        }
    }
}

/// Returns why nothing was sent.
fn refusal(run: RunId, of: Verdict, why: &str) -> String {
    // The core words this reason for a VM.
    let why = if of == Verdict::OwnOuterRun {
        "this command was started from inside of it"
    } else {
        why
    };
    let hint = if of == Verdict::Live { " (--force sends SIGTERM to its VM)" } else { "" };
    format!("{run} is not provably dead: {}: {why}; nothing was sent{hint}", verdict(of))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_view::tests::report as run_report;

    fn run_id() -> RunId {
        "s59m65f".parse().unwrap()
    }

    fn report(refused: Option<Verdict>, known: bool) -> Report {
        let run = run_report(refused.unwrap_or(Verdict::Dead), "because");
        let runs = if known { vec![run] } else { Vec::new() };
        Report { refused: refused.map(Refused::Run), runs, ..Report::default() }
    }

    fn asked(ended: bool) -> Option<TerminatedVm> {
        Some(TerminatedVm { pid: 7, signal: "SIGTERM", ended, elapsed_ms: 3 })
    }

    #[test]
    fn the_status_says_what_came_of_it() {
        let status = |refused, known, forced| {
            conclude(run_id(), &report(refused, known), forced)
                .unwrap_or_else(|failure| failure.exit)
        };
        assert_eq!(status(None, true, None), Exit::Done);
        assert_eq!(status(Some(Verdict::UnknownOwner), false, None), Exit::Left);
        assert_eq!(status(Some(Verdict::UnknownOwner), true, None), Exit::Refused);
        assert_eq!(status(Some(Verdict::Live), true, None), Exit::Refused);
        assert_eq!(status(Some(Verdict::Live), true, asked(false)), Exit::Left);
        assert_eq!(status(Some(Verdict::UnknownOwner), false, asked(true)), Exit::Done);
    }

    #[test]
    fn only_a_live_run_can_be_forced() {
        assert!(refusal(run_id(), Verdict::Live, "x").contains("--force"));
        assert!(!refusal(run_id(), Verdict::Disputed, "x").contains("--force"));
    }
}
