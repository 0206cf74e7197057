//! The table of workers that VMs were told to end.
//!
//! Whatever a VM said goes through [`harmless`], because its words come from a socket.

use super::style::{Colour, Style};
use super::table::{Cell, lines};
use super::text::{count, harmless, or_dash};
use crate::control::answer::{Answers, Outcome, Worker};

/// Returns the table, and a line that counts.
pub(crate) fn table(answers: &Answers, style: Style) -> Vec<String> {
    let columns = ["WHAT", "RUN", ">WORKER", ">PID", "NAME", "GROUP", "HOW"];
    let row = |(run_id, worker): (&str, &Worker)| {
        [
            what(worker.result),
            run_id.into(),
            worker.worker.to_string().into(),
            or_dash(worker.os_pid).into(),
            harmless(&worker.label).into(),
            or_dash(worker.group.as_deref().map(harmless)).into(),
            how(worker).into(),
        ]
    };
    let rows: Vec<_> = answers.workers().map(row).collect();
    let gone = answers.workers().filter(|(_, worker)| worker.is_gone()).count();
    let left = match rows.len() - gone {
        0 => String::new(),
        left => format!("; {left} left"),
    };
    let mut text = lines(columns, &rows, style);
    text.push(format!("ended {}{left}", count(gone, "worker", "workers")));
    text
}

/// Returns what became of a worker, as a cell.
fn what(result: Option<Outcome>) -> Cell {
    match result {
        Some(Outcome::Ended) => Cell::new("ended", Colour::Green),
        Some(Outcome::Gone) => Cell::new("gone", Colour::Green),
        Some(Outcome::Survived) => Cell::new("SURVIVED", Colour::Red),
        Some(Outcome::Ending) => Cell::new("ENDING", Colour::Red),
        None => "-".into(),
    }
}

/// Returns how a worker ended, or what is left of it.
fn how(worker: &Worker) -> String {
    let how = worker.how.as_deref().map(harmless).unwrap_or_default();
    let survivors = worker.survivors.iter();
    let survivors = survivors.map(|one| format!("{} ({})", one.pid, harmless(&one.why)));
    let survivors = survivors.collect::<Vec<_>>().join(", ");
    if survivors.is_empty() { how } else { format!("{how} {survivors}").trim_start().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::answer::{RunWorkers, tests::fields};

    #[test]
    fn survivors_stand_where_else_the_end_stands() {
        let line = "worker|3|port||sh||survived||12:eperm,13:uninterruptible";
        let left = Worker::parse(&fields(line)).unwrap();
        assert_eq!(how(&left), "12 (eperm), 13 (uninterruptible)");
    }

    #[test]
    fn what_a_vm_says_cannot_control_the_terminal() {
        let line = "worker|3|worker|4711|a\u{1b}[2Jb|\u{1b}|ended|st\u{1b}|";
        let workers = vec![Worker::parse(&fields(line)).unwrap()];
        let runs = vec![RunWorkers { run_id: "s59m65f".into(), workers }];
        let shown = table(&Answers { runs, mute: Vec::new() }, Style::PLAIN);
        assert!(!shown.concat().contains('\u{1b}'), "{shown:?}");
        assert_eq!(shown.last().unwrap(), "ended 1 worker");
    }
}
