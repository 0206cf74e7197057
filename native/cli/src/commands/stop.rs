//! `leash stop`: asks the VM that has a worker or a group to end it.
//!
//! | living runs with the name | VMs that did not answer | what happens |
//! |---|---|---|
//! | none | none | dead runs are swept, unless `--run` names one run |
//! | none | some | nothing |
//! | one | none | the VM ends it |
//! | one | some | refused, unless `--run` or `--all-runs` |
//! | several | any number | refused, unless `--all-runs` |

use crate::args::StopArgs;
use crate::cleanup;
use crate::control::answer::{Answers, Mute};
use crate::control::client::{Silence, ask_all};
use crate::exit::{Exit, Failure};
use crate::render::output::{complain, print_json, print_lines};
use crate::render::style::Style;
use crate::render::text::{count, harmless};
use crate::render::{report, workers};
use crate::run_dir_location::RunDirLocation;
use crate::run_view::Status;
use crate::snapshot::Snapshot;
use leash_core::report::Action;
use leash_core::{Ladder, Lock, Mode, Report, RunDir};
use leash_tag::RunId;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// The time for a question that a VM answers from a table. It is also added to the deadline,
/// because the proof of the last SIGKILLs takes a moment.
const ANSWER: Duration = Duration::from_secs(2);

/// The document of `--json`.
#[derive(Serialize)]
struct Document<'a> {
    name: &'a str,
    /// True if a VM was told to end anything.
    stopped: bool,
    #[serde(flatten)]
    answers: &'a Answers,
    /// The report of the sweep, if no run was alive or none had the name.
    report: Option<&'a Report>,
}

/// Finds the runs that have the name, and has their VMs end it.
pub(crate) fn run(location: &RunDirLocation, args: &StopArgs) -> Result<Exit, Failure> {
    let dir = location.open()?;
    let living = living(&dir, args.run_id)?;
    let found = ask_all(&dir, &living, &format!("find {}", args.name), ANSWER);
    let mut found = Answers::sort(found)?;
    drop_dead(location, &mut found.mute)?;
    let asked = found.runs.len();
    found.runs.retain(|run| !run.workers.is_empty());
    let print_json = |stopped, answers: &Answers, report: Option<&Report>| {
        let document = Document { name: &args.name, stopped, answers, report };
        if args.json { print_json(&location.path, document) } else { Ok(()) }
    };
    if found.runs.is_empty() && found.mute.is_empty() {
        // If an operator names one run, then no other run is swept.
        let report = if args.run_id.is_none() { Some(sweep_dead(&dir)?) } else { None };
        print_json(false, &found, report.as_ref())?;
        if let Some(report) = report.as_ref().filter(|_| !args.json) {
            print_lines(&swept(report.clone()))?;
        }
        let exit = report.as_ref().map_or(Exit::Left, cleanup::exit);
        if asked == 0 {
            return Ok(exit);
        }
        complain(&unknown(&dir, &living, asked, &args.name));
        return Ok(Exit::Left);
    }
    let refusal = refusal(args, &found);
    if found.runs.is_empty() || refusal.is_some() {
        print_json(false, &found, None)?;
        complain_of(&found.mute, ANSWER);
        return refusal.map_or(Ok(Exit::Left), |why| Err(Failure::new(Exit::Refused, why)));
    }
    let has_it = |run: &RunId| found.runs.iter().any(|found| found.run_id == run.to_string());
    let chosen: Vec<_> = living.into_iter().filter(has_it).collect();
    let patience = args.deadline + ANSWER;
    let request = format!("stop {} {}", args.deadline.as_millis(), args.name);
    let mut ended = Answers::sort(ask_all(&dir, &chosen, &request, patience))?;
    ended.mute.splice(0..0, found.mute);
    print_json(true, &ended, None)?;
    if !args.json {
        print_lines(&workers::table(&ended, Style::of_stdout()))?;
    }
    complain_of(&ended.mute, patience);
    let is_all_gone = ended.mute.is_empty() && ended.workers().all(|(_, one)| one.is_gone());
    Ok(if is_all_gone { Exit::Done } else { Exit::Left })
}

/// Returns the runs whose VM may be alive: the lock on the record is held, or could not be
/// tested.
fn living(dir: &RunDir, only: Option<RunId>) -> Result<Vec<RunId>, Failure> {
    if let Some(run) = only {
        let left = |why: &str| Failure::new(Exit::Left, format!("{run}: {why}"));
        let file = dir.record(run)?.ok_or_else(|| left("no such run"))?;
        if file.lock == Lock::Free {
            return Err(left(&format!("its VM is gone; `leash kill {run}` ends what it left")));
        }
        return Ok(vec![run]);
    }
    let records = dir.records();
    if !records.complete {
        complain("not every record could be read: a run may have been missed");
    }
    let may_live = records.files.iter().filter(|file| file.lock != Lock::Free);
    let mut runs: Vec<_> = may_live.map(|file| file.run).collect();
    runs.sort_unstable_by_key(RunId::to_string);
    Ok(runs)
}

