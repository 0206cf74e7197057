//! The proof by passes over all processes that none of the wanted ones is left.

/// What one pass over all processes saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassResult {
    /// No wanted process, and no trace of one.
    Quiet,
    /// No wanted process, but a process ended unseen. It may have been a wanted one that started
    /// another.
    Churn,
    /// A wanted process lives, or a process could not be looked at.
    Found,
}

/// Counts passes until they prove that no wanted process is left.
///
/// Pids rise, and a pass goes upwards with a listing that is never old. So a process that starts
/// the next one and exits is met, or the next one is, unless pids wrap. Therefore several passes
/// in a row have to be quiet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quiescence {
    quiet: u32,
    busy: u32,
}

impl Quiescence {
    /// Quiet passes in a row that are the proof.
    pub const QUIET_PASSES: u32 = 3;

    /// Passes that are enough on a machine where processes end all the time.
    pub const MAX_BUSY_PASSES: u32 = 20;

    /// Takes note of a pass. Returns whether no wanted process is left.
    pub fn note(&mut self, pass: PassResult) -> bool {
        match pass {
            PassResult::Found => *self = Self::default(),
            PassResult::Churn => (self.quiet, self.busy) = (0, self.busy.saturating_add(1)),
            PassResult::Quiet => self.quiet = self.quiet.saturating_add(1),
        }
        self.quiet >= Self::QUIET_PASSES || self.busy >= Self::MAX_BUSY_PASSES
    }
}

#[cfg(test)]
mod tests {
    use super::{PassResult::*, *};

    fn proven_at(passes: &[PassResult]) -> Option<usize> {
        let mut quiescence = Quiescence::default();
        passes.iter().position(|&pass| quiescence.note(pass))
    }

    #[test]
    fn three_quiet_passes_in_a_row_are_the_proof() {
        assert_eq!(proven_at(&[Quiet; 2]), None);
        assert_eq!(proven_at(&[Quiet; 3]), Some(2));
        for other in [Found, Churn] {
            assert_eq!(proven_at(&[Quiet, Quiet, other, Quiet, Quiet, Quiet]), Some(5));
        }
    }

    #[test]
    fn many_busy_passes_are_enough_and_a_find_begins_anew() {
        assert_eq!(proven_at(&[Churn; 30]), Some(19));
        assert_eq!(proven_at(&[Found; 30]), None);
    }
}
