//! The result of a cleanup, as data.

use crate::policy::refusal::Refusal;
use crate::policy::verdict::{RunJudgement, Verdict};
use crate::runs::owner::{OwnerState, Source};
use crate::runs::record_file::{Lock, RecordFile};
use crate::tags::scan::Incomplete;
use crate::tags::tagged_process::TaggedProcess;
use leash_tag::RunId;
use serde::Serialize;

/// The result of a cleanup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Every tagged process that was seen, each once.
    pub matches: Vec<Match>,
    /// Every run that a carrier or a record named.
    pub runs: Vec<RunReport>,
    /// The processes that were to be ended and may still live.
    pub survivors: Vec<Survivor>,
    /// Whether the last pass cannot have missed a process.
    pub complete: bool,
    /// The reasons why it can.
    pub incomplete_because: Vec<Incomplete>,
    /// The number of tagged processes of this user whose environment could not be read.
    pub unreadable: usize,
    /// The number of passes over the process table.
    pub passes: u32,
    /// The duration of the cleanup.
    pub elapsed_ms: u64,
    /// The runs whose record was removed.
    pub records_dropped: Vec<String>,
    /// The reason why the cleanup tried nothing at all.
    pub refused: Option<Refused>,
}

/// The reason why a cleanup did not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Refused {
    /// The run is not dead.
    Run(Verdict),
    /// That process is never signalled.
    Process(Refusal),
    /// That process had ended before.
    Gone,
    /// Another process has its number now.
    Reused,
    /// The process that has the number cannot be identified.
    Unknown,
    /// The kernel does not permit it.
    NotPermitted,
}

/// A tagged process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Match {
    /// The number.
    pub pid: u32,
    /// The start, in the machine's clock ticks; `None` if `/proc` hides it.
    pub start_ticks: Option<u64>,
    /// The command, at most 200 characters.
    pub command: String,
    /// The state letter at the last look.
    pub state: char,
    /// The real user id.
    pub uid: Option<u32>,
    /// The run that decided the verdict.
    pub run_id: Option<String>,
    /// The worker.
    pub worker: Option<u16>,
    /// The carriers that name the run: `mark`, `env`, `argv`. An `_unreadable` suffix says that
    /// the carrier could not be read.
    pub carriers: Vec<&'static str>,
    /// Whether it is a shim.
    pub shim: bool,
    /// Whether that shim is the run's warden.
    pub warden: bool,
    /// The verdict.
    pub verdict: Verdict,
    /// The reason for the verdict.
    pub why: String,
    /// The outcome.
    pub action: Action,
    /// The last signal before the process ended, or `shim`.
    pub ended_by: Option<&'static str>,
}

/// The outcome for a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The process has ended, by the kernel's word, after a signal or by its shim.
    Ended,
    /// The process was left alone.
    Kept,
    /// The process was to be ended and may still live.
    Survived,
    /// The process ended by itself.
    Gone,
}

/// A process that was to be ended and may still live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Survivor {
    /// The number.
    pub pid: u32,
    /// The start, in the machine's clock ticks; `None` if `/proc` hides it.
    pub start_ticks: Option<u64>,
    /// The command.
    pub command: String,
    /// The state letter.
    pub state: char,
    /// The run.
    pub run_id: Option<String>,
    /// The reason why it lives.
    pub reason: Reason,
}

/// The reason why a process survived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// The kernel forbids the signal.
    Eperm,
    /// The process is in state D. SIGKILL is pending until a device or file system answers.
    Uninterruptible,
    /// SIGKILL was sent. The process is frozen by a cgroup, stopped by a tracer, or just slow.
    KillPending,
    /// The deadline came before SIGKILL was due.
    Deadline,
    /// No descriptor was left to hold the process by.
    DescriptorsExhausted,
    /// This machine refuses pidfds, and Leash signals nothing by its number.
    NoPidfd,
    /// The process could not be read again.
    Unreadable,
    /// The process no longer carries the tag by which it was found.
    TagLost,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunReport {
    /// The run.
    pub run_id: String,
    /// The verdict.
    pub verdict: Verdict,
    /// The reason for the verdict.
    pub why: String,
    /// Whether the run has a record here.
    pub record: RecordPresence,
    /// The reason why the record is not believed.
    pub corrupt: Option<crate::runs::record::Corrupt>,
    /// The state of the record's lock.
    pub lock: Option<Lock>,
    /// The application that the record names.
    pub app: Option<String>,
    /// The node that the record names.
    pub node: Option<String>,
    /// The owners that witnesses name.
    pub owners: Vec<OwnerReport>,
}

/// Whether a run has a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordPresence {
    /// The run has a record.
    Present,
    /// The run has no record.
    Absent,
    /// The run has a file that is not believed.
    Corrupt,
}

/// A witness's word about a run's owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OwnerReport {
    /// The witness.
    pub source: Source,
    /// The owner's number.
    pub pid: u32,
    /// The owner's start.
    pub start_ticks: u64,
    /// The inode of the owner's pid namespace.
    pub pid_ns: u64,
    /// The state of the owner.
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
                .map(|&(source, owner, state)| OwnerReport {
                    source,
                    pid: owner.pid.as_u32(),
                    start_ticks: owner.start_ticks,
                    pid_ns: owner.pid_ns,
                    state,
                })
                .collect(),
        }
    }
}

impl Match {
    pub(crate) fn new(
        process: &TaggedProcess,
        run: Option<RunId>,
        verdict: Verdict,
        why: String,
    ) -> Self {
        Self {
            pid: process.identity.pid.as_u32(),
            start_ticks: process.identity.known_start(),
            command: process.command.clone(),
            state: process.state,
            uid: process.uids.map(|uids| uids.real),
            run_id: run.map(|run| run.to_string()),
            worker: run.and_then(|run| process.worker_in(run)),
            carriers: process.carrier_names(),
            shim: process.shim.is_some(),
            warden: process.shim.as_ref().is_some_and(|shim| shim.args.warden),
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

/// Whole milliseconds.
pub(crate) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
