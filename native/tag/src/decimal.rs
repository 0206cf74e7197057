//! Parses decimal numbers, only as the writers in this crate print them.

/// Parses an unsigned number without sign, blank or leading zero.
///
/// The parser is strict, because two spellings of one number would be two spellings of one tag.
pub(crate) fn parse(text: &[u8]) -> Option<u64> {
    match text {
        [] => return None,
        [b'0', _, ..] => return None,
        _ => {}
    }
    text.iter().try_fold(0u64, |number, &byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn accepts_one_spelling_only() {
        assert_eq!(parse(b"0"), Some(0));
        assert_eq!(parse(b"18446744073709551615"), Some(u64::MAX));
        for text in ["", "00", "01", "18446744073709551616", "+1", "-1", "1 ", "0x1", "1_000"] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
    }
}
