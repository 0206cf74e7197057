//! The table of processes.

use super::style::Style;
use super::table::lines;
use super::text::{age, or_dash, size};
use crate::process_view::ProcessView;
use crate::run_view::OwnerView;

/// Returns the table of these processes, one in each row.
///
/// `OWNER` is the VM's pid, followed by its state if it is not running.
pub(crate) fn table(processes: &[&ProcessView], style: Style) -> Vec<String> {
    let columns = [
        "RUN", "IS", ">WORKER", "NAME", ">PID", ">PPID", "OWNER", ">AGE", ">RSS", "S", "COMMAND",
    ];
    let row = |process: &&ProcessView| {
        [
            or_dash(process.run_id.clone()).into(),
            process.status_cell(),
            or_dash(process.worker).into(),
            or_dash(process.title()).into(),
            process.pid.to_string().into(),
            or_dash(process.ppid).into(),
            or_dash(process.owner.map(OwnerView::text)).into(),
            age(process.age_ms).into(),
            or_dash(process.rss_bytes.map(size)).into(),
            process.state.to_string().into(),
            process.command.clone().into(),
        ]
    };
    let rows: Vec<_> = processes.iter().map(row).collect();
    lines(columns, &rows, style)
}

#[cfg(test)]
mod tests {
    use super::*;
    use leash_core::{OwnerState, Source, Verdict};

    fn process(verdict: Verdict, state: OwnerState) -> ProcessView {
        let owner = Some(OwnerView { pid: 4700, start_ticks: 5, state, source: Source::Record });
        ProcessView {
            age_ms: 192_000,
            rss_bytes: Some(24 << 20),
            verdict,
            owner,
            ..ProcessView::example(4712, 4711, "python3 worker.py")
        }
    }

    #[test]
    fn a_row_says_whose_it_is_and_whether_its_run_lives() {
        let mut live = process(Verdict::Live, OwnerState::Alive);
        (live.name, live.group) = (Some("App.W".into()), Some(":pool".into()));
        let mut dead = process(Verdict::Dead, OwnerState::Gone);
        (dead.worker, dead.ppid, dead.rss_bytes) = (None, None, None);
        let shown = table(&[&live, &dead], Style::PLAIN);
        assert_eq!(
            shown,
            [
                "RUN      IS    WORKER  NAME    PID  PPID  OWNER        AGE  RSS  S  COMMAND",
                "s59m65f  live       3  App.W  4712  4711  4700       3m12s  24M  S  python3 worker.py",
                "s59m65f  DEAD       -  -      4712     -  4700 gone  3m12s    -  S  python3 worker.py",
            ]
        );
    }

    #[test]
    fn dead_is_red_on_a_terminal() {
        let dead = process(Verdict::Dead, OwnerState::Gone);
        let style = Style { colours: true, ..Style::PLAIN };
        assert!(table(&[&dead], style)[1].contains("\x1b[31mDEAD\x1b[0m"));
    }
}
