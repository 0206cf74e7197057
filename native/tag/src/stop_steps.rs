//! The value of `--stop=`: the steps of a shim's ladder, `WHAT:MS[@SCOPE]`, separated by commas.
//!
//! The shim takes these steps. A reader of its command line learns from them how long it may
//! take.

use crate::{parse_number, signal};

/// The most steps of a ladder.
pub const MAX_STEPS: usize = 8;

/// The processes that get a step's signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalScope {
    /// The worker alone.
    Leader,
    /// The worker's process group.
    Group,
    /// Every descendant.
    Tree,
}

/// The kind of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    /// Sends a signal.
    Signal {
        /// The signal's number.
        number: u8,
        /// The processes that get the signal.
        scope: SignalScope,
    },
    /// Runs the next command of the shim's command line.
    Command,
    /// Tells the VM to close the worker's stdin. If the VM is gone, the stdin is closed already.
    CloseStdin,
}

impl StepKind {
    /// Returns the number that reports use: the signal's number, 0 for a command, 255 for the end
    /// of stdin.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Signal { number, .. } => number,
            Self::Command => 0,
            Self::CloseStdin => 255,
        }
    }
}

/// One step of the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The kind.
    pub kind: StepKind,
    /// Milliseconds to wait for the effect, `None` for ever.
    pub wait: Option<u32>,
}

impl Step {
    fn parse(text: &[u8]) -> Option<Self> {
        let mut fields = text.splitn(2, |&byte| byte == b':');
        let name = fields.next()?;
        let mut rest = fields.next()?.splitn(2, |&byte| byte == b'@');
        let wait = match rest.next()? {
            b"inf" => None,
            ms => Some(milliseconds(ms)?),
        };
        let kind = match (name, rest.next()) {
            (b"CMD", None) => StepKind::Command,
            (b"STDIN", None) => StepKind::CloseStdin,
            (name, scope) => {
                let scope = match scope {
                    None | Some(b"group") => SignalScope::Group,
                    Some(b"leader") => SignalScope::Leader,
                    Some(b"tree") => SignalScope::Tree,
                    Some(_) => return None,
                };
                StepKind::Signal { number: signal::number(name)?, scope }
            }
        };
        Some(Self { kind, wait })
    }
}

/// Parses a number of milliseconds that fits a timeout of poll(2).
#[must_use]
pub fn milliseconds(text: &[u8]) -> Option<u32> {
    parse_number(text).filter(|&ms| ms <= i32::MAX as u32)
}

/// The steps of a ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps {
    steps: [Step; MAX_STEPS],
    len: usize,
}

impl Steps {
    /// TERM to the group, then two seconds.
    pub const DEFAULT: Self = {
        let kind = StepKind::Signal { number: signal::TERM, scope: SignalScope::Group };
        Self { steps: [Step { kind, wait: Some(2_000) }; MAX_STEPS], len: 1 }
    };

    /// Parses the value of `--stop=`.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut steps = Self { len: 0, ..Self::DEFAULT };
        for step in text.split(|&byte| byte == b',') {
            *steps.steps.get_mut(steps.len)? = Step::parse(step)?;
            steps.len += 1;
        }
        Some(steps)
    }

    /// Returns the step at an index.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Step> {
        self.iter().nth(index)
    }

    /// Returns all steps.
    pub fn iter(&self) -> impl Iterator<Item = Step> + use<'_> {
        self.steps.iter().take(self.len).copied()
    }

    /// Returns the number of steps of one kind among the first ones.
    #[must_use]
    pub fn count(&self, kind: StepKind, first: usize) -> usize {
        self.iter().take(first).filter(|step| step.kind == kind).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn read(text: &str) -> Vec<Step> {
        Steps::parse(text.as_bytes()).unwrap().iter().collect()
    }

    fn step(number: u8, wait: Option<u32>, scope: SignalScope) -> Step {
        Step { kind: StepKind::Signal { number, scope }, wait }
    }

    #[test]
    fn the_ladder_is_read_step_by_step() {
        assert_eq!(
            read("INT:500@leader,15:1500,KILL:0@tree,34:inf"),
            [
                step(2, Some(500), SignalScope::Leader),
                step(15, Some(1500), SignalScope::Group),
                step(9, Some(0), SignalScope::Tree),
                step(34, None, SignalScope::Group),
            ]
        );
    }

    #[test]
    fn a_step_may_be_a_command_or_the_end_of_stdin() {
        assert_eq!(
            read("CMD:5000,TERM:2000,STDIN:inf"),
            [
                Step { kind: StepKind::Command, wait: Some(5000) },
                step(15, Some(2000), SignalScope::Group),
                Step { kind: StepKind::CloseStdin, wait: None },
            ]
        );
        let steps = Steps::parse(b"CMD:1,TERM:2,CMD:3").unwrap();
        assert_eq!([0, 1, 3].map(|first| steps.count(StepKind::Command, first)), [0, 1, 2]);
    }

    #[test]
    fn a_value_of_another_form_is_refused() {
        for text in [
            "",
            "TERM",
            "TERM:",
            "TERM:x",
            "TERM:-1",
            ":1",
            "TERM:1,",
            "65:1",
            "0:1",
            "term:1",
            "TERM:1@",
            "TERM:1@all",
            "TERM:1@group@tree",
            "CMD:1@leader",
            "STDIN:1@leader",
            "CMD",
            "cmd:1",
            "TERM:2147483648",
            "1:1,1:1,1:1,1:1,1:1,1:1,1:1,1:1,1:1",
        ] {
            assert_eq!(Steps::parse(text.as_bytes()), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_value_panics(text in "[ -~]{0,40}") {
            let _ = Steps::parse(text.as_bytes());
        }
    }
}
