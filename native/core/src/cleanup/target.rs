//! A process that is being ended.

use crate::cleanup::report::{Match, Reason};
use crate::cleanup::stage::Stage;
use crate::os::pidfd::PidFd;
use crate::os::signal::Signal;
use crate::procfs::identity::Identity;
use crate::tags::tagged_process::TaggedProcess;
use leash_tag::{Mark, RunId, WorkerNumber};
use std::collections::HashSet;

/// The run and the worker that one shim is in charge of.
pub(crate) type Tree = (Option<RunId>, Option<u16>);

/// Tells processes apart within a cleanup.
pub(crate) type Key = (u32, u64);

#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) process: TaggedProcess,
    pub(crate) found: Match,
    pub(crate) tree: Tree,
    pub(crate) is_shim: bool,
    // Held while descriptors are plenty. The driver waits on it, and no other process can get the
    // number.
    pub(crate) pidfd: Option<PidFd>,
    pub(crate) stage: Stage,
    pub(crate) last: Option<Signal>,
    pub(crate) blocked: Option<Reason>,
    // Whether the process may end by itself. Its shim was told, or sees that it is not held any
    // more.
    pub(crate) waited_for: bool,
}

impl Target {
    pub(crate) fn identity(&self) -> Identity {
        self.process.identity
    }

    /// Whether the cleanup gives this target up. Descriptors may become free before the deadline.
    /// Permission, a lost tag and the means to signal do not come back.
    pub(crate) fn is_given_up(&self) -> bool {
        match self.blocked {
            Some(Reason::Eperm | Reason::TagLost) => true,
            Some(Reason::NoPidfd) => !self.waited_for,
            _ => false,
        }
    }

    /// Whether the cleanup still waits for a shim's own work on its tree.
    pub(crate) fn is_shim_in_charge(&self) -> bool {
        self.is_shim
            && self.blocked.is_none()
            && matches!(
                self.stage,
                Stage::New | Stage::ShimWorks { .. } | Stage::ShimQuits { .. }
            )
    }
}

/// Whether a living shim is in charge of a process that is no shim itself.
pub(crate) fn is_in_charge(trees: &HashSet<Tree>, target: &Target) -> bool {
    let (run, worker) = target.tree;
    let of_run = || trees.iter().any(|tree| tree.0 == run);
    !target.is_shim
        && !trees.is_empty()
        && (trees.contains(&target.tree)
            || trees.contains(&(run, None))
            || (worker.is_none() && of_run()))
}

pub(crate) fn key(identity: &Identity) -> Key {
    (identity.pid.as_u32(), identity.start_ticks)
}

pub(crate) fn tree_of_mark(mark: Mark) -> Tree {
    (Some(mark.run()), mark.worker().map(WorkerNumber::get))
}
