//! `leash runs`.

use crate::args::RunsArgs;
use crate::exit::{Exit, Failure};
use crate::render::output::{print_json, print_lines};
use crate::render::style::Style;
use crate::render::table::{Align, lines};
use crate::render::text::{harmless, or_dash};
use crate::run_dir_location::RunDirLocation;
use crate::run_view::{OwnerView, RunView, Status};
use crate::snapshot::Snapshot;
use leash_core::Incomplete;
use leash_core::report::RecordPresence;
use serde::Serialize;

/// The document of `--json`.
#[derive(Serialize)]
struct Document<'a> {
    complete: bool,
    incomplete_because: &'a [Incomplete],
    runs: &'a [RunView],
}

/// Lists runs once.
pub(crate) fn run(location: &RunDirLocation, args: &RunsArgs) -> Result<Exit, Failure> {
    let snapshot = Snapshot::take(location, args.whose.all)?;
    let Snapshot { complete, incomplete_because, runs, .. } = &snapshot;
    if args.json {
        print_json(&location.path, Document { complete: *complete, incomplete_because, runs })?;
    } else {
        print_lines(&table(runs, Style::of_stdout()))?;
    }
    snapshot.complain();
    Ok(Exit::Done)
}

fn table(runs: &[RunView], style: Style) -> Vec<String> {
    use Align::{Left, Right};
    let columns = [
        ("RUN", Left),
        ("IS", Left),
        ("OWNER", Left),
        ("APP", Left),
        ("NODE", Left),
        ("SINCE", Left),
        ("PROCESSES", Right),
        ("WHY", Left),
    ];
    let text = |text: &Option<String>| {
        or_dash(text.as_deref().filter(|text| !text.is_empty()).map(harmless))
    };
    let rows: Vec<_> = runs
        .iter()
        .map(|run| {
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
        })
        .collect();
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
    use leash_core::report::RunReport;
    use leash_core::{Lock, Verdict};

    #[test]
    fn what_a_record_says_cannot_control_the_terminal() {
        let report = RunReport {
            run_id: "s59m65f".into(),
            verdict: Verdict::Dead,
            why: "its owner is gone and nobody holds its lock".into(),
            record: RecordPresence::Present,
            corrupt: None,
            lock: Some(Lock::Free),
            app: Some("a\x1b[2Jb".into()),
            node: Some(String::new()),
            owners: Vec::new(),
        };
        let shown = table(&[RunView::new(&report, None)], Style::PLAIN);
        assert_eq!(
            shown[1],
            "s59m65f  DEAD  -      a\u{fffd}[2Jb  -     -              0  its owner is gone and nobody holds its lock"
        );
    }
}