/// Drops dead runs from `mute`. A lock can outlive its VM, in a child that a NIF forked: no VM of
/// such a run can be asked.
fn drop_dead(location: &RunDirLocation, mute: &mut Vec<Mute>) -> Result<(), Failure> {
    if mute.iter().any(|run| run.why == Silence::NoSocket) {
        let snapshot = Snapshot::take(location, false)?;
        mute.retain(|run| {
            let known = snapshot.runs.iter().find(|other| other.run_id == run.run_id);
            // A run that has ended since then is not in the list any more.
            run.why != Silence::NoSocket || known.is_some_and(|run| run.status != Status::Dead)
        });
    }
    Ok(())
}

/// Ends what dead runs left, as `leash sweep` does.
fn sweep_dead(dir: &Arc<RunDir>) -> Result<Report, Failure> {
    let (kind, deadline) = (cleanup::sweep(None, Mode::End), Duration::from_secs(10));
    cleanup::run(kind, Ladder::default(), deadline, Some(Arc::clone(dir)))
}

/// Returns what the sweep ended. Matches that it kept are not part of the question.
fn swept(mut report: Report) -> Vec<String> {
    report.matches.retain(|found| found.action != Action::Kept);
    let mut lines = report::table(&report, false, Style::of_stdout());
    let summary = report::summary(&report, false);
    lines.push(format!("no living run has it; of dead ones: {summary}"));
    lines
}

/// Returns the complaint about a name that is misspelt or has ended already: VMs are alive, and
/// none has it.
fn unknown(dir: &RunDir, living: &[RunId], asked: usize, name: &str) -> String {
    let runs = count(asked, "living run has", "living runs have");
    let answers = ask_all(dir, living, "names", ANSWER).into_iter();
    let lines = answers.flat_map(|(_, answer)| answer.unwrap_or_default());
    let mut names: Vec<_> =
        lines.filter_map(|line| line.get(1).map(|name| harmless(name))).collect();
    names.sort_unstable();
    names.dedup();
    let more = if names.len() > 10 { ", …" } else { "" };
    names.truncate(10);
    let hint = match names.join(", ") {
        none if none.is_empty() => none,
        names => format!("; there are {names}{more}"),
    };
    format!("{runs} no worker or group {name}{hint}")
}

/// Returns why nothing is stopped, although a run has the name.
fn refusal(args: &StopArgs, found: &Answers) -> Option<String> {
    if args.run_id.is_some() || args.all_runs || found.runs.is_empty() {
        return None;
    }
    let (name, runs) = (&args.name, found.runs.iter().map(|run| run.run_id.as_str()));
    let listed = runs.collect::<Vec<_>>().join(", ");
    if found.runs.len() > 1 {
        let choose = "nothing was stopped (choose with --run, or --all-runs)";
        return Some(format!("several runs have {name}: {listed}; {choose}"));
    }
    let choose = "nothing was stopped (choose with --run)";
    let also = "and a VM that did not answer may have it too";
    (!found.mute.is_empty()).then(|| format!("{listed} has {name}, {also}; {choose}"))
}

/// Prints on stderr why a VM gave no answer.
fn complain_of(mute: &[Mute], patience: Duration) {
    for Mute { run_id, why } in mute {
        let what = match why {
            Silence::NoSocket => "its VM lives and has no socket to be asked on",
            Silence::NoAnswer => {
                &format!("its VM has not answered within {} ms", patience.as_millis())
            }
            Silence::ForeignPeer => "another user listens on its socket",
            Silence::Garbage => "its VM answered what is no answer",
        };
        complain(&format!("{run_id}: {what} (`leash kill {run_id} --force` ends the VM)"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use crate::control::answer::RunWorkers;
    use clap::Parser as _;

    #[test]
    fn the_runs_that_have_it_decide_whether_anything_is_stopped() {
        let refused = |more: &[&str], ids: &[&str], mute: bool| {
            let line = ["leash", "stop", "pool"].iter().chain(more);
            let Command::Stop(args) = Cli::try_parse_from(line).unwrap().command else {
                panic!()
            };
            let has = |id: &&str| RunWorkers { run_id: (*id).into(), workers: Vec::new() };
            let mute = mute.then(|| Mute { run_id: "zzzzzzz".into(), why: Silence::NoAnswer });
            let runs = ids.iter().map(has).collect();
            refusal(&args, &Answers { runs, mute: mute.into_iter().collect() })
        };
        assert_eq!(refused(&[], &["s59m65f"], false), None);
        let several = refused(&[], &["s59m65f", "s59m65g"], false).unwrap();
        assert!(several.contains("s59m65f, s59m65g"), "{several}");
        assert_eq!(refused(&["--all-runs"], &["s59m65f", "s59m65g"], false), None);
        assert!(refused(&[], &["s59m65f"], true).is_some());
        assert_eq!(refused(&["--run", "s59m65f"], &["s59m65f"], true), None);
        assert_eq!(refused(&["--all-runs"], &[], true), None, "nothing to refuse");
    }
}
