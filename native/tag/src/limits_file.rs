//! The limits that carry a mark, as `/proc/<pid>/limits` shows them. Every user can read it.

use crate::{Limits, parse_number};

impl Limits {
    /// Parses the line "Max file locks SOFT HARD locks" of the file.
    #[must_use]
    pub fn parse_file(text: &[u8]) -> Option<Self> {
        let line = text
            .split(|&byte| byte == b'\n')
            .find_map(|line| line.strip_prefix(b"Max file locks"))?;
        let mut fields = line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
        let mut next = || match fields.next()? {
            b"unlimited" => Some(u64::MAX),
            number => parse_number(number),
        };
        Some(Self { soft: next()?, hard: next()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_and_unlimited_are_read_and_nonsense_is_none() {
        let file =
            b"Limit                     Soft Limit           Hard Limit           Units     \n\
            Max file locks            5495798998463051920  unlimited            locks     \n\
            Max pending signals       1                    2                    signals   \n";
        let expected = Limits { soft: 5_495_798_998_463_051_920, hard: u64::MAX };
        assert_eq!(Limits::parse_file(file), Some(expected));
        assert_eq!(
            Limits::parse_file(b"Max file locks unlimited unlimited locks"),
            Some(Limits::UNLIMITED)
        );
        for text in [
            "",
            "Max 1 2",
            "Max file locks",
            "Max file locks 1",
            "Max file locks -1 1",
            "Max file locks x y",
            "Max file locks 18446744073709551616 1",
        ] {
            assert_eq!(Limits::parse_file(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Limits::parse_file(&text);
        }

        #[test]
        fn no_tail_panics(tail in "[ -~]{0,80}") {
            let _ = Limits::parse_file(std::format!("Max file locks{tail}").as_bytes());
        }
    }
}
