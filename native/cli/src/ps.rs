//! `leash ps`.

use crate::args::PsArgs;
use crate::exit::{Exit, Failure};
use crate::look::Look;
use crate::output::{print_json, print_lines};
use crate::paint::Paint;
use crate::place::Place;
use crate::process_view::ProcessView;
use crate::run_view::OwnerView;
use crate::table::{Align, lines};
use crate::terminal;
use crate::text::{age, or_dash, size};
use leash_core::Incomplete;
use serde::Serialize;

#[derive(Serialize)]
struct Document<'a> {
    format: u32,
    run_dir: String,
    complete: bool,
    incomplete_because: &'a [Incomplete],
    processes: Vec<&'a ProcessView>,
}

pub(crate) fn run(place: &Place, args: &PsArgs) -> Result<Exit, Failure> {
    let look = Look::now(place, args.whose.all)?;
    let processes = shown(&look, args.shims);
    if args.json {
        print_json(&Document {
            format: 1,
            run_dir: place.path.display().to_string(),
            complete: look.complete,
            incomplete_because: &look.incomplete_because,
            processes,
        })?;
    } else {
        print_lines(&table(&processes, Paint::of_stdout(), terminal::width()))?;
    }
    look.complain();
    Ok(Exit::Done)
}

/// Returns the rows: all processes, the shims only on request.
pub(crate) fn shown(look: &Look, shims: bool) -> Vec<&ProcessView> {
    look.processes.iter().filter(|process| shims || !process.shim).collect()
}

pub(crate) fn table(
    processes: &[&ProcessView],
    paint: Paint,
    width: Option<usize>,
) -> Vec<String> {
    use Align::{Left, Right};
    let columns = [
        ("RUN", Left),
        ("IS", Left),
        ("WORKER", Right),
        ("PID", Right),
        ("PPID", Right),
        ("OWNER", Left),
        ("AGE", Right),
        ("RSS", Right),
        ("S", Left),
        ("COMMAND", Left),
    ];
    let rows: Vec<_> = processes
        .iter()
        .map(|process| {
            [
                or_dash(process.run_id.clone()).into(),
                process.status_cell(),
                or_dash(process.worker).into(),
                process.pid.to_string().into(),
                or_dash(process.ppid).into(),
                or_dash(process.owner.map(OwnerView::text)).into(),
                age(process.age_ms).into(),
                or_dash(process.rss_bytes.map(size)).into(),
                process.state.to_string().into(),
                process.command.clone().into(),
            ]
        })
        .collect();
    lines(columns, &rows, paint, width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use leash_core::{OwnerState, Source, Verdict};

    fn process(verdict: Verdict, state: OwnerState) -> ProcessView {
        ProcessView {
            run_id: Some("s59m65f".into()),
            worker: Some(3),
            pid: 4712,
            ppid: Some(4711),
            start_ticks: Some(9),
            uid: Some(0),
            state: 'S',
            age_ms: 192_000,
            rss_bytes: Some(24 << 20),
            command: "python3 worker.py".into(),
            shim: false,
            warden: false,
            carriers: vec!["mark", "env"],
            verdict,
            why: "its owner lives".into(),
            owner: Some(OwnerView { pid: 4700, start_ticks: 5, state, source: Source::Record }),
        }
    }

    #[test]
    fn a_row_says_whose_it_is_and_whether_its_run_lives() {
        let live = process(Verdict::Live, OwnerState::Alive);
        let mut dead = process(Verdict::Dead, OwnerState::Gone);
        (dead.worker, dead.ppid, dead.rss_bytes) = (None, None, None);
        let shown = table(&[&live, &dead], Paint(false), None);
        assert_eq!(
            shown,
            [
                "RUN      IS    WORKER   PID  PPID  OWNER        AGE  RSS  S  COMMAND",
                "s59m65f  live       3  4712  4711  4700       3m12s  24M  S  python3 worker.py",
                "s59m65f  DEAD       -  4712     -  4700 gone  3m12s    -  S  python3 worker.py",
            ]
        );
    }

    #[test]
    fn dead_is_red_on_a_terminal() {
        let dead = process(Verdict::Dead, OwnerState::Gone);
        assert!(table(&[&dead], Paint(true), None)[1].contains("\x1b[31mDEAD\x1b[0m"));
    }
}
