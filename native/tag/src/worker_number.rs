//! The number of a worker within its run.

use core::fmt;

/// A worker's number within its run: 1 to 32,766.
///
/// Fifteen bits of the [`Mark`](crate::Mark) hold it. Zero and all ones are not numbers. In the
/// hard limit, all ones mean "any worker of this run".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerNumber(u16);

impl WorkerNumber {
    /// The largest number.
    pub const MAX: u16 = 0x7ffe;

    /// Returns the worker number for a number in `1..=MAX`.
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        (1..=Self::MAX).contains(&number).then_some(Self(number))
    }

    /// Parses the number in decimal, without sign, leading zero or blank.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let number = crate::decimal::parse(text)?;
        Self::new(u16::try_from(number).ok()?)
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for WorkerNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_all_ones_and_odd_spellings_are_not_numbers() {
        for text in ["0", "32767", "32768", "65537", "-1", "+1", "01", " 1", "1 ", "", "a"] {
            assert_eq!(WorkerNumber::parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(WorkerNumber::parse(b"1").map(WorkerNumber::get), Some(1));
        assert_eq!(WorkerNumber::parse(b"32766").map(WorkerNumber::get), Some(32766));
    }
}
