//! Ends what the user of `leash top` chose: a worker of a living run, or what a dead run left.
//!
//! A living run's VM ends the worker, with the worker's own ladder. What a dead run left is ended
//! as `leash kill` does. Nothing else is ended here.

use super::rows::Key;
use crate::cleanup;
use crate::control::answer::{Answers, Outcome, Worker};
use crate::control::client::ask_all;
use crate::process_view::ProcessView;
use crate::render::report::summary;
use crate::render::text::{count, harmless, verdict};
use crate::run_dir_location::RunDirLocation;
use crate::run_view::Status;
use crate::snapshot::Snapshot;
use leash_core::{CleanupKind, Ladder, Verdict};
use leash_tag::RunId;
use std::sync::Arc;
use std::time::Duration;

/// The time until what is left of a worker gets SIGKILL. The VM answers 1.5 s later at most.
const DEADLINE: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(7);

/// What would be ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A worker of a living run. The shim tells whether the number was given again meanwhile.
    Worker { run: RunId, number: u16, shim: u32, what: String },
    /// What a dead run left.
    Run { run: RunId, what: String },
}

impl Target {
    /// Returns what the row belongs to, or why it cannot be ended from here.
    pub(crate) fn of(key: &Key, snapshot: &Snapshot) -> Result<Self, String> {
        let of_run = |other: &Option<String>| *other == key.run_id;
        let is_meant = |one: &&ProcessView| {
            let is_pid = key.pid.is_none_or(|pid| one.pid == pid);
            let is_shown = key.pid.is_some() || !one.shim;
            of_run(&one.run_id) && one.worker == key.worker && is_pid && is_shown
        };
        let process = snapshot.processes.iter().find(is_meant).ok_or("it has ended")?;
        let run = process.run_id.as_deref().and_then(|run| RunId::parse(run.as_bytes()));
        let run = run.ok_or("it names no run")?;
        let tree = |is_shim| {
            let own = snapshot.processes.iter().filter(move |one| of_run(&one.run_id));
            own.filter(move |one| one.shim == is_shim && !one.warden)
        };
        match (process.verdict, Status::of(process.verdict)) {
            (Verdict::Dead, _) => {
                let left = count(tree(false).count(), "process", "processes");
                Ok(Self::Run { run, what: format!("what the dead run {run} left ({left})") })
            }
            (_, Status::Alive) => {
                let number = process.worker.ok_or("it has no worker's number")?;
                let shim = tree(true).find(|shim| shim.worker == Some(number));
                let shim = shim.ok_or("its shim is gone: its VM or warden ends it")?.pid;
                let own = tree(false).filter(|one| one.worker == Some(number)).count();
                let title = process.title().map(|title| format!(" ({title})"));
                let what = format!(
                    "worker {number}{} of {run} with its {}",
                    title.unwrap_or_default(),
                    count(own, "process", "processes")
                );
                Ok(Self::Worker { run, number, shim, what })
            }
            (unsure, _) => Err(format!("{}: {}", verdict(unsure), process.why)),
        }
    }

    /// Returns the question before it is ended.
    pub(crate) fn question(&self) -> String {
        let (Self::Worker { what, .. } | Self::Run { what, .. }) = self;
        format!("end {what}? y/n")
    }

    /// Ends it, and returns what came of it in a sentence. Blocks for seconds.
    pub(crate) fn end(&self, location: &RunDirLocation) -> String {
        let dir = match location.open() {
            Ok(dir) => dir,
            Err(failure) => return failure.message,
        };
        match self {
            Self::Run { run, .. } => {
                let kind = CleanupKind::Run { run: *run, own_run: None, outliving: false };
                let deadline = Duration::from_secs(10);
                match cleanup::run(kind, Ladder::default(), deadline, Some(Arc::clone(&dir))) {
                    Ok(report) if report.refused.is_some() => {
                        format!("{run} is not provably dead any more; nothing was sent")
                    }
                    Ok(report) => format!("{run}: {}", summary(&report, false)),
                    Err(failure) => failure.message,
                }
            }
            Self::Worker { run, number, shim, .. } => {
                let request = format!("end {} {number} {shim}", DEADLINE.as_millis());
                let answers = Answers::sort(ask_all(&dir, &[*run], &request, ANSWER));
                answers.map_or_else(|failure| failure.message, |found| result(&found, *number))
            }
        }
    }
}

