//! How far a target is on its way to its end, and the signal that comes next.

use crate::cleanup::report::Reason;
use crate::os::signal::Signal;
use crate::tags::ladder::Ladder;
use std::time::{Duration, Instant};

/// The time between two SIGKILL, and the time for a shim that was told to end its tree at once.
pub(crate) const QUIT_GRACE: Duration = Duration::from_millis(500);

/// A signal to send, and the stage of a target that got it.
pub(crate) type Due = (Signal, Stage);

/// A stage of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Just found.
    New,
    /// A living shim, at work on its own tree.
    ShimWorks { until: Instant },
    /// A shim that was told to end its tree at once.
    ShimQuits { until: Instant },
    /// The ladder's step was sent.
    Step(usize),
    /// SIGKILL was sent.
    Killed { again: Instant },
}

impl Stage {
    /// SIGKILL. It is sent again after a while, because only the end of the process is proof.
    pub(crate) fn kill(now: Instant) -> Due {
        (Signal::KILL, Self::Killed { again: now + QUIT_GRACE })
    }

    /// The signal of a step of a ladder.
    pub(crate) fn step(step: usize, signal: Signal, now: Instant) -> Due {
        if signal == Signal::KILL { Self::kill(now) } else { (signal, Self::Step(step)) }
    }

    /// The signal that is due now by a ladder which began at a time. `is_last` says that no time
    /// is left for the ladder.
    pub(crate) fn due(
        self,
        ladder: &Ladder,
        began: Instant,
        now: Instant,
        is_last: bool,
    ) -> Option<Due> {
        if let Self::Killed { again } = self {
            return (now >= again).then(|| Self::kill(now));
        }
        match ladder.at(now.saturating_duration_since(began)) {
            Some((step, _, _)) if !is_last && self == Self::Step(step) => None,
            Some((step, signal, _)) if !is_last => Some(Self::step(step, signal, now)),
            _ => Some(Self::kill(now)),
        }
    }

    /// The time when this stage is over, if nothing else happens.
    pub(crate) fn next(self, ladder: &Ladder, began: Instant, now: Instant) -> Option<Instant> {
        match self {
            Self::ShimWorks { until } | Self::ShimQuits { until } => Some(until),
            Self::Killed { again } => Some(again),
            Self::New => None,
            Self::Step(_) => {
                let (_, _, ends) = ladder.at(now.saturating_duration_since(began))?;
                Some(began + ends?)
            }
        }
    }

    /// The reason why a process in a state still lives at this stage.
    pub(crate) fn reason(self, state: char) -> Reason {
        match (state, self) {
            ('D', _) => Reason::Uninterruptible,
            (_, Self::Killed { .. }) => Reason::KillPending,
            _ => Reason::Deadline,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(1);

    #[test]
    fn each_step_is_sent_once_and_sigkill_follows() {
        let (ladder, now) = (Ladder::new(vec![(Signal::TERM, WAIT)]), Instant::now());
        let (signal, stage) = Stage::New.due(&ladder, now, now, false).unwrap();
        assert_eq!((signal, stage), (Signal::TERM, Stage::Step(0)));
        assert_eq!(stage.due(&ladder, now, now, false), None);
        assert_eq!(stage.due(&ladder, now, now, true), Some(Stage::kill(now)));
        let after = now + WAIT;
        assert_eq!(stage.due(&ladder, now, after, false), Some(Stage::kill(after)));
        let killed = Stage::kill(now).1;
        assert_eq!(killed.due(&ladder, now, now, true), None);
        assert_eq!(killed.due(&ladder, now, after, false), Some(Stage::kill(after)));
        assert_eq!(stage.reason('S'), Reason::Deadline);
        assert_eq!(stage.reason('D'), Reason::Uninterruptible);
    }

    #[test]
    fn sigkill_is_pending_also_if_a_step_of_the_ladder_sent_it() {
        let steps = vec![(Signal::KILL, WAIT), (Signal::TERM, WAIT)];
        let now = Instant::now();
        let (signal, stage) = Stage::New.due(&Ladder::new(steps), now, now, false).unwrap();
        assert_eq!((signal, stage.reason('S')), (Signal::KILL, Reason::KillPending));
    }
}
