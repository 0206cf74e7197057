//! The findings about runs and processes.

use crate::runs::owner::{OwnerRef, OwnerState, Source};
use leash_tag::RunId;
use serde::Serialize;

/// The finding about a run or a process of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Verdict {
    /// Run: the asking VM's own.
    Own,
    /// Run: a witness of its owner lives.
    Live,
    /// Run: provably over. Process: to be ended.
    Dead,
    /// Run: its witnesses disagree.
    Disputed,
    /// Run: no witness names its owner, or nothing tells whether the owner lives.
    UnknownOwner,
    /// Run: the asking VM or an ancestor of it belongs to it.
    OwnOuterRun,
    /// Run: its owner's pid namespace is not ours.
    ForeignNamespace,
    /// Run: its record is of another boot and nothing else speaks of it.
    Stale,
    /// Run: not one of the application that is asked for.
    OutOfScope,
    /// Process: it outlives its VM on purpose.
    Outlives,
    /// Process: the owner of a live run, or a descendant of one.
    LiveRunOwner,
    /// Process: older than its run's owner.
    PredatesOwner,
    /// Process: another user's, and a condition for ending such a process is missing.
    ForeignUser,
    /// Process: only its command line speaks for the run.
    ArgvOnly,
    /// Process: only its environment speaks for the run, and it may be a copy.
    EnvOnly,
    /// Process: no carrier that can be read names a run, and it may descend from a dead one all
    /// the same.
    Unproven,
    /// Process: of the own run, but no carrier names its worker.
    UnknownWorker,
    /// Process: named by its identity, not by a tag.
    Asked,
    /// Process: pid 1, this process, an ancestor or a kernel thread.
    Refused,
}

/// A run's verdict and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunJudgement {
    /// The run.
    pub run: RunId,
    /// The verdict.
    pub verdict: Verdict,
    /// The reason, in words.
    pub why: String,
    /// Every owner that is named, the source that names it, and its state.
    pub owners: Vec<(Source, OwnerRef, OwnerState)>,
}

/// A process's verdict, the run that decided, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The verdict. Only [`Verdict::Dead`] ends the process.
    pub verdict: Verdict,
    /// The run that decided.
    pub run: Option<RunId>,
    /// The reason, in words.
    pub why: String,
}
