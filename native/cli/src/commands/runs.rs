//! `leash runs`: the runs of this machine, and whether they are alive.
//!
//! A run is listed if it has a record here, or if a process names it.

use crate::args::RunsArgs;
use crate::exit::{Exit, Failure};
use crate::render::output::{print_json, print_lines};
use crate::render::style::Style;
use crate::render::table::lines;
use crate::render::text::{harmless, or_dash};
use crate::run_dir_location::RunDirLocation;
use crate::run_view::{OwnerView, RunView, Status};
use crate::snapshot::Snapshot;
use leash_core::report::RecordPresence;
use serde::Serialize;

/// The document of `--json`.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    snapshot: &'a Snapshot,
    runs: &'a [RunView],
}

/// Lists runs once.
pub(crate) fn run(location: &RunDirLocation, args: &RunsArgs) -> Result<Exit, Failure> {
    let snapshot = Snapshot::take(location, args.all)?;
    let runs = &snapshot.runs;
    if args.json {
        print_json(&location.path, Document { snapshot: &snapshot, runs })?;
    } else {
        print_lines(&table(runs, Style::of_stdout()))?;
    }
    snapshot.complain();
    Ok(Exit::Done)
}

/// Returns the table of runs, one in each row.
fn table(runs: &[RunView], style: Style) -> Vec<String> {
    let columns = ["RUN", "IS", "OWNER", "APP", "NODE", "SINCE", ">PROCESSES", "WHY"];
    let text = |text: &Option<String>| {
        or_dash(text.as_deref().filter(|text| !text.is_empty()).map(harmless))
    };
    let row = |run: &RunView| {
        [
            run.run_id.clone().into(),
            run.status_cell(),
            or_dash(run.owner.map(OwnerView::text)).into(),
            text(&run.app).into(),
            text(&run.node).into(),
            text(&run.since).into(),
            run.processes.to_string().into(),
            why(run).into(),
        ]
    };
    let rows: Vec<_> = runs.iter().map(row).collect();
    lines(columns, &rows, style)
}

/// Returns what the other columns do not say.
fn why(run: &RunView) -> String {
    let record = match run.record {
        RecordPresence::Present => None,
        RecordPresence::Absent => Some("it has no record here"),
        RecordPresence::Corrupt => Some("its record is not believed"),
    };
    let verdict = (run.status != Status::Alive).then_some(run.why.as_str());
    [verdict, record].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_view::tests::report;
    use leash_core::Verdict;

    #[test]
    fn what_a_record_says_cannot_control_the_terminal() {
        let mut report = report(Verdict::Dead, "its owner is gone and its lock is free");
        report.app = Some("a\x1b[2Jb".into());
        let shown = table(&[RunView::new(&report, None)], Style::PLAIN);
        assert_eq!(
            shown[1],
            "s59m65f  DEAD  -      a\u{fffd}[2Jb  -     -              0  its owner is gone and its lock is free"
        );
    }
}
