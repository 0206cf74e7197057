//! `/proc/<pid>/status`: the user ids.

use super::{decimal, words};

/// The user ids of a process, as the reader's user namespace sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uids {
    /// Who started it.
    pub real: u32,
    /// Whose rights it has.
    pub effective: u32,
    /// What it may switch back to.
    pub saved: u32,
}

/// The line "Uid:".
#[must_use]
pub fn uids(text: &[u8]) -> Option<Uids> {
    let line = text.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"Uid:"))?;
    let mut ids = words(line).map(|word| decimal(word).and_then(|id| u32::try_from(id).ok()));
    Some(Uids { real: ids.next()??, effective: ids.next()??, saved: ids.next()?? })
}

/// The capability set of a line such as `CapBnd`, as bits (capabilities(7)).
#[must_use]
pub fn capabilities(text: &[u8], set: &[u8]) -> Option<u64> {
    let digits =
        text.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(set)?.strip_prefix(b":"))?;
    u64::from_str_radix(std::str::from_utf8(digits.trim_ascii()).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_the_kernels_file() {
        let uids = uids(&std::fs::read("/proc/self/status").unwrap()).unwrap();
        assert_eq!(uids.effective, rustix::process::geteuid().as_raw());
    }

    #[test]
    fn a_name_that_looks_like_the_line_does_not_pass() {
        // The kernel escapes newlines in Name, so a line begins with Uid: once.
        let text = b"Name:\tUid:\t1 2 3\\nUid:\t0\nUid:\t1000\t1001\t1002\t1003\n";
        assert_eq!(uids(text), Some(Uids { real: 1000, effective: 1001, saved: 1002 }));
        assert_eq!(uids(b"Uid:\t1\t2\n"), None);
        assert_eq!(uids(b"Uid:\t-1\t2\t3\n"), None);
        assert_eq!(uids(b"Uid:\t4294967296\t2\t3\n"), None);
    }

    #[test]
    fn capability_sets_are_hexadecimal() {
        let text = b"CapEff:\t0000000000000000\nCapBnd:\t000001fffeffffff\n";
        assert_eq!(capabilities(text, b"CapBnd"), Some(0x1ff_feff_ffff));
        assert_eq!(capabilities(text, b"CapEff"), Some(0));
        assert_eq!(capabilities(text, b"CapAmb"), None);
        assert_eq!(capabilities(b"CapBnd:\tx\n", b"CapBnd"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = uids(&text);
            let _ = capabilities(&text, b"CapBnd");
        }
    }
}
