//! `leash stop`: asks the VM that has a worker or a group to end it. If no VM is alive, it sweeps
//! dead runs instead.

use crate::args::StopArgs;
use crate::control::{Line, Silence, ask_all};
use crate::exit::{Exit, Failure};
use crate::hunting::hunt;
use crate::look::Look;
use crate::output::{complain, print, print_json};
use crate::paint::{Colour, Paint};
use crate::place::Place;
use crate::run_view::Status;
use crate::sweep;
use crate::table::{Align, Cell, lines};
use crate::terminal;
use crate::text::{count, harmless, or_dash};
use leash_core::report::Action;
use leash_core::{CleanupKind, Ladder, Lock, Mode, Report, RunDir};
use leash_tag::RunId;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

// The time for a question that a VM answers from a table. It is also added to the deadline,
// because the proof of the last SIGKILLs takes a moment.
const ANSWER: Duration = Duration::from_secs(2);

#[derive(Serialize)]
struct Document<'a> {
    format: u32,
    run_dir: String,
    name: &'a str,
    /// True if a VM was told to end anything.
    stopped: bool,
    runs: &'a [Asked],
    mute: &'a [Mute],
    /// The report of the sweep, if no run was alive or none had the name.
    report: Option<&'a Report>,
}

/// A run that has the worker or group to stop.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Asked {
    run_id: String,
    workers: Vec<Worker>,
}

