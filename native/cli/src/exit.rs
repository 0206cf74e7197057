//! Exit statuses, and the messages of the failures.
//!
//! A script need not read the text: every status but 0 means that something may be left. The
//! core's refusal to end something is told apart from a machine that does not permit it.

/// The meaning of the command's status; the help says the same in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// What was asked for is done.
    Done = 0,
    /// Something is left, not proven to be gone, or not known.
    Left = 1,
    /// The command line, or no terminal for `leash top`.
    Usage = 2,
    /// The run is not provably dead, or several runs have what is to be stopped.
    Refused = 3,
    /// The run directory, `/proc` or the kernel does not permit it.
    Unusable = 4,
}

impl Exit {
    /// All of them, for the test that the help names each.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 5] =
        [Self::Done, Self::Left, Self::Usage, Self::Refused, Self::Unusable];
}

/// The reason why a command ends early.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The status.
    pub(crate) exit: Exit,
    /// One line for stderr.
    pub(crate) message: String,
}

impl Failure {
    /// Ends the command with this status and message.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
}

impl From<leash_core::Error> for Failure {
    fn from(error: leash_core::Error) -> Self {
        Self::new(Exit::Unusable, error.to_string())
    }
}
