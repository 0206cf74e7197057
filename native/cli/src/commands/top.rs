//! `leash top`: the table of `leash ps`, drawn again at each interval.
//!
//! It needs a terminal. What does not fit on the screen is counted in the last line.

use crate::args::TopArgs;
use crate::exit::{Exit, Failure};
use crate::render::processes;
use crate::render::style::{Colour, Style};
use crate::render::table::cut;
use crate::render::terminal::{self, Event, Screen};
use crate::render::text::count;
use crate::run_dir_location::RunDirLocation;
use crate::run_view::Status;
use crate::snapshot::Snapshot;

/// Shows the processes again and again, until the user quits.
pub(crate) fn run(location: &RunDirLocation, args: &TopArgs) -> Result<Exit, Failure> {
    let screen = Screen::enter()?;
    let style = Style::of_stdout();
    loop {
        // The frame holds the notes, because stderr is the same terminal. If an error ends the
        // loop, it is printed after the screen is given back.
        let snapshot = Snapshot::take(location, args.all)?;
        let (columns, rows) = terminal::size().unwrap_or((80, 24));
        let style = Style { width: Some(columns), ..style };
        screen.draw(&frame(&snapshot, args.shims, style, rows))?;
        if screen.wait(args.interval) == Event::Quit {
            return Ok(Exit::Done);
        }
    }
}

/// Returns the lines of the screen, as many as fit on it.
fn frame(snapshot: &Snapshot, shims: bool, style: Style, rows: usize) -> Vec<String> {
    let columns = style.width.unwrap_or(usize::MAX);
    let of = |status| snapshot.runs.iter().filter(|run| run.status == status).count();
    let processes = snapshot.shown(shims);
    let mut head = format!("leash: {} alive, {} dead", of(Status::Alive), of(Status::Dead));
    match of(Status::Unknown) {
        0 => {}
        unknown => head.push_str(&format!(", {unknown} unknown")),
    }
    head.push_str(&format!("; {}; q quits", count(processes.len(), "process", "processes")));
    let mut lines = vec![style.paint(Colour::Bold, &cut(&head, columns))];
    lines.extend(
        snapshot.notes.iter().map(|note| style.paint(Colour::Yellow, &cut(note, columns))),
    );
    lines.extend(processes::table(&processes, style));
    if lines.len() > rows {
        let hidden = lines.len() + 1 - rows;
        lines.truncate(rows.saturating_sub(1));
        lines.push(cut(&format!("and {hidden} more"), columns));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_never_larger_than_the_terminal() {
        let notes: Vec<_> =
            (0..20).map(|number| format!("note {number}, which goes on")).collect();
        let snapshot = Snapshot {
            runs: Vec::new(),
            processes: Vec::new(),
            complete: true,
            incomplete_because: Vec::new(),
            notes,
        };
        let plain = |columns| Style { colours: false, width: Some(columns) };
        for size in [(1, 1), (10, 3), (80, 24), (80, 22), (80, 21)] {
            let lines = frame(&snapshot, false, plain(size.0), size.1);
            assert!(lines.len() <= size.1, "{size:?}: {lines:?}");
            assert!(
                lines.iter().all(|line| line.chars().count() <= size.0),
                "{size:?}: {lines:?}"
            );
        }
        assert_eq!(frame(&snapshot, false, plain(80), 10)[9], "and 13 more");
    }
}