/// Returns what a VM said about the end of a worker.
fn result(answers: &Answers, number: u16) -> String {
    if !answers.mute.is_empty() {
        return format!("worker {number}: its VM did not answer");
    }
    let Some((_, worker)) = answers.workers().next() else {
        return format!("worker {number} had ended before");
    };
    let how = worker.how.as_deref().map(harmless).unwrap_or_default();
    match worker.result {
        Some(Outcome::Ended) => format!("worker {number} ended: {how}"),
        Some(Outcome::Gone) => format!("worker {number} is gone"),
        Some(Outcome::Survived) => format!("worker {number}: {} left", left(worker)),
        Some(Outcome::Ending) | None => format!("worker {number} is still ending"),
    }
}

fn left(worker: &Worker) -> String {
    count(worker.survivors.len(), "process is", "processes are")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::answer::tests::fields;
    use crate::control::answer::{Mute, RunWorkers};
    use crate::control::client::Silence;

    fn snapshot(processes: Vec<ProcessView>) -> Snapshot {
        Snapshot {
            runs: Vec::new(),
            processes,
            complete: true,
            incomplete_because: Vec::new(),
            notes: Vec::new(),
        }
    }

    fn target(pid: u32, processes: &[ProcessView]) -> Result<Target, String> {
        let worker =
            processes.iter().find(|one| one.pid == pid).map_or(Some(3), |one| one.worker);
        let key = Key { run_id: Some("s59m65f".into()), worker, pid: Some(pid) };
        Target::of(&key, &snapshot(processes.to_vec()))
    }

    #[test]
    fn a_process_of_a_living_run_means_its_worker_and_one_of_a_dead_run_all_that_is_left() {
        let name = Some("App.W".to_owned());
        let process = ProcessView { name, ..ProcessView::example(11, 10, "x") };
        let shim = ProcessView { shim: true, ..ProcessView::example(10, 1, "leash-shim") };
        let other = ProcessView { worker: Some(4), ..ProcessView::example(12, 1, "y") };
        let all = [process.clone(), shim, other.clone()];
        let found = target(11, &all).unwrap();
        assert_eq!(found.question(), "end worker 3 (App.W) of s59m65f with its 1 process? y/n");
        assert!(matches!(found, Target::Worker { number: 3, shim: 10, .. }));
        let dead = |one: &ProcessView| ProcessView { verdict: Verdict::Dead, ..one.clone() };
        let all = [dead(&process), dead(&other)];
        let question = target(11, &all).unwrap().question();
        assert_eq!(question, "end what the dead run s59m65f left (2 processes)? y/n");
    }

    #[test]
    fn a_process_without_proof_is_not_ended() {
        let shim = ProcessView { shim: true, ..ProcessView::example(10, 1, "leash-shim") };
        for verdict in [Verdict::Disputed, Verdict::UnknownOwner, Verdict::Stale] {
            let all =
                [ProcessView { verdict, ..ProcessView::example(11, 10, "x") }, shim.clone()];
            assert!(target(11, &all).is_err(), "{verdict:?}");
        }
        let bare = [ProcessView::example(11, 1, "x")];
        assert!(target(11, &bare).unwrap_err().contains("its shim is gone"));
        assert_eq!(target(12, &bare).unwrap_err(), "it has ended");
        let nameless = [ProcessView { worker: None, ..ProcessView::example(11, 1, "x") }, shim];
        assert!(target(11, &nameless).is_err());
    }

    #[test]
    fn the_sentence_says_what_the_vm_said() {
        let said = |line: &str| {
            let workers = vec![Worker::parse(&fields(line)).unwrap()];
            let runs = vec![RunWorkers { run_id: "s59m65f".into(), workers }];
            result(&Answers { runs, mute: Vec::new() }, 3)
        };
        assert_eq!(
            said("worker|3|worker|1|a||ended|SIGTERM, 3 ms|"),
            "worker 3 ended: SIGTERM, 3 ms"
        );
        assert_eq!(said("worker|3|worker|1|a||survived||7:eperm"), "worker 3: 1 process is left");
        assert_eq!(result(&Answers::default(), 3), "worker 3 had ended before");
        let mute = vec![Mute { run_id: "s59m65f".into(), why: Silence::NoAnswer }];
        let mute = Answers { runs: Vec::new(), mute };
        assert_eq!(result(&mute, 3), "worker 3: its VM did not answer");
    }
}
