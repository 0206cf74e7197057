//! `leash kill`.

use crate::args::{Hard, KillArgs};
use crate::exit::{Exit, Failure};
use crate::hunting::hunt;
use crate::output::{complain, print, print_json};
use crate::paint::Paint;
use crate::place::Place;
use crate::sweep;
use crate::terminal;
use crate::text::verdict;
use crate::vm::{self, Asked};
use leash_core::report::Refused;
use leash_core::{CleanupKind, Report, RunDir, Verdict};
use leash_tag::RunId;
use serde::Serialize;
use std::sync::Arc;

#[derive(Serialize)]
struct Document<'a> {
    format: u32,
    run_dir: String,
    run_id: String,
    /// The effect of `--force` on the VM.
    forced: Option<Asked>,
    report: &'a Report,
}

pub(crate) fn run(place: &Place, args: &KillArgs) -> Result<Exit, Failure> {
    let dir = place.open()?;
    let run = args.run_id;
    let mut report = end(&dir, run, args.outliving, &args.hard)?;
    let mut forced = None;
    if args.force && report.refused == Some(Refused::Run(Verdict::Live)) {
        let asked = vm::terminate(&dir, run, args.hard.deadline)?;
        forced = Some(asked);
        if asked.ended {
            report = end(&dir, run, args.outliving, &args.hard)?;
        }
    }
    if args.json {
        let run_dir = place.path.display().to_string();
        print_json(&Document {
            format: 1,
            run_dir,
            run_id: run.to_string(),
            forced,
            report: &report,
        })?;
    } else {
        print(&text(&report, forced))?;
    }
    conclude(run, &report, forced)
}

fn end(dir: &Arc<RunDir>, run: RunId, outliving: bool, hard: &Hard) -> Result<Report, Failure> {
    let kind = CleanupKind::Run { run, own_run: None, outliving };
    hunt(kind, hard.stop.clone(), hard.deadline, Some(Arc::clone(dir)))
}

fn text(report: &Report, forced: Option<Asked>) -> String {
    let mut lines = Vec::new();
    if let Some(Asked { pid, signal, ended, elapsed_ms }) = forced {
        let became = if ended { "ended" } else { "still lives" };
        lines.push(format!(
            "the VM, process {pid}, got {signal} and {became} after {elapsed_ms} ms"
        ));
    }
    if forced.is_some_and(|asked| asked.ended)
        && report.refused.is_some()
        && report.runs.is_empty()
    {
        lines.push("nothing of its run is left".to_owned());
    }
    if report.refused.is_none() {
        lines.extend(sweep::table(report, false, Paint::of_stdout(), terminal::width()));
        lines.push(sweep::outcome(report));
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// Returns the exit status, and prints on stderr what belongs to it.
fn conclude(run: RunId, report: &Report, forced: Option<Asked>) -> Result<Exit, Failure> {
    if forced.is_some_and(|asked| !asked.ended) {
        complain(&format!("{run}: its VM has not ended in time; nothing else was done"));
        return Ok(Exit::Left);
    }
    let known = report.runs.iter().find(|known| known.run_id == run.to_string());
    match (report.refused, known) {
        (None, _) => Ok(sweep::exit(report)),
        // A VM that ended in good order leaves no record, and no process that names its run.
        (Some(_), None) if forced.is_some() => Ok(sweep::exit(report)),
        (Some(_), None) => Err(Failure::new(Exit::Left, format!("{run}: no such run"))),
        (Some(Refused::Run(why)), Some(known)) => {
            Err(Failure::new(Exit::Refused, refusal(run, why, &known.why)))
        }
        (Some(_), Some(known)) => {
            Err(Failure::new(Exit::Refused, refusal(run, known.verdict, &known.why)))
        }
    }
}

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
    use leash_core::report::{RecordPresence, RunReport};

    fn run_id() -> RunId {
        "s59m65f".parse().unwrap()
    }

    fn report(refused: Option<Verdict>, known: bool) -> Report {
        let run = RunReport {
            run_id: "s59m65f".into(),
            verdict: refused.unwrap_or(Verdict::Dead),
            why: "because".into(),
            record: RecordPresence::Absent,
            corrupt: None,
            lock: None,
            app: None,
            node: None,
            owners: Vec::new(),
        };
        let runs = if known { vec![run] } else { Vec::new() };
        Report { refused: refused.map(Refused::Run), runs, ..Report::default() }
    }

    fn asked(ended: bool) -> Option<Asked> {
        Some(Asked { pid: 7, signal: "SIGTERM", ended, elapsed_ms: 3 })
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
