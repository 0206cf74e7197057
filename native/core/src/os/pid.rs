//! Process numbers that can be signalled.

use serde::{Serialize, Serializer};
use std::fmt;
use std::num::NonZeroI32;

/// A positive process number.
///
/// A `Pid` is never zero or negative. `kill(2)` reads such numbers as "my group", "all processes"
/// and "that group".
///
/// The number alone proves nothing. Once a process is reaped, the kernel gives its number to
/// another one. See [`Identity`](crate::procfs::identity::Identity).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pid(NonZeroI32);

impl Pid {
    /// Returns the `Pid` of a number greater than zero.
    #[must_use]
    pub fn new(number: i32) -> Option<Self> {
        NonZeroI32::new(number).filter(|number| number.get() > 0).map(Self)
    }

    /// Returns the `Pid` of a number in a tag or record.
    #[must_use]
    pub fn from_u32(number: u32) -> Option<Self> {
        i32::try_from(number).ok().and_then(Self::new)
    }

    /// The calling process.
    #[must_use]
    pub fn current() -> Self {
        Self(rustix::process::getpid().as_raw_nonzero())
    }

    /// Parses decimal digits only: the name of a process's directory in `/proc`.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.is_empty() || text.first() == Some(&b'0') {
            return None;
        }
        let number = text.iter().try_fold(0i32, |number, &byte| {
            let digit = byte.is_ascii_digit().then(|| i32::from(byte - b'0'))?;
            number.checked_mul(10)?.checked_add(digit)
        })?;
        Self::new(number)
    }

    /// Whether the number is 1: init, or the process that stands in for it in a container.
    #[must_use]
    pub fn is_init(self) -> bool {
        self.get() == 1
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> i32 {
        self.0.get()
    }

    /// The number, unsigned.
    #[must_use]
    pub fn as_u32(self) -> u32 {
        self.0.get().unsigned_abs()
    }

    pub(crate) fn raw(self) -> Option<rustix::process::Pid> {
        rustix::process::Pid::from_raw(self.get())
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pid({})", self.0)
    }
}

impl Serialize for Pid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.as_u32())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn init_is_one() {
        assert!(Pid::new(1).unwrap().is_init() && !Pid::new(2).unwrap().is_init());
    }

    #[test]
    fn zero_negatives_and_odd_spellings_are_no_pids() {
        assert_eq!((Pid::new(0), Pid::new(-1), Pid::new(i32::MIN)), (None, None, None));
        assert_eq!((Pid::from_u32(0), Pid::from_u32(u32::MAX)), (None, None));
        for text in
            ["", "0", "-1", "+1", "01", "1 ", "self", "2147483648", "99999999999999999999"]
        {
            assert_eq!(Pid::parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(Pid::parse(b"4194303").map(Pid::get), Some(4_194_303));
        assert_eq!(Pid::parse(b"2147483647").map(Pid::get), Some(i32::MAX));
    }

    proptest! {
        #[test]
        fn every_positive_number_round_trips(number in 1..i32::MAX) {
            let pid = Pid::new(number).unwrap();
            prop_assert_eq!(Pid::parse(pid.to_string().as_bytes()), Some(pid));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..30)) {
            let _ = Pid::parse(&bytes);
        }
    }
}
