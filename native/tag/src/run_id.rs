//! Run ids: seven characters of base36.

use core::fmt;
use core::num::NonZeroU64;
use core::str::FromStr;

const BASE: u64 = 36;
const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// The id of one run: exactly seven characters of `[0-9a-z]`, not all zero.
///
/// Upper case, other lengths and the all-zero id are refused. So no id that a person or a broken
/// record supplies by accident matches a process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(NonZeroU64);

/// The error of parsing something that is not a run id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidRunId;

impl RunId {
    /// The number of characters of an id.
    pub const LEN: usize = 7;

    /// The number of values of seven base36 digits. Ids are 1 up to this, exclusive.
    pub const COUNT: u64 = BASE.pow(Self::LEN as u32);

    /// Returns the id for a number in `1..COUNT`.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        if number >= Self::COUNT {
            return None;
        }
        NonZeroU64::new(number).map(Self)
    }

    /// Parses exactly seven characters.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.len() != Self::LEN {
            return None;
        }
        let mut number = 0;
        for &byte in text {
            let digit = match byte {
                b'0'..=b'9' => byte - b'0',
                b'a'..=b'z' => byte - b'a' + 10,
                _ => return None,
            };
            number = number * BASE + u64::from(digit);
        }
        Self::from_number(number)
    }

    /// The id as a number below 36⁷, which fits 37 bits.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0.get()
    }

    /// The id's seven characters.
    #[must_use]
    pub fn to_ascii(self) -> [u8; Self::LEN] {
        let mut text = [b'0'; Self::LEN];
        let mut rest = self.number();
        for place in text.iter_mut().rev() {
            if let Some(&digit) = DIGITS.get((rest % BASE) as usize) {
                *place = digit;
            }
            rest /= BASE;
        }
        text
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(core::str::from_utf8(&self.to_ascii()).unwrap_or_default())
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunId({self})")
    }
}

impl fmt::Display for InvalidRunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a run id is seven characters of 0-9 and a-z, not all zero")
    }
}

impl core::error::Error for InvalidRunId {}

impl FromStr for RunId {
    type Err = InvalidRunId;

    fn from_str(text: &str) -> Result<Self, InvalidRunId> {
        Self::parse(text.as_bytes()).ok_or(InvalidRunId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;

    #[test]
    fn reads_back_what_it_writes_at_the_edges() {
        for (number, text) in
            [(1, "0000001"), (35, "000000z"), (36, "0000010"), (RunId::COUNT - 1, "zzzzzzz")]
        {
            let id = RunId::from_number(number).unwrap();
            assert_eq!(id.to_string(), text);
            assert_eq!(RunId::parse(text.as_bytes()), Some(id));
        }
    }

    #[test]
    fn refuses_everything_that_is_not_an_id() {
        for text in [
            "", "0", "s59m65", "s59m65ff", "S59M65F", "s59m65F", "0000000", "-1", "s59 65f",
            "s59m6\n", "s59m65\0", "s59m6é",
        ] {
            assert_eq!(text.parse::<RunId>(), Err(InvalidRunId), "{text:?}");
        }
        assert_eq!(RunId::parse(&[b'a'; 300]), None);
        assert_eq!(RunId::from_number(0), None);
        assert_eq!(RunId::from_number(RunId::COUNT), None);
    }

    proptest! {
        #[test]
        fn every_number_round_trips(number in 1..RunId::COUNT) {
            let id = RunId::from_number(number).unwrap();
            prop_assert_eq!(RunId::parse(&id.to_ascii()), Some(id));
            prop_assert_eq!(id.number(), number);
        }

        #[test]
        fn what_parses_is_what_was_given(bytes in proptest::collection::vec(any::<u8>(), 0..10)) {
            if let Some(id) = RunId::parse(&bytes) {
                prop_assert_eq!(id.to_ascii().to_vec(), bytes);
            }
        }
    }
}
