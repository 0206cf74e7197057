//! `leash runs`.

use crate::args::RunsArgs;
use crate::exit::{Exit, Failure};
use crate::look::Look;
use crate::output::{print_json, print_lines};
use crate::paint::Paint;
use crate::place::Place;
use crate::run_view::{OwnerView, RunView, Status};
use crate::table::{Align, lines};
use crate::terminal;
use crate::text::{harmless, or_dash};
use leash_core::Incomplete;
use leash_core::report::RecordPresence;
use serde::Serialize;

#[derive(Serialize)]
struct Document<'a> {
    format: u32,
    run_dir: String,
    complete: bool,
    incomplete_because: &'a [Incomplete],
    runs: &'a [RunView],
}

pub(crate) fn run(place: &Place, args: &RunsArgs) -> Result<Exit, Failure> {
    let look = Look::now(place, args.whose.all)?;
    if args.json {
        print_json(&Document {
            format: 1,
            run_dir: place.path.display().to_string(),
            complete: look.complete,
            incomplete_because: &look.incomplete_because,
            runs: &look.runs,
        })?;
    } else {
        print_lines(&table(&look.runs, Paint::of_stdout(), terminal::width()))?;
    }
    look.complain();
    Ok(Exit::Done)
}

fn table(runs: &[RunView], paint: Paint, width: Option<usize>) -> Vec<String> {
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
    lines(columns, &rows, paint, width)
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
        let shown = table(&[RunView::new(&report, None)], Paint(false), None);
        assert_eq!(
            shown[1],
            "s59m65f  DEAD  -      a\u{fffd}[2Jb  -     -              0  its owner is gone and nobody holds its lock"
        );
    }
}