/// A living run whose VM gave no answer.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Mute {
    run_id: String,
    why: Silence,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Worker {
    worker: u16,
    kind: String,
    os_pid: Option<u32>,
    label: String,
    group: Option<String>,
    /// Absent before the worker was told to end.
    result: Option<Outcome>,
    how: Option<String>,
    survivors: Vec<Survivor>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// Nothing of its tree is left, and the VM saw how it ended.
    Ended,
    /// Nothing of its tree is left.
    Gone,
    /// Something of its tree is left, or may be.
    Survived,
    /// The worker was still ending when the time was over.
    Ending,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Survivor {
    pid: u32,
    why: String,
}

pub(crate) fn run(place: &Place, args: &StopArgs) -> Result<Exit, Failure> {
    let dir = place.open()?;
    let living = living(&dir, args.run_id)?;
    let find = ask_all(&dir, &living, &format!("find {}", args.name), ANSWER);
    let (mut runs, mut mute) = sort(find)?;
    drop_dead(place, &mut mute)?;
    let document = |stopped, runs: &[Asked], mute: &[Mute], report: Option<&Report>| {
        let run_dir = place.path.display().to_string();
        let document =
            Document { format: 1, run_dir, name: &args.name, stopped, runs, mute, report };
        if args.json { print_json(&document) } else { Ok(()) }
    };
    let has_it = runs.iter().any(|run| !run.workers.is_empty());
    let asked = runs.len();
    runs.retain(|run| !run.workers.is_empty());
    if !has_it && mute.is_empty() {
        // An operator who names one run wants no other run swept.
        let report = if args.run_id.is_none() { Some(sweep_dead(&dir)?) } else { None };
        document(false, &runs, &mute, report.as_ref())?;
        if let Some(report) = report.as_ref().filter(|_| !args.json) {
            print(&swept(report))?;
        }
        let exit = report.as_ref().map_or(Exit::Left, sweep::exit);
        if asked == 0 {
            return Ok(exit);
        }
        say_unknown(&dir, &living, asked, &args.name);
        return Ok(Exit::Left);
    }
    if let Some(refusal) = refusal(args, &runs, &mute) {
        document(false, &runs, &mute, None)?;
        say_mute(&mute, ANSWER);
        return if has_it { Err(Failure::new(Exit::Refused, refusal)) } else { Ok(Exit::Left) };
    }
    let chosen: Vec<_> = living.into_iter().filter(|run| is_among(&runs, *run)).collect();
    let patience = args.deadline + ANSWER;
    let request = format!("stop {} {}", args.deadline.as_millis(), args.name);
    let (ended, silent) = sort(ask_all(&dir, &chosen, &request, patience))?;
    let exit = if is_all_gone(&ended) && silent.is_empty() && mute.is_empty() {
        Exit::Done
    } else {
        Exit::Left
    };
    mute.extend(silent);
    document(true, &ended, &mute, None)?;
    if !args.json {
        print(&table(&ended, Paint::of_stdout(), terminal::width()))?;
    }
    say_mute(&mute, patience);
    Ok(exit)
}

/// Returns the runs whose VM may be alive: the lock on the record is held, or could not be
/// tested.
fn living(dir: &RunDir, only: Option<RunId>) -> Result<Vec<RunId>, Failure> {
    if let Some(run) = only {
        let file = dir.record(run)?;
        let file = file.ok_or_else(|| Failure::new(Exit::Left, format!("{run}: no such run")))?;
        return match file.lock {
            Lock::Free => Err(Failure::new(
                Exit::Left,
                format!("{run}: its VM is gone; `leash kill {run}` ends what it left"),
            )),
            _ => Ok(vec![run]),
        };
    }
    let records = dir.records();
    if !records.complete {
        complain("not every record could be read: a run may have been missed");
    }
    let mut runs: Vec<_> = records
        .files
        .iter()
        .filter(|file| file.lock != Lock::Free)
        .map(|file| file.run)
        .collect();
    runs.sort_unstable_by_key(RunId::to_string);
    Ok(runs)
}

type Answers = Vec<(RunId, Result<Vec<Line>, Silence>)>;

/// Sorts the answers into VMs that answered and VMs that did not. If a VM rejects the request,
/// the whole command fails.
fn sort(answers: Answers) -> Result<(Vec<Asked>, Vec<Mute>), Failure> {
    let (mut asked, mut mute) = (Vec::new(), Vec::new());
    for (run, answer) in answers {
        let run_id = run.to_string();
        match answer {
            Err(why) => mute.push(Mute { run_id, why }),
            Ok(lines) => {
                if let Some(error) =
                    lines.iter().find(|line| line.first().is_some_and(|word| word == "error"))
                {
                    let error = error.get(1).map_or("", String::as_str);
                    return Err(Failure::new(Exit::Left, format!("{run}: {}", harmless(error))));
                }
                match lines.iter().map(Worker::parse).collect() {
                    Some(workers) => asked.push(Asked { run_id, workers }),
                    None => mute.push(Mute { run_id, why: Silence::Garbage }),
                }
            }
        }
    }
    Ok((asked, mute))
}

impl Worker {
    fn parse(line: &Line) -> Option<Self> {
        let field = |index: usize| line.get(index).map(String::as_str);
        let given = |index: usize| field(index).filter(|text| !text.is_empty());
        if field(0)? != "worker" {
            return None;
        }
        let result = match given(6) {
            None => None,
            Some("ended") => Some(Outcome::Ended),
            Some("gone") => Some(Outcome::Gone),
            Some("survived") => Some(Outcome::Survived),
            Some("ending") => Some(Outcome::Ending),
            Some(_) => return None,
        };
        let os_pid = match given(3) {
            None => None,
            Some(pid) => Some(pid.parse().ok()?),
        };
        Some(Self {
            worker: field(1)?.parse().ok()?,
            kind: field(2)?.to_owned(),
            os_pid,
            label: field(4)?.to_owned(),
            group: given(5).map(str::to_owned),
            result,
            how: given(7).map(str::to_owned),
            survivors: given(8)
                .unwrap_or_default()
                .split_terminator(',')
                .map(Survivor::parse)
                .collect::<Option<_>>()?,
        })
    }

    fn is_gone(&self) -> bool {
        matches!(self.result, Some(Outcome::Ended | Outcome::Gone))
    }
}

impl Survivor {
    /// Parses `4711:eperm`.
    fn parse(text: &str) -> Option<Self> {
        let (pid, why) = text.split_once(':')?;
        Some(Self { pid: pid.parse().ok()?, why: why.to_owned() })
    }
}

/// Drops dead runs from `mute`. A lock can outlive its VM, in a child that a NIF forked: no VM of
/// such a run can be asked.
fn drop_dead(place: &Place, mute: &mut Vec<Mute>) -> Result<(), Failure> {
    if mute.iter().any(|run| run.why == Silence::NoSocket) {
        let look = Look::now(place, false)?;
        mute.retain(|run| {
            let dead = |other: &&crate::run_view::RunView| {
                other.run_id == run.run_id && other.status == Status::Dead
            };
            // A run that has ended since then is not in the list any more.
            run.why != Silence::NoSocket
                || (look.runs.iter().any(|other| other.run_id == run.run_id)
                    && !look.runs.iter().any(|other| dead(&other)))
        });
    }
    Ok(())
}

fn sweep_dead(dir: &Arc<RunDir>) -> Result<Report, Failure> {
    let kind = CleanupKind::Sweep { own_run: None, app: None, mode: Mode::End };
    hunt(kind, Ladder::default(), Duration::from_secs(10), Some(Arc::clone(dir)))
}

fn swept(report: &Report) -> String {
    let mut report = report.clone();
    // Matches that the sweep kept are not part of the question.
    report.matches.retain(|found| found.action != Action::Kept);
    let mut text = sweep::table(&report, false, Paint::of_stdout(), terminal::width());
    text.push(format!("no living run has it; of dead ones: {}", sweep::outcome(&report)));
    text.iter().map(|line| format!("{line}\n")).collect()
}

/// Reports an unknown name. If VMs are alive and none has it, the name is misspelt or has ended
/// already.
fn say_unknown(dir: &RunDir, living: &[RunId], asked: usize, name: &str) {
    let mut message = format!(
        "{} no worker or group {name}",
        count(asked, "living run has", "living runs have")
    );
    let mut names: Vec<_> = ask_all(dir, living, "names", ANSWER)
        .into_iter()
        .flat_map(|(_, answer)| answer.unwrap_or_default())
        .filter_map(|line| line.get(1).map(|name| harmless(name)))
        .collect();
    names.sort_unstable();
    names.dedup();
    if !names.is_empty() {
        let more = if names.len() > 10 { ", …" } else { "" };
        names.truncate(10);
        message.push_str(&format!("; there are {}{more}", names.join(", ")));
    }
    complain(&message);
}

/// Returns why nothing is stopped.
fn refusal(args: &StopArgs, runs: &[Asked], mute: &[Mute]) -> Option<String> {
    let listed = || runs.iter().map(|run| run.run_id.as_str()).collect::<Vec<_>>().join(", ");
    if runs.is_empty() {
        return Some(String::new());
    }
    if args.run_id.is_some() || args.all_runs {
        return None;
    }
    if runs.len() > 1 {
        let message =
            format!("several runs have {}: {}; nothing was stopped", args.name, listed());
        return Some(format!("{message} (choose with --run, or --all-runs)"));
    }
    (!mute.is_empty()).then(|| {
        format!(
            "{} has {}, and who did not answer may have it too; nothing was stopped (choose with --run)",
            listed(),
            args.name
        )
    })
}

fn is_among(runs: &[Asked], run: RunId) -> bool {
    runs.iter().any(|asked| asked.run_id == run.to_string())
}

fn is_all_gone(runs: &[Asked]) -> bool {
    runs.iter().flat_map(|run| &run.workers).all(Worker::is_gone)
}

fn say_mute(mute: &[Mute], patience: Duration) {
    for Mute { run_id, why } in mute {
        let what = match why {
            Silence::NoSocket => "its VM lives and has no socket to be asked on".to_owned(),
            Silence::NoAnswer => {
                format!("its VM has not answered within {} ms", patience.as_millis())
            }
            Silence::ForeignPeer => "another user listens on its socket".to_owned(),
            Silence::Garbage => "its VM answered what is no answer".to_owned(),
        };
        complain(&format!("{run_id}: {what} (`leash kill {run_id} --force` ends the VM)"));
    }
}

fn table(runs: &[Asked], paint: Paint, width: Option<usize>) -> String {
    use Align::{Left, Right};
    let columns = [
        ("WHAT", Left),
        ("RUN", Left),
        ("WORKER", Right),
        ("PID", Right),
        ("NAME", Left),
        ("GROUP", Left),
        ("HOW", Left),
    ];
    let rows: Vec<_> = runs
        .iter()
        .flat_map(|run| run.workers.iter().map(move |worker| (run, worker)))
        .map(|(run, worker)| {
            [
                what(worker.result),
                run.run_id.clone().into(),
                worker.worker.to_string().into(),
                or_dash(worker.os_pid).into(),
                harmless(&worker.label).into(),
                or_dash(worker.group.as_deref().map(harmless)).into(),
                how(worker).into(),
            ]
        })
        .collect();
    let gone = runs.iter().flat_map(|run| &run.workers).filter(|worker| worker.is_gone()).count();
    let mut text = lines(columns, &rows, paint, width);
    let left = rows.len() - gone;
    let left = if left > 0 { format!("; {left} left") } else { String::new() };
    text.push(format!("ended {}{left}", count(gone, "worker", "workers")));
    text.iter().map(|line| format!("{line}\n")).collect()
}

fn what(result: Option<Outcome>) -> Cell {
    let (text, colour) = match result {
        Some(Outcome::Ended) => ("ended", Colour::Green),
        Some(Outcome::Gone) => ("gone", Colour::Green),
        Some(Outcome::Survived) => ("SURVIVED", Colour::Red),
        Some(Outcome::Ending) => ("ENDING", Colour::Red),
        None => ("-", Colour::Plain),
    };
    Cell { text: text.to_owned(), colour }
}

fn how(worker: &Worker) -> String {
    let how = worker.how.as_deref().map(harmless).unwrap_or_default();
    let survivors: Vec<_> = worker
        .survivors
        .iter()
        .map(|one| format!("{} ({})", one.pid, harmless(&one.why)))
        .collect();
    if survivors.is_empty() {
        how
    } else {
        format!("{how} {}", survivors.join(", ")).trim_start().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Line {
        text.split('|').map(str::to_owned).collect()
    }

    fn run_id(text: &str) -> RunId {
        RunId::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn an_answer_is_taken_whole_or_not_at_all() {
        let found = Worker::parse(&fields("worker|3|worker|4711|MyApp.W|:pool")).unwrap();
        assert_eq!((found.worker, found.os_pid, found.result), (3, Some(4711), None));
        let left =
            Worker::parse(&fields("worker|3|port||sh||survived||12:eperm,13:uninterruptible"))
                .unwrap();
        assert_eq!((left.os_pid, left.group.as_deref(), left.survivors.len()), (None, None, 2));
        assert_eq!(how(&left), "12 (eperm), 13 (uninterruptible)");
        for bad in [
            "",
            "x",
            "worker",
            "worker|0x|w|1|l|g",
            "worker|1|w|x|l|g",
            "worker|1|w|1|l|g|slept",
            "worker|1|w|1|l|g|gone||7",
        ] {
            assert_eq!(Worker::parse(&fields(bad)), None, "{bad}");
        }
        let answers = vec![
            (run_id("s59m65f"), Ok(vec![fields("worker|1|worker|9|a|"), fields("dance")])),
            (run_id("s59m65g"), Err(Silence::NoAnswer)),
        ];
        let (asked, mute) = sort(answers).unwrap();
        assert!(asked.is_empty());
        assert_eq!(
            mute.iter().map(|run| run.why).collect::<Vec<_>>(),
            [Silence::Garbage, Silence::NoAnswer]
        );
        let failure =
            sort(vec![(run_id("s59m65f"), Ok(vec![fields("error|no\u{1b}")]))]).unwrap_err();
        assert_eq!(failure.message, "s59m65f: no\u{fffd}");
    }

    #[test]
    fn the_runs_that_have_it_decide_whether_anything_is_stopped() {
        let args = |more: &[&str]| {
            use clap::Parser as _;
            let line = ["leash", "stop", "pool"].iter().chain(more);
            match crate::args::Cli::try_parse_from(line).unwrap().command {
                crate::args::Command::Stop(args) => args,
                other => panic!("{other:?}"),
            }
        };
        let has = |id: &str| Asked { run_id: id.into(), workers: Vec::new() };
        let mute = || Mute { run_id: "zzzzzzz".into(), why: Silence::NoAnswer };
        assert_eq!(refusal(&args(&[]), &[has("s59m65f")], &[]), None);
        let several = refusal(&args(&[]), &[has("s59m65f"), has("s59m65g")], &[]).unwrap();
        assert!(several.contains("s59m65f, s59m65g"), "{several}");
        assert_eq!(refusal(&args(&["--all-runs"]), &[has("s59m65f"), has("s59m65g")], &[]), None);
        assert!(refusal(&args(&[]), &[has("s59m65f")], &[mute()]).is_some());
        assert_eq!(refusal(&args(&["--run", "s59m65f"]), &[has("s59m65f")], &[mute()]), None);
        assert!(refusal(&args(&["--all-runs"]), &[], &[mute()]).is_some());
    }

    #[test]
    fn what_a_vm_says_cannot_control_the_terminal() {
        let worker =
            Worker::parse(&fields("worker|3|worker|4711|a\u{1b}[2Jb|\u{1b}|ended|st\u{1b}|"))
                .unwrap();
        let shown = table(
            &[Asked { run_id: "s59m65f".into(), workers: vec![worker] }],
            Paint(false),
            None,
        );
        assert!(!shown.contains('\u{1b}'), "{shown:?}");
        assert!(shown.ends_with("\nended 1 worker\n"));
    }
}
