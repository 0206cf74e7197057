//! Parses `/proc/<pid>/cmdline`: arguments that each end in NUL.

use leash_tag::argv;

/// The number of bytes of a command line or environment that are read.
pub const READ_LIMIT: usize = 128 * 1024;

/// The highest number of characters of a shown command.
pub const SHOWN: usize = 200;

/// Returns a command as people read it: arguments joined by blanks, control characters replaced,
/// at most [`SHOWN`] characters.
///
/// If there is no command line (kernel threads, zombies), returns the name in brackets, as `ps`
/// does.
#[must_use]
pub fn shown(cmdline: &[u8], comm: &[u8]) -> String {
    let mut text = String::new();
    let mut left = SHOWN;
    let mut push = |bytes: &[u8]| {
        // A character has at most four bytes, so this is enough for what is left.
        let bytes = bytes.get(..left * 4).unwrap_or(bytes);
        for character in String::from_utf8_lossy(bytes).chars().take(left) {
            text.push(if character.is_control() { '\u{fffd}' } else { character });
            left -= 1;
        }
    };
    // A shim wipes its worker's arguments, which leaves NULs at the end.
    let end = cmdline.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    let line = cmdline.get(..end).unwrap_or_default();
    if line.is_empty() {
        push(b"[");
        push(comm);
        push(b"]");
    } else {
        for (index, arg) in argv::args(line).take(SHOWN).enumerate() {
            if index > 0 {
                push(b" ");
            }
            push(arg);
        }
    }
    text
}

/// Whether a whole command line is exactly these arguments.
#[must_use]
pub fn equals(cmdline: &[u8], command: &[Vec<u8>]) -> bool {
    !command.is_empty() && argv::args(cmdline).eq(command.iter().map(Vec::as_slice))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn shows_arguments_and_falls_back_to_the_name() {
        assert_eq!(shown(b"sh\0-c\0a b\0", b"sh"), "sh -c a b");
        assert_eq!(shown(b"nginx: master", b"nginx"), "nginx: master");
        assert_eq!(shown(b"", b"kworker"), "[kworker]");
        assert_eq!(shown(b"\0\0\0", b"x"), "[x]");
        assert_eq!(shown(b"leash-shim\0--\0sh\0\0\0\0\0\0\0", b"x"), "leash-shim -- sh");
        assert_eq!(shown(b"a\nb\x1b[31m\xff\0", b"x"), "a\u{fffd}b\u{fffd}[31m\u{fffd}");
    }

    #[test]
    fn two_mebibytes_are_cut_without_a_crash() {
        let huge = vec![b'x'; 2 << 20];
        assert_eq!(shown(&huge, b"x").chars().count(), SHOWN);
        assert_eq!(shown(&vec![b'\0'; 2 << 20], b"x"), "[x]");
        let many: Vec<u8> = b"a\0".repeat(1 << 20);
        assert_eq!(shown(&many, b"x").chars().count(), SHOWN);
    }

    #[test]
    fn equality_is_of_whole_arguments() {
        let command = vec![b"a".to_vec(), b"b c".to_vec()];
        assert!(equals(b"a\0b c\0", &command) && equals(b"a\0b c", &command));
        for other in [&b"a\0b\0c\0"[..], b"a\0b c\0\0", b"a\0", b"", b"a b c\0"] {
            assert!(!equals(other, &command), "{other:?}");
        }
        assert!(!equals(b"", &[]) && !equals(b"\0", &[]));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_the_length_is_bounded(
            cmdline in proptest::collection::vec(any::<u8>(), 0..2000),
            comm in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            prop_assert!(shown(&cmdline, &comm).chars().count() <= SHOWN);
        }
    }
}
