//! `leash top`: processes, workers or the tree, drawn again at each interval and after each key.
//!
//! It needs a terminal. What does not fit on the screen is counted in the last line.

use crate::args::TopArgs;
use crate::exit::{Exit, Failure};
use crate::render::style::Style;
use crate::render::terminal::{self, Event, Screen};
use crate::run_dir_location::RunDirLocation;
use crate::snapshot::Snapshot;
use crate::top::end::Target;
use crate::top::frame;
use crate::top::keys::keys;
use crate::top::load::Load;
use crate::top::rows::{self, Row};
use crate::top::view::{Table, View, Wish};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// An end that goes on is looked at so often, whatever the interval is.
const ENDING: Duration = Duration::from_millis(200);

/// Shows the processes again and again, until the user quits.
pub(crate) fn run(location: &RunDirLocation, args: &TopArgs) -> Result<Exit, Failure> {
    let screen = Screen::enter()?;
    let style = Style::of_stdout();
    let (mut view, mut load) = (View::default(), Load::default());
    let (told, results) = channel();
    // The number of ends that go on.
    let mut ending = 0_usize;
    loop {
        // The frame holds the notes, because stderr is the same terminal. If an error ends the
        // loop, it is printed after the screen is given back.
        let snapshot = Snapshot::take(location, args.all)?;
        load.note(&snapshot.processes, Instant::now());
        let rows = rows(&snapshot, args.shims, &view, &load);
        ending = ending.saturating_sub(hear(&results, &mut view));
        let (columns, height) = terminal::size().unwrap_or((80, 24));
        let style = Style { width: Some(columns), ..style };
        let question = question(&mut view, &snapshot);
        screen.draw(&frame::lines(
            &snapshot,
            &rows,
            &view,
            question.as_deref(),
            style,
            height,
        ))?;
        let pause = if ending > 0 { args.interval.min(ENDING) } else { args.interval };
        let typed = match screen.wait(pause) {
            Event::Draw => continue,
            Event::Quit => return Ok(Exit::Done),
            Event::Typed(bytes) => keys(&bytes),
        };
        for key in typed {
            match view.press(key, &rows) {
                Wish::Draw => {}
                Wish::Quit => return Ok(Exit::Done),
                Wish::End(row) => match Target::of(&row, &snapshot) {
                    Ok(target) => {
                        view.message = Some("ending …".to_owned());
                        ending += 1;
                        end(target, location.clone(), told.clone());
                    }
                    Err(why) => view.message = Some(why),
                },
            }
        }
    }
}

fn rows<'a>(snapshot: &'a Snapshot, shims: bool, view: &View, load: &Load) -> Vec<Row<'a>> {
    let shown = snapshot.shown(shims);
    let mut rows = match view.table {
        Table::Workers => rows::workers(&shown, load),
        Table::Processes | Table::Tree => rows::processes(&shown, load),
    };
    rows::sort(&mut rows, view.order);
    rows
}

/// Returns the question, or tells why there is none.
fn question(view: &mut View, snapshot: &Snapshot) -> Option<String> {
    match Target::of(view.question.as_ref()?, snapshot) {
        Ok(target) => Some(target.question()),
        Err(why) => {
            (view.question, view.message) = (None, Some(why));
            None
        }
    }
}

/// Ends the target in a thread of its own, so that the screen goes on.
fn end(target: Target, location: RunDirLocation, told: Sender<String>) {
    let failed = told.clone();
    let work = move || told.send(target.end(&location));
    if let Err(error) = std::thread::Builder::new().spawn(work) {
        // The receiver lives as long as the loop.
        let _ = failed.send(format!("nothing was sent: {error}"));
    }
}

/// Takes what became of ends, and returns how many there were.
fn hear(results: &Receiver<String>, view: &mut View) -> usize {
    let heard: Vec<_> = results.try_iter().collect();
    if let Some(last) = heard.last() {
        view.message = Some(last.clone());
    }
    heard.len()
}
