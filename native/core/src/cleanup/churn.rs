//! Trees whose processes end before they are read.

use crate::cleanup::target::Tree;
use std::collections::HashSet;

// This many passes in a row that see no process vanish are believed.
const QUIESCENT_PASSES: u32 = 2;
// On a host where processes end all the time, no pass is ever quiescent. This many passes that
// signal nothing are enough there.
const MAX_BUSY_PASSES: u32 = 20;

/// The trees that churn, and what the last quick passes saw of them.
#[derive(Debug, Default)]
pub(crate) struct Churn {
    trees: HashSet<Tree>,
    // The number of passes in a row that signalled nothing and saw nothing vanish.
    quiescent_passes: u32,
    // The number of passes in a row that signalled nothing and saw processes vanish.
    busy_passes: u32,
    zombies: u32,
}

/// What a quick pass did and saw.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    /// The number of processes that were signalled.
    pub(crate) sent: u32,
    /// The number of processes that ended while they were looked at.
    pub(crate) vanished: u32,
    /// The number of processes that had ended and wait to be reaped.
    pub(crate) zombies: u32,
}

impl Churn {
    /// Adds a tree whose processes ended before they were read.
    pub(crate) fn add(&mut self, tree: Tree) {
        self.trees.insert(tree);
    }

    /// Whether a tree churns.
    pub(crate) fn contains(&self, tree: &Tree) -> bool {
        self.trees.contains(tree)
    }

    /// Notes a quick pass.
    pub(crate) fn note(&mut self, Tally { sent, vanished, zombies }: Tally) {
        // New zombies are the trace of processes that ended unseen.
        let is_quiescent = sent == 0 && vanished == 0 && zombies <= self.zombies;
        self.zombies = zombies;
        self.quiescent_passes = if is_quiescent { self.quiescent_passes + 1 } else { 0 };
        self.busy_passes = if sent == 0 && !is_quiescent { self.busy_passes + 1 } else { 0 };
    }

    /// Notes a pass that proves nothing.
    pub(crate) fn begin_anew(&mut self) {
        self.quiescent_passes = 0;
    }

    /// Whether passes may be believed to be complete.
    ///
    /// A process that forks and exits without a pause is gone from a listing before its turn
    /// comes. So a single pass that finds none proves nothing. Two passes in a row must see no
    /// such process vanish.
    pub(crate) fn is_quiescent(&self) -> bool {
        self.trees.is_empty()
            || self.quiescent_passes >= QUIESCENT_PASSES
            || self.busy_passes >= MAX_BUSY_PASSES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Tally = Tally { sent: 0, vanished: 0, zombies: 0 };
    const BUSY: Tally = Tally { vanished: 1, ..QUIET };
    const FOUND: Tally = Tally { sent: 1, ..QUIET };

    fn believed_after(tallies: &[Tally]) -> Option<usize> {
        let mut churn = Churn::default();
        assert!(churn.is_quiescent(), "without such a tree");
        churn.add((None, None));
        tallies.iter().position(|&tally| {
            churn.note(tally);
            churn.is_quiescent()
        })
    }

    #[test]
    fn two_passes_in_a_row_that_see_nothing_vanish_are_believed() {
        assert_eq!(believed_after(&[QUIET; 2]), Some(1));
        for other in [BUSY, FOUND, Tally { zombies: 1, ..QUIET }] {
            assert_eq!(believed_after(&[QUIET, other, QUIET, QUIET]), Some(3), "{other:?}");
        }
    }

    #[test]
    fn many_busy_passes_are_enough_unless_one_of_them_signals() {
        assert_eq!(believed_after(&[BUSY; 30]), Some(19));
        assert_eq!(believed_after(&[FOUND; 30]), None);
    }

    #[test]
    fn old_zombies_are_no_trace() {
        let old = Tally { zombies: 7, ..QUIET };
        assert_eq!(believed_after(&[old; 3]), Some(2));
    }
}
