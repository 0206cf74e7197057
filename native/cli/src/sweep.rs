//! `leash sweep`, and the output of a hunt's result.

use crate::args::SweepArgs;
use crate::exit::{Exit, Failure};
use crate::hunting::{hunt, incomplete, is_proven};
use crate::output::{complain, print, print_json};
use crate::paint::{Colour, Paint};
use crate::place::Place;
use crate::table::{Align, Cell, lines};
use crate::terminal;
use crate::text::{count, name, or_dash, verdict};
use leash_core::report::{Action, Match};
use leash_core::{CleanupKind, Mode, Report, Verdict};
use serde::Serialize;
use std::collections::BTreeSet;

#[derive(Serialize)]
struct Document<'a> {
    format: u32,
    run_dir: String,
    dry_run: bool,
    report: &'a Report,
}

pub(crate) fn run(place: &Place, args: SweepArgs) -> Result<Exit, Failure> {
    let dir = place.open()?;
    let dry_run = args.dry_run;
    let mode = if dry_run { Mode::Report } else { Mode::End };
    let kind = CleanupKind::Sweep { own_run: None, app: args.app, mode };
    let report = hunt(kind, args.hard.stop, args.hard.deadline, Some(dir))?;
    if args.json {
        let run_dir = place.path.display().to_string();
        print_json(&Document { format: 1, run_dir, dry_run, report: &report })?;
    } else {
        let mut text = table(&report, dry_run, Paint::of_stdout(), terminal::width());
        text.push(summary(&report, dry_run));
        text.push(String::new());
        print(&text.join("\n"))?;
    }
    Ok(exit(&report))
}

/// Returns the exit status, and prints on stderr what the hunt may have missed.
pub(crate) fn exit(report: &Report) -> Exit {
    if let Some(note) = incomplete(report) {
        complain(&note);
    }
    if report.survivors.is_empty() && is_proven(report) { Exit::Done } else { Exit::Left }
}

pub(crate) fn table(
    report: &Report,
    dry_run: bool,
    paint: Paint,
    width: Option<usize>,
) -> Vec<String> {
    use Align::{Left, Right};
    if report.matches.is_empty() {
        return Vec::new();
    }
    let columns = [
        ("WHAT", Left),
        ("PID", Right),
        ("RUN", Left),
        ("WORKER", Right),
        ("WHY", Left),
        ("COMMAND", Left),
    ];
    let rows: Vec<_> = report
        .matches
        .iter()
        .map(|found| {
            [
                what(found, dry_run),
                found.pid.to_string().into(),
                or_dash(found.run_id.clone()).into(),
                or_dash(found.worker).into(),
                why(report, found).into(),
                found.command.clone().into(),
            ]
        })
        .collect();
    lines(columns, &rows, paint, width)
}

fn what(found: &Match, dry_run: bool) -> Cell {
    let (text, colour) = match found.action {
        Action::Kept if dry_run && found.verdict == Verdict::Dead => ("would end", Colour::Red),
        Action::Kept => ("kept", Colour::Plain),
        Action::Ended => ("ended", Colour::Green),
        Action::Gone => ("gone", Colour::Green),
        Action::Survived => ("SURVIVED", Colour::Red),
    };
    Cell { text: text.to_owned(), colour }
}

/// Returns the reason of the verdict, and what ended the process or why nothing did.
fn why(report: &Report, found: &Match) -> String {
    let judged = format!("{}: {}", verdict(found.verdict), found.why);
    let same = |pid, start_ticks| pid == found.pid && start_ticks == found.start_ticks;
    let survivor = report.survivors.iter().find(|one| same(one.pid, one.start_ticks));
    match (survivor, found.ended_by) {
        (Some(survivor), _) => format!("{judged}; {}", name(survivor.reason).replace('_', " ")),
        (None, Some(by)) => {
            format!("{judged}; by {}", if by == "shim" { "its shim" } else { by })
        }
        (None, None) => judged,
    }
}

