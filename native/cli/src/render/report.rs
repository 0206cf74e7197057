//! A report as people read it: a table of what became of each process, and one line about all.

use super::style::{Colour, Style};
use super::table::{Cell, lines};
use super::text::{count, name, or_dash, verdict};
use leash_core::report::{Action, Match};
use leash_core::{Report, Verdict};
use std::collections::BTreeSet;

/// Returns the table of all matches; no line at all if there is no match.
pub(crate) fn table(report: &Report, dry_run: bool, style: Style) -> Vec<String> {
    if report.matches.is_empty() {
        return Vec::new();
    }
    let columns = ["WHAT", ">PID", "RUN", ">WORKER", "WHY", "COMMAND"];
    let row = |found: &Match| {
        [
            what(found, dry_run),
            found.pid.to_string().into(),
            or_dash(found.run_id.clone()).into(),
            or_dash(found.worker).into(),
            why(report, found).into(),
            found.command.clone().into(),
        ]
    };
    let rows: Vec<_> = report.matches.iter().map(row).collect();
    lines(columns, &rows, style)
}

/// Returns what became of a process, as a cell.
fn what(found: &Match, dry_run: bool) -> Cell {
    match found.action {
        Action::Kept if dry_run && found.verdict == Verdict::Dead => {
            Cell::new("would end", Colour::Red)
        }
        Action::Kept => "kept".into(),
        Action::Ended => Cell::new("ended", Colour::Green),
        Action::Gone => Cell::new("gone", Colour::Green),
        Action::Survived => Cell::new("SURVIVED", Colour::Red),
    }
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

/// Returns one line about the whole report.
pub(crate) fn summary(report: &Report, dry_run: bool) -> String {
    if dry_run {
        let dead = report.matches.iter().filter(|found| found.verdict == Verdict::Dead);
        return format!("would end {}; nothing was sent", of_runs(dead));
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

/// Counts processes and their runs.
fn of_runs<'a>(matches: impl Iterator<Item = &'a Match>) -> String {
    let matches: Vec<_> = matches.collect();
    let runs: BTreeSet<_> = matches.iter().filter_map(|found| found.run_id.as_deref()).collect();
    let processes = count(matches.len(), "process", "processes");
    match runs.len() {
        0 => processes,
        number => format!("{processes} of {}", count(number, "dead run", "dead runs")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cleanup::exit;
    use crate::exit::Exit;
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
        let shown = table(&report, false, Style::PLAIN);
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
        assert!(table(&report, true, Style::PLAIN)[1].starts_with("would end"));
        assert_eq!(summary(&report, true), "would end 1 process of 1 dead run; nothing was sent");
        assert!(table(&report, false, Style::PLAIN)[1].starts_with("kept"));
    }
}
