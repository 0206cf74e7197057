//! Signals that may be sent to a process.

use serde::{Serialize, Serializer};
use std::fmt;

/// One of the standard signals, 1 to 31.
///
/// The number is never 0 or a real-time signal's. Nothing here sends those.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signal(nix::sys::signal::Signal);

impl Signal {
    /// Ends a process for certain.
    pub const KILL: Self = Self(nix::sys::signal::Signal::SIGKILL);
    /// Asks a process to end.
    pub const TERM: Self = Self(nix::sys::signal::Signal::SIGTERM);
    /// Tells a shim to begin its ladder. TERM would not do, because a shim ignores TERM from pid
    /// 1 while its leash holds.
    pub const INT: Self = Self(nix::sys::signal::Signal::SIGINT);
    /// Tells a shim to end its tree at once.
    pub const QUIT: Self = Self(nix::sys::signal::Signal::SIGQUIT);
    /// Lets a stopped process run.
    pub const CONT: Self = Self(nix::sys::signal::Signal::SIGCONT);

    /// The signal of a number in 1..=31.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        nix::sys::signal::Signal::try_from(number).ok().map(Self)
    }

    /// The signal of a name in upper case, with or without `SIG`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let bare = name.strip_prefix("SIG").unwrap_or(name);
        nix::sys::signal::Signal::iterator()
            .find(|signal| signal.as_str().strip_prefix("SIG") == Some(bare))
            .map(Self)
    }

    /// The number.
    #[must_use]
    pub fn number(self) -> i32 {
        self.0 as i32
    }

    /// The name, with `SIG`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0.as_str()
    }

    pub(crate) fn raw(self) -> Option<rustix::process::Signal> {
        rustix::process::Signal::from_named_raw(self.number())
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Signal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_standard_signal_has_a_number_a_name_and_a_kernel_form() {
        for number in 1..=31 {
            let signal = Signal::from_number(number).unwrap();
            assert_eq!(signal.number(), number);
            assert_eq!(Signal::from_name(signal.name()), Some(signal));
            assert_eq!(Signal::from_name(&signal.name()[3..]), Some(signal));
            assert!(signal.raw().is_some());
        }
    }

    #[test]
    fn zero_negative_and_unknown_signals_are_refused() {
        for number in [0, -1, -9, 32, 64, 65, i32::MAX, i32::MIN] {
            assert_eq!(Signal::from_number(number), None);
        }
        for name in ["", "SIG", "term", "TERMX", "SIGSIGTERM", "0", "15"] {
            assert_eq!(Signal::from_name(name), None);
        }
    }
}
