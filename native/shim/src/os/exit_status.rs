//! The way in which a process ended.

use rustix::io::Errno;

/// The way in which a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExitStatus {
    /// [`ExitStatus::EXITED`] and so on, as the reports say it.
    pub(crate) how: u8,
    /// The exit status, or the number of the signal.
    pub(crate) value: u8,
}

impl ExitStatus {
    /// The end of a process that is no child of the shim. Only its parent learns how a process
    /// ended.
    pub(crate) const UNKNOWN: Self = Self { how: 0, value: 0 };
    /// The end of a child that the kernel reaped without the shim.
    pub(crate) const KILLED_UNSEEN: Self =
        Self { how: Self::KILLED, value: leash_tag::signal::KILL };
    /// The process called exit(2).
    pub(crate) const EXITED: u8 = 1;
    /// A signal ended the process.
    pub(crate) const KILLED: u8 = 2;
    /// A signal ended the process, and the kernel wrote a core dump.
    pub(crate) const DUMPED: u8 = 3;

    /// Returns the end that `si_code` and `si_status` describe (waitid(2)).
    pub(crate) fn from_siginfo(code: i32, status: i32) -> Self {
        const CLD_EXITED: i32 = 1;
        const CLD_DUMPED: i32 = 3;
        let how = match code {
            CLD_EXITED => Self::EXITED,
            CLD_DUMPED => Self::DUMPED,
            _ => Self::KILLED,
        };
        Self { how, value: (status & 0xff) as u8 }
    }

    /// Returns the status that a shell would give.
    pub(crate) fn code(self) -> u8 {
        if self.how == Self::EXITED { self.value } else { 128u8.saturating_add(self.value) }
    }
}

/// The outcome of a command of the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommandOutcome {
    /// The command never ran; the errno.
    NotStarted(u8),
    /// The command ran.
    Ended(ExitStatus),
}

impl CommandOutcome {
    /// Returns the outcome of a command that could not be started.
    pub(crate) fn not_started(errno: Errno) -> Self {
        Self::NotStarted(u8::try_from(errno.raw_os_error()).unwrap_or(u8::MAX))
    }

    /// Returns whether the command exited with status 0.
    pub(crate) fn succeeded(self) -> bool {
        self == Self::Ended(ExitStatus { how: ExitStatus::EXITED, value: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_becomes_what_a_shell_would_say() {
        for (code, status, how, shell) in
            [(1, 0, 1, 0), (1, 255, 1, 255), (2, 9, 2, 137), (3, 11, 3, 139), (2, 64, 2, 192)]
        {
            let ended = ExitStatus::from_siginfo(code, status);
            assert_eq!((ended.how, i32::from(ended.value)), (how, status));
            assert_eq!(ended.code(), shell);
        }
    }
}
