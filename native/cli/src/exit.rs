//! Exit statuses, and the messages of the failures.

use std::process::ExitCode;

/// The meaning of the command's status; the help says the same in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Done = 0,
    Left = 1,
    Usage = 2,
    Refused = 3,
    Unusable = 4,
}

impl Exit {
    #[cfg(test)]
    pub(crate) const ALL: [Self; 5] =
        [Self::Done, Self::Left, Self::Usage, Self::Refused, Self::Unusable];
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The reason why a command ends early.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
}

impl From<leash_core::Error> for Failure {
    fn from(error: leash_core::Error) -> Self {
        Self::new(Exit::Unusable, error.to_string())
    }
}
