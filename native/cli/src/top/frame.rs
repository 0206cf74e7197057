//! The lines of the screen: a head, notes, a table or a tree, and a line at the end.

use super::load::percent;
use super::rows::{Order, Row};
use super::view::{Table, View};
use crate::render::style::{Colour, Style};
use crate::render::table::{self, Cell, cut};
use crate::render::text::{age, count, or_dash, size};
use crate::render::tree;
use crate::run_view::Status;
use crate::snapshot::Snapshot;

const KEYS: &str = "p processes, w workers, t tree; order: c cpu, m memory, a age, n number; up, down, k ends; \
     q quits";

/// Returns at most `height` lines, each at most as wide as the style says.
pub(crate) fn lines(
    snapshot: &Snapshot,
    rows: &[Row<'_>],
    view: &View,
    question: Option<&str>,
    style: Style,
    height: usize,
) -> Vec<String> {
    let columns = style.width.unwrap_or(usize::MAX);
    let mut lines = vec![style.paint(Colour::Bold, &cut(&head(snapshot, rows, view), columns))];
    lines.extend(
        snapshot.notes.iter().map(|note| style.paint(Colour::Yellow, &cut(note, columns))),
    );
    // The title stays, and the rows move below it.
    let mut body = body(snapshot, rows, view, style);
    let is_table = view.table != Table::Tree;
    let title = if is_table && !body.is_empty() { Some(body.remove(0)) } else { None };
    lines.extend(title);
    let room = height.saturating_sub(lines.len() + 1);
    let selected = if is_table { view.position(rows) } else { None };
    let first = selected.map_or(0, |at| (at + 1).saturating_sub(room));
    let hidden = body.len().saturating_sub(room);
    lines.extend(body.into_iter().skip(first).take(room));
    lines.truncate(height.saturating_sub(1));
    let (colour, last) = match (question, &view.message) {
        (Some(question), _) => (Colour::Red, question.to_owned()),
        (None, Some(message)) => (Colour::Yellow, message.clone()),
        (None, None) if hidden > 0 => (Colour::Plain, format!("and {hidden} more; {KEYS}")),
        (None, None) => (Colour::Plain, KEYS.to_owned()),
    };
    lines.push(style.paint(colour, &cut(&last, columns)));
    lines
}

/// Returns the line that says what there is.
fn head(snapshot: &Snapshot, rows: &[Row<'_>], view: &View) -> String {
    let of = |status| snapshot.runs.iter().filter(|run| run.status == status).count();
    let mut head = format!("leash: {} alive, {} dead", of(Status::Alive), of(Status::Dead));
    match of(Status::Unknown) {
        0 => {}
        unknown => head.push_str(&format!(", {unknown} unknown")),
    }
    let processes = rows.iter().map(|row| row.count).sum();
    head.push_str(&format!("; {}", count(processes, "process", "processes")));
    let total =
        |of: fn(&Row<'_>) -> Option<u64>| rows.iter().filter_map(of).reduce(u64::saturating_add);
    if let Some(load) = total(|row| row.load) {
        head.push_str(&format!(", cpu {} %", percent(load)));
    }
    if let Some(bytes) = total(|row| row.rss_bytes) {
        head.push_str(&format!(", {}", size(bytes)));
    }
    head.push_str(match view.order {
        Order::Number => "",
        Order::Cpu => "; by cpu",
        Order::Memory => "; by memory",
        Order::Age => "; by age",
    });
    head
}

fn body(snapshot: &Snapshot, rows: &[Row<'_>], view: &View, style: Style) -> Vec<String> {
    let selected = view.position(rows);
    match view.table {
        Table::Tree => tree::lines(snapshot, style),
        Table::Processes => {
            let titles =
                ["RUN", "IS", ">WORKER", "NAME", ">PID", ">CPU%", ">RSS", ">AGE", "S", "COMMAND"];
            let cells = |row: &Row<'_>| {
                let one = row.process;
                let [run, is, worker, name] = owner(row);
                let (pid, state) = (one.pid.to_string().into(), one.state.to_string().into());
                let [cpu, rss, age] = usage(row);
                [run, is, worker, name, pid, cpu, rss, age, state, one.command.clone().into()]
            };
            rows_of(titles, rows, selected, style, cells)
        }
        Table::Workers => {
            let titles = [
                "RUN",
                "IS",
                ">WORKER",
                "NAME",
                ">PROCESSES",
                ">CPU%",
                ">RSS",
                ">AGE",
                "COMMAND",
            ];
            let cells = |row: &Row<'_>| {
                let [run, is, worker, name] = owner(row);
                let [cpu, rss, age] = usage(row);
                let (count, command) = (row.count.to_string(), row.process.command.clone());
                [run, is, worker, name, count.into(), cpu, rss, age, command.into()]
            };
            rows_of(titles, rows, selected, style, cells)
        }
    }
}

/// Returns the cells that say whose a row is.
fn owner(row: &Row<'_>) -> [Cell; 4] {
    let one = row.process;
    [
        or_dash(one.run_id.clone()).into(),
        one.status_cell(),
        or_dash(one.worker).into(),
        or_dash(one.title()).into(),
    ]
}

/// Returns the cells that say what a row takes.
fn usage(row: &Row<'_>) -> [Cell; 3] {
    [
        or_dash(row.load.map(percent)).into(),
        or_dash(row.rss_bytes.map(size)).into(),
        age(row.process.age_ms).into(),
    ]
}

/// Lays out a table of rows, one of which may be selected.
fn rows_of<const N: usize>(
    titles: [&str; N],
    rows: &[Row<'_>],
    selected: Option<usize>,
    style: Style,
    cells: impl Fn(&Row<'_>) -> [Cell; N],
) -> Vec<String> {
    let line = |(at, row): (usize, &Row<'_>)| {
        let cells = cells(row);
        if selected == Some(at) { cells.map(reversed) } else { cells }
    };
    table::lines(titles, &rows.iter().enumerate().map(line).collect::<Vec<_>>(), style)
}

fn reversed(cell: Cell) -> Cell {
    Cell::new(cell.text, Colour::Reverse)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process_view::ProcessView;
    use crate::top::keys::Key;
    use crate::top::load::Load;
    use crate::top::rows::{processes, workers};

    fn snapshot(processes: Vec<ProcessView>, notes: usize) -> Snapshot {
        let notes = (0..notes).map(|number| format!("note {number}, which goes on")).collect();
        let runs = Vec::new();
        Snapshot { runs, processes, complete: true, incomplete_because: Vec::new(), notes }
    }

    fn plain(columns: usize) -> Style {
        Style { colours: false, width: Some(columns) }
    }

    fn many(count: u32) -> Vec<ProcessView> {
        (0..count).map(|number| ProcessView::example(100 + number, 1, "x")).collect()
    }

    #[test]
    fn a_frame_is_never_larger_than_the_terminal() {
        let snapshot = snapshot(many(30), 20);
        let shown: Vec<_> = snapshot.processes.iter().collect();
        for table in [Table::Processes, Table::Workers, Table::Tree] {
            let view = View { table, ..View::default() };
            let rows = processes(&shown, &Load::default());
            for size in [(1, 1), (10, 3), (80, 24), (80, 22), (80, 21), (80, 60)] {
                let lines = lines(&snapshot, &rows, &view, None, plain(size.0), size.1);
                assert!(lines.len() <= size.1, "{size:?}: {lines:?}");
                let is_wide = |line: &String| line.chars().count() > size.0;
                assert!(!lines.iter().any(is_wide), "{size:?}: {lines:?}");
            }
        }
    }

    #[test]
    fn the_selected_row_is_on_the_screen_and_the_rest_is_counted() {
        let snapshot = snapshot(many(30), 0);
        let shown: Vec<_> = snapshot.processes.iter().collect();
        let rows = processes(&shown, &Load::default());
        let mut view = View::default();
        let first = lines(&snapshot, &rows, &view, None, plain(80), 10);
        assert!(first[2].contains("100") && first[9].starts_with("and 23 more"), "{first:?}");
        for _ in 0..30 {
            view.press(Key::Down, &rows);
        }
        let last = lines(&snapshot, &rows, &view, None, plain(80), 10);
        assert!(last[1].starts_with("RUN") && last[8].contains(" 129 "), "{last:?}");
        let asked = lines(&snapshot, &rows, &view, Some("end it? y/n"), plain(80), 10);
        assert_eq!(asked[9], "end it? y/n");
        let coloured = Style { colours: true, width: Some(80) };
        let reversed = lines(&snapshot, &rows, &view, None, coloured, 10);
        let is_reversed = |line: &&String| line.contains("\x1b[7m129");
        assert_eq!(reversed.iter().filter(is_reversed).count(), 1, "{reversed:?}");
    }

    #[test]
    fn a_worker_stands_with_its_name_and_the_sums_of_its_tree() {
        let name = Some("App.W".to_owned());
        let all = many(2).into_iter().map(|one| ProcessView { name: name.clone(), ..one });
        let snapshot = snapshot(all.collect(), 0);
        let shown: Vec<_> = snapshot.processes.iter().collect();
        let rows = workers(&shown, &Load::default());
        let view = View { table: Table::Workers, ..View::default() };
        let lines = lines(&snapshot, &rows, &view, None, plain(120), 10);
        assert_eq!(lines[0], "leash: 0 alive, 0 dead; 2 processes, 4K");
        assert_eq!(lines[1], "RUN      IS    WORKER  NAME   PROCESSES  CPU%  RSS  AGE  COMMAND");
        assert_eq!(lines[2], "s59m65f  live       3  App.W          2     -   4K   5s  x");
    }
}
