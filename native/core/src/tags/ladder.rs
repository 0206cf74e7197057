//! The signals sent before SIGKILL, and the time that each is given.

use crate::os::signal::Signal;
use leash_tag::stop_steps::{Step, StepKind, Steps};
use std::time::Duration;

/// A list of steps, each with a signal and a time. SIGKILL follows the last step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ladder {
    steps: Vec<(Signal, Option<Duration>)>,
}

impl Ladder {
    /// A ladder of these steps. Without a step, SIGKILL comes at once.
    #[must_use]
    pub fn new(steps: Vec<(Signal, Duration)>) -> Self {
        Self { steps: steps.into_iter().map(|(signal, time)| (signal, Some(time))).collect() }
    }

    /// A ladder without a step: SIGKILL comes at once.
    #[must_use]
    pub fn kill() -> Self {
        Self { steps: Vec::new() }
    }

    /// Parses a shim's `--stop=` value of signals alone.
    #[must_use]
    pub fn parse_shim(text: &[u8]) -> Option<Self> {
        let signal = |step: Step| match step.kind {
            StepKind::Signal { number, .. } => {
                Some((Signal::from_number(i32::from(number))?, time(step)))
            }
            StepKind::Command | StepKind::CloseStdin => None,
        };
        let steps = Steps::parse(text)?.iter().map(signal).collect::<Option<Vec<_>>>()?;
        Some(Self { steps })
    }

    /// Returns how long a shim's ladder takes, from the same value.
    ///
    /// A step may also be a command (`CMD:MS`) or the end of stdin (`STDIN:MS`). Returns `None`
    /// if a step waits for ever, or if the value is malformed.
    #[must_use]
    pub fn time_of_shim(text: &[u8]) -> Option<Duration> {
        Steps::parse(text)?
            .iter()
            .try_fold(Duration::ZERO, |sum, step| sum.checked_add(time(step)?))
    }

    /// The whole time; `None` if a step waits for ever.
    #[must_use]
    pub fn total(&self) -> Option<Duration> {
        self.steps.iter().try_fold(Duration::ZERO, |sum, (_, time)| sum.checked_add((*time)?))
    }

    /// The number of steps.
    #[must_use]
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether SIGKILL comes at once.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Returns the step that is on at a time since the ladder began, and when that step ends.
    /// Returns `None` past the last step, when SIGKILL is due.
    #[must_use]
    pub fn at(&self, since: Duration) -> Option<(usize, Signal, Option<Duration>)> {
        let mut ends = Duration::ZERO;
        for (index, (signal, time)) in self.steps.iter().enumerate() {
            let Some(time) = time else { return Some((index, *signal, None)) };
            ends = ends.saturating_add(*time);
            if since < ends {
                return Some((index, *signal, Some(ends)));
            }
        }
        None
    }
}

impl Default for Ladder {
    /// TERM, then two seconds.
    fn default() -> Self {
        Self::new(vec![(Signal::TERM, Duration::from_secs(2))])
    }
}

fn time(step: Step) -> Option<Duration> {
    step.wait.map(|ms| Duration::from_millis(ms.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    #[test]
    fn reads_the_shims_option() {
        let ladder = Ladder::parse_shim(b"INT:500,15:1500@tree,SIGQUIT:0@leader").unwrap();
        assert_eq!((ladder.len(), ladder.total()), (3, Some(ms(2000))));
        assert_eq!(Ladder::parse_shim(b"TERM:inf@group").unwrap().total(), None);
        for text in ["", "TERM", "TERM:", "TERM:x", ":1", "TERM:1,", "64:1", "term:1", "TERM:-1"]
        {
            assert_eq!(Ladder::parse_shim(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn a_shims_commands_take_time_and_are_no_signals() {
        assert_eq!(Ladder::time_of_shim(b"CMD:5000,15:1500@tree"), Some(ms(6500)));
        assert_eq!(Ladder::time_of_shim(b"TERM:2000@group"), Some(ms(2000)));
        for text in
            ["CMD:inf", "CMD:1,TERM:inf", "CMD", "CMD:", "CMD:x", "", "CMD:1@leader", "cmd:1"]
        {
            assert_eq!(Ladder::time_of_shim(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(
            Ladder::parse_shim(b"CMD:5000,TERM:1"),
            None,
            "without a shim, no process runs them"
        );
    }

    #[test]
    fn the_end_of_stdin_takes_time_and_is_no_signal() {
        assert_eq!(Ladder::time_of_shim(b"STDIN:500,TERM:1500@tree"), Some(ms(2000)));
        for text in ["STDIN:inf", "STDIN", "STDIN:", "STDIN:1@leader", "stdin:1"] {
            assert_eq!(Ladder::time_of_shim(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(Ladder::parse_shim(b"STDIN:500,TERM:1"), None);
    }

    #[test]
    fn each_step_is_on_in_its_time_and_kill_follows() {
        let int = Signal::from_name("INT").unwrap();
        let ladder = Ladder::new(vec![(int, ms(500)), (Signal::TERM, ms(1000))]);
        assert_eq!(ladder.at(ms(0)), Some((0, int, Some(ms(500)))));
        assert_eq!(ladder.at(ms(499)), Some((0, int, Some(ms(500)))));
        assert_eq!(ladder.at(ms(500)), Some((1, Signal::TERM, Some(ms(1500)))));
        assert_eq!(ladder.at(ms(1500)), None);
        assert_eq!(Ladder::kill().at(ms(0)), None);
        assert_eq!(Ladder::new(vec![(int, ms(0))]).at(ms(0)), None, "no time at all is no step");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(text in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Some(ladder) = Ladder::parse_shim(&text) {
                let _ = (ladder.total(), ladder.at(Duration::MAX));
            }
            let _ = Ladder::time_of_shim(&text);
        }

        #[test]
        fn no_times_panic(text in "TERM:[0-9]{1,19},INT:[0-9]{1,19}") {
            if let Some(ladder) = Ladder::parse_shim(text.as_bytes()) {
                let _ = (ladder.total(), ladder.at(Duration::MAX));
            }
        }
    }
}
