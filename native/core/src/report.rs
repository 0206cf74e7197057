//! What was found and done, as data.

use crate::record_file::{Lock, RecordFile};
use crate::scan::Incomplete;
use crate::verdict::{RunJudgement, Verdict};
use crate::witness::{OwnerState, Source};
use crate::{Refusal, Seen};
use leash_tag::RunId;
use serde::Serialize;

/// The result of a hunt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Every tagged process that was seen, once.
    pub matches: Vec<Match>,
    /// Every run that was heard of.
    pub runs: Vec<RunReport>,
    /// What was to be ended and may still live.
    pub survivors: Vec<Survivor>,
    /// Whether the last pass can have missed nothing.
    pub complete: bool,
    /// Why it can.
    pub incomplete_because: Vec<Incomplete>,
    /// Tagged processes of this user whose environment could not be read.
    pub unreadable: usize,
    /// How many passes over the process table there were.
    pub passes: u32,
    /// How long it took.
    pub elapsed_ms: u64,
    /// Runs whose record was removed.
    pub records_dropped: Vec<String>,
    /// Why nothing was tried at all.
    pub refused: Option<Refused>,
}

/// Why a hunt did not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Refused {
    /// The run is not dead.
    Run(Verdict),
    /// That process is never signalled.
    Process(Refusal),
    /// That process was gone before.
    Gone,
    /// Its number is another's now.
    Reused,
    /// Who has the number cannot be told.
    Unknown,
    /// The kernel does not permit it.
    NotPermitted,
}

/// A tagged process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Match {
    /// Its number.
    pub pid: u32,
    /// Its start, in the machine's clock ticks; `None` where `/proc` hides it.
    pub start_ticks: Option<u64>,
    /// Its command, at most 200 characters.
    pub command: String,
    /// Its state letter when last seen.
    pub state: char,
    /// Its real user id.
    pub uid: Option<u32>,
    /// The run that decided.
    pub run_id: Option<String>,
    /// The worker.
    pub worker: Option<u16>,
    /// What names the run: `mark`, `env`, `argv`; `_unreadable` where it could not be looked at.
    pub carriers: Vec<&'static str>,
    /// Whether it is a shim.
    pub shim: bool,
    /// Whether that shim is the run's warden.
    pub warden: bool,
    /// What was decided.
    pub verdict: Verdict,
    /// Why.
    pub why: String,
    /// What came of it.
    pub action: Action,
    /// The last signal before it ended, or `shim`.
    pub ended_by: Option<&'static str>,
}

/// What came of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Seen gone by the kernel, after a signal or by its shim.
    Ended,
    /// Left alone.
    Kept,
    /// It was to be ended and may still live.
    Survived,
    /// It ended by itself.
    Gone,
}

/// A process that was to be ended and may still live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Survivor {
    /// Its number.
    pub pid: u32,
    /// Its start, in the machine's clock ticks; `None` where `/proc` hides it.
    pub start_ticks: Option<u64>,
    /// Its command.
    pub command: String,
    /// Its state letter.
    pub state: char,
    /// The run.
    pub run_id: Option<String>,
    /// Why it lives.
    pub reason: Reason,
}

/// Why a process survived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// The kernel forbids the signal.
    Eperm,
    /// In state D: SIGKILL is pending until a device or file system answers.
    Uninterruptible,
    /// Frozen by a cgroup, stopped by a tracer, or just slow: SIGKILL was sent.
    KillPending,
    /// The deadline came before SIGKILL was due.
    Deadline,
    /// No descriptor was left to hold it by.
    DescriptorsExhausted,
    /// Pidfds are refused on this machine, and nothing is signalled by its number.
    NoPidfd,
    /// It could not be looked at again.
    Unreadable,
    /// It no longer carries the tag by which it was found.
    TagLost,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunReport {
    /// The run.
    pub run_id: String,
    /// What was decided.
    pub verdict: Verdict,
    /// Why.
    pub why: String,
    /// Whether it has a record here.
    pub record: RecordPresence,
    /// Why the record is not believed.
    pub corrupt: Option<crate::record::Corrupt>,
    /// The state of the record's lock.
    pub lock: Option<Lock>,
    /// The application that the record names.
    pub app: Option<String>,
    /// The node that the record names.
    pub node: Option<String>,
    /// Who is said to own it.
    pub owners: Vec<OwnerReport>,
}

/// Whether a run has a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordPresence {
    /// Yes.
    Present,
    /// No.
    Absent,
    /// A file that is not believed.
    Corrupt,
}

/// A witness about a run's owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OwnerReport {
    /// Who says so.
    pub source: Source,
    /// The owner's number.
    pub pid: u32,
    /// The owner's start.
    pub start_ticks: u64,
    /// The inode of the owner's pid namespace.
    pub pid_ns: u64,
    /// What is known of it.
    pub state: OwnerState,
}

impl RunReport {
    pub(crate) fn new(judgement: &RunJudgement, file: Option<&RecordFile>) -> Self {
        let record = file.and_then(|file| file.record.as_ref().ok());
        Self {
            run_id: judgement.run.to_string(),
            verdict: judgement.verdict,
            why: judgement.why.clone(),
            record: match file.map(|file| file.record.is_ok()) {
                None => RecordPresence::Absent,
                Some(true) => RecordPresence::Present,
                Some(false) => RecordPresence::Corrupt,
            },
            corrupt: file.and_then(|file| file.record.as_ref().err().copied()),
            lock: file.map(|file| file.lock),
            app: record.map(|record| record.about.app.clone()),
            node: record.map(|record| record.about.node.clone()),
            owners: judgement
                .owners
                .iter()
                .map(|&(source, claim, state)| OwnerReport {
                    source,
                    pid: claim.pid.as_u32(),
                    start_ticks: claim.start_ticks,
                    pid_ns: claim.pid_ns,
                    state,
                })
                .collect(),
        }
    }
}

impl Match {
    pub(crate) fn new(seen: &Seen, run: Option<RunId>, verdict: Verdict, why: String) -> Self {
        Self {
            pid: seen.identity.pid.as_u32(),
            start_ticks: seen.identity.known_start(),
            command: seen.command.clone(),
            state: seen.state,
            uid: seen.uids.map(|uids| uids.real),
            run_id: run.map(|run| run.to_string()),
            worker: run.and_then(|run| seen.worker_in(run)),
            carriers: seen.carrier_names(),
            shim: seen.shim.is_some(),
            warden: seen.shim.as_ref().is_some_and(|shim| shim.args.warden),
            verdict,
            why,
            action: Action::Kept,
            ended_by: None,
        }
    }

    pub(crate) fn survivor(&self, reason: Reason) -> Survivor {
        Survivor {
            pid: self.pid,
            start_ticks: self.start_ticks,
            command: self.command.clone(),
            state: self.state,
            run_id: self.run_id.clone(),
            reason,
        }
    }
}