/// Returns one line about the whole hunt.
fn summary(report: &Report, dry_run: bool) -> String {
    if dry_run {
        let doomed = report.matches.iter().filter(|found| found.verdict == Verdict::Dead);
        return format!("would end {}; nothing was sent", of_runs(doomed));
    }
    let is_ended = |found: &&Match| matches!(found.action, Action::Ended | Action::Gone);
    let ended = report.matches.iter().filter(is_ended);
    let mut text = format!("ended {} in {} ms", of_runs(ended), report.elapsed_ms);
    if !report.survivors.is_empty() {
        text.push_str(&format!("; {} left", report.survivors.len()));
    }
    if !report.records_dropped.is_empty() {
        text.push_str(&format!("; records dropped: {}", report.records_dropped.join(", ")));
    }
    text
}

fn of_runs<'a>(matches: impl Iterator<Item = &'a Match>) -> String {
    let matches: Vec<_> = matches.collect();
    let runs: BTreeSet<_> = matches.iter().filter_map(|found| found.run_id.as_deref()).collect();
    let processes = count(matches.len(), "process", "processes");
    match runs.len() {
        0 => processes,
        number => format!("{processes} of {}", count(number, "dead run", "dead runs")),
    }
}

/// Returns the outcome of one run, as `kill` prints it.
pub(crate) fn outcome(report: &Report) -> String {
    summary(report, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use leash_core::Incomplete;
    use leash_core::report::{Reason, Survivor};

    fn found(
        pid: u32,
        verdict: Verdict,
        action: Action,
        ended_by: Option<&'static str>,
    ) -> Match {
        Match {
            pid,
            start_ticks: Some(5),
            command: "sleep 60".into(),
            state: 'S',
            uid: Some(0),
            run_id: Some("s59m65f".into()),
            worker: Some(1),
            carriers: vec!["mark"],
            shim: false,
            warden: false,
            verdict,
            why: "its run is dead".into(),
            action,
            ended_by,
        }
    }

    fn survivor() -> Survivor {
        Survivor {
            pid: 8,
            start_ticks: Some(5),
            command: "sleep 60".into(),
            state: 'D',
            run_id: Some("s59m65f".into()),
            reason: Reason::Uninterruptible,
        }
    }

    #[test]
    fn every_match_has_a_line_that_says_what_became_of_it_and_why() {
        let report = Report {
            matches: vec![
                found(7, Verdict::Dead, Action::Ended, Some("SIGTERM")),
                found(8, Verdict::Dead, Action::Survived, Some("SIGKILL")),
                found(9, Verdict::Live, Action::Kept, None),
            ],
            survivors: vec![survivor()],
            complete: true,
            ..Report::default()
        };
        let shown = table(&report, false, Paint(false), None);
        assert!(
            shown[1]
                .starts_with("ended       7  s59m65f       1  dead: its run is dead; by SIGTERM")
        );
        assert!(
            shown[2].starts_with("SURVIVED    8") && shown[2].contains("; uninterruptible"),
            "{shown:?}"
        );
        assert!(
            shown[3].starts_with("kept        9") && shown[3].contains("live: "),
            "{shown:?}"
        );
        assert_eq!(summary(&report, false), "ended 1 process of 1 dead run in 0 ms; 1 left");
        assert_eq!(exit(&report), Exit::Left);
    }

    #[test]
    fn a_dry_run_says_would() {
        let report = Report {
            matches: vec![found(7, Verdict::Dead, Action::Kept, None)],
            ..Report::default()
        };
        assert!(table(&report, true, Paint(false), None)[1].starts_with("would end"));
        assert_eq!(summary(&report, true), "would end 1 process of 1 dead run; nothing was sent");
        assert!(table(&report, false, Paint(false), None)[1].starts_with("kept"));
    }

    #[test]
    fn what_could_not_be_seen_is_not_called_done_unless_it_is_none_of_this_users() {
        let with = |why| exit(&Report { incomplete_because: vec![why], ..Report::default() });
        assert_eq!(with(Incomplete::Unreadable), Exit::Left);
        assert_eq!(with(Incomplete::Hidepid), Exit::Done);
        assert_eq!(exit(&Report::default()), Exit::Done);
    }
}
