//! Bytes from a raw terminal as keys.
//!
//! A terminal sends cursor keys as `ESC [ A` or, in application mode, as `ESC O A` (ECMA-48 and
//! xterm's control sequences).

/// A key that means something here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// A character.
    Char(char),
    /// The row above.
    Up,
    /// The row below.
    Down,
    /// Escape alone.
    Escape,
}

/// Returns the keys in what was read at once. Other sequences are passed over.
pub(crate) fn keys(bytes: &[u8]) -> Vec<Key> {
    let (mut keys, mut rest) = (Vec::new(), bytes);
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        match (first, after) {
            (0x1b, [b'[' | b'O', sequence @ ..]) => {
                // Parameters come before the final byte, which is 0x40 to 0x7e.
                let end = sequence.iter().position(|byte| (0x40..=0x7e).contains(byte));
                let end = end.unwrap_or(sequence.len());
                match sequence.get(end) {
                    Some(b'A') => keys.push(Key::Up),
                    Some(b'B') => keys.push(Key::Down),
                    _ => {}
                }
                rest = sequence.get(end + 1..).unwrap_or_default();
            }
            (0x1b, _) => keys.push(Key::Escape),
            (0x20..0x7f, _) => keys.push(Key::Char(char::from(first))),
            _ => {}
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_keys_come_in_two_forms_and_other_sequences_are_passed_over() {
        assert_eq!(
            keys(b"a\x1b[A\x1bOB\x1b[5~\x1b[1;5Aq"),
            [Key::Char('a'), Key::Up, Key::Down, Key::Up, Key::Char('q')]
        );
        assert_eq!(keys(b"\x1b"), [Key::Escape]);
        assert_eq!(keys(b"\x1bx"), [Key::Escape, Key::Char('x')]);
        assert_eq!(keys(b"\x1b["), []);
        assert_eq!(keys("ü\r\n\x01".as_bytes()), []);
    }
}
