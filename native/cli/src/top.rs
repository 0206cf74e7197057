//! `leash top`.

use crate::args::TopArgs;
use crate::exit::{Exit, Failure};
use crate::look::Look;
use crate::paint::{Colour, Paint};
use crate::place::Place;
use crate::ps;
use crate::run_view::Status;
use crate::table::cut;
use crate::terminal::{self, Screen, Woken};
use crate::text::count;

pub(crate) fn run(place: &Place, args: &TopArgs) -> Result<Exit, Failure> {
    let screen = Screen::enter()?;
    let paint = Paint::of_stdout();
    loop {
        // The frame holds the notes, because stderr is the same terminal. If an error ends the
        // loop, it is printed after the screen is given back.
        let look = Look::now(place, args.whose.all)?;
        screen.draw(&frame(&look, args.shims, paint, terminal::size().unwrap_or((80, 24))))?;
        if screen.wait(args.interval) == Woken::Quit {
            return Ok(Exit::Done);
        }
    }
}

fn frame(look: &Look, shims: bool, paint: Paint, (columns, rows): (usize, usize)) -> Vec<String> {
    let of = |status| look.runs.iter().filter(|run| run.status == status).count();
    let processes = ps::shown(look, shims);
    let mut head = format!("leash: {} alive, {} dead", of(Status::Alive), of(Status::Dead));
    match of(Status::Unknown) {
        0 => {}
        unknown => head.push_str(&format!(", {unknown} unknown")),
    }
    head.push_str(&format!("; {}; q quits", count(processes.len(), "process", "processes")));
    let mut lines = vec![paint.text(Colour::Bold, &cut(&head, columns))];
    lines.extend(look.notes.iter().map(|note| paint.text(Colour::Yellow, &cut(note, columns))));
    lines.extend(ps::table(&processes, paint, Some(columns)));
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
        let look = Look {
            runs: Vec::new(),
            processes: Vec::new(),
            complete: true,
            incomplete_because: Vec::new(),
            notes,
        };
        for size in [(1, 1), (10, 3), (80, 24), (80, 22), (80, 21)] {
            let lines = frame(&look, false, Paint(false), size);
            assert!(lines.len() <= size.1, "{size:?}: {lines:?}");
            assert!(
                lines.iter().all(|line| line.chars().count() <= size.0),
                "{size:?}: {lines:?}"
            );
        }
        assert_eq!(frame(&look, false, Paint(false), (80, 10))[9], "and 13 more");
    }
}
