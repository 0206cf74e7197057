//! The task of a cleanup: which processes to end, how, and how long.

use crate::policy::verdict::{RunJudgement, Verdict};
use crate::policy::workers::Workers;
use crate::procfs::identity::Identity;
use crate::runs::run_dir::RunDir;
use crate::tags::ladder::Ladder;
use crate::tags::scan::SkipMark;
use leash_tag::{Mark, RunId};
use std::sync::Arc;
use std::time::{Duration, Instant};

// The longest time that is kept for SIGKILL and its effect.
const KILL_RESERVE: Duration = Duration::from_secs(1);

/// The processes to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CleanupKind {
    /// Workers of the asking VM's own run, by SIGKILL passes.
    Worker(Workers),
    /// One dead run; a run that is not dead is refused.
    Run {
        /// The run.
        run: RunId,
        /// The asking VM's own run.
        own_run: Option<RunId>,
        /// Whether to end what outlives its VM on purpose, too: detached trees, and what was
        /// kept.
        outliving: bool,
    },
    /// Every dead run.
    Sweep {
        /// The asking VM's own run.
        own_run: Option<RunId>,
        /// Only runs whose record names this application.
        app: Option<String>,
        /// End them, or report only.
        mode: Mode,
    },
    /// One process, whatever its tags.
    Process(Identity),
}

/// Whether a sweep ends anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// End what is dead.
    End,
    /// One pass that explains every match and sends nothing.
    Report,
}

/// The task of a cleanup: what to end, how, and how long.
#[derive(Clone, Debug)]
pub struct CleanupSpec {
    /// The processes to end.
    pub kind: CleanupKind,
    /// The signals to send before SIGKILL. A cleanup for workers ignores it.
    pub ladder: Ladder,
    /// The time for everything.
    pub deadline: Duration,
    /// The directory of the records. Without it, no run is judged by a record.
    pub run_dir: Option<Arc<RunDir>>,
    /// Whether there may be records that cannot be read. No run is dead then, and the report is
    /// incomplete. Cleanups for workers and for single processes need no record.
    pub records_unusable: bool,
}

impl CleanupSpec {
    /// The time when all is over, and the time when SIGKILL is due. The last part of the time is
    /// for SIGKILL and its effect.
    pub(crate) fn times(&self, began: Instant) -> (Instant, Instant) {
        let deadline = began.checked_add(self.deadline).unwrap_or(began);
        let reserve = (self.deadline / 4).min(KILL_RESERVE);
        (deadline, deadline.checked_sub(reserve).unwrap_or(began))
    }
}

impl CleanupKind {
    /// Whether the asking VM's own workers are ended.
    pub(crate) fn is_for_workers(&self) -> bool {
        matches!(self, Self::Worker(_))
    }

    /// Whether processes are only reported.
    pub(crate) fn is_report(&self) -> bool {
        matches!(self, Self::Sweep { mode: Mode::Report, .. })
    }

    /// Tells which marked processes no pass needs to read.
    pub(crate) fn skip(&self) -> Option<&dyn SkipMark> {
        match self {
            Self::Worker(workers) => Some(workers),
            Self::Run { .. } | Self::Sweep { .. } | Self::Process(_) => None,
        }
    }

    /// Whether a process with this mark is one to end, as far as a mark alone can tell.
    pub(crate) fn covers(&self, mark: &Mark, judge: impl FnOnce(RunId) -> RunJudgement) -> bool {
        let run = mark.run();
        let (covered, outliving) = match self {
            Self::Worker(workers) => {
                (workers.run == run && !workers.is_others(mark), workers.is_outliving(mark))
            }
            Self::Run { run: only, outliving, .. } => {
                (*only == run && judge(run).verdict == Verdict::Dead, *outliving)
            }
            Self::Sweep { mode: Mode::End, .. } => (judge(run).verdict == Verdict::Dead, false),
            Self::Sweep { mode: Mode::Report, .. } | Self::Process(_) => (false, false),
        };
        covered && (outliving || !mark.outlives())
    }
}
