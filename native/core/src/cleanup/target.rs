//! A process that is being ended.

use crate::cleanup::report::{Action, Match, Reason, Survivor};
use crate::cleanup::stage::Stage;
use crate::os::pidfd::PidFd;
use crate::os::signal::Signal;
use crate::procfs::host::Host;
use crate::procfs::identity::Identity;
use crate::tags::tagged_process::TaggedProcess;
use leash_tag::{Mark, RunId, WorkerNumber};

/// The run and the worker that one shim is in charge of.
pub(crate) type Tree = (Option<RunId>, Option<u16>);

/// Tells processes apart within a cleanup.
pub(crate) type Key = (u32, u64);

/// A process that is being ended.
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
    /// A target that was just found.
    pub(crate) fn new(process: TaggedProcess, found: Match, tree: Tree) -> Self {
        Self {
            process,
            found,
            tree,
            is_shim: false,
            pidfd: None,
            stage: Stage::New,
            last: None,
            blocked: None,
            waited_for: false,
        }
    }

    /// Notes a signal that was sent.
    pub(crate) fn sent(&mut self, signal: Signal, stage: Stage) {
        (self.stage, self.last, self.blocked) = (stage, Some(signal), None);
    }

    pub(crate) fn identity(&self) -> Identity {
        self.process.identity
    }

    /// Returns what became of a target that has ended, by the kernel's word. `in_charge` says
    /// that a living shim was at work on its tree.
    pub(crate) fn ended(&self, in_charge: bool) -> Match {
        let (action, ended_by) = match self.last {
            Some(signal) if signal != Signal::CONT => (Action::Ended, Some(signal.name())),
            _ if self.is_shim || in_charge => (Action::Ended, Some("shim")),
            _ => (Action::Gone, None),
        };
        Match { action, ended_by, ..self.found.clone() }
    }

    /// Returns what became of a target that may still live when the time is over.
    pub(crate) fn survived(&self, host: &Host) -> (Match, Survivor) {
        let (identity, mut found) = (self.identity(), self.found.clone());
        if let Ok(stat) = host.stat(identity.pid, &mut Vec::new()) {
            if stat.start_ticks == identity.start_ticks {
                found.state = stat.state;
            }
        }
        found.action = Action::Survived;
        let reason = self.blocked.unwrap_or(self.stage.reason(found.state));
        let survivor = found.survivor(reason);
        (found, survivor)
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

/// The key of a process.
pub(crate) fn key(identity: &Identity) -> Key {
    (identity.pid.as_u32(), identity.start_ticks)
}

/// The tree that a mark names.
pub(crate) fn tree_of_mark(mark: Mark) -> Tree {
    (Some(mark.run()), mark.worker().map(WorkerNumber::get))
}
