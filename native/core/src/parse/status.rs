//! Parses `/proc/<pid>/status`: the user ids, and what may change them or pass over limits.

use super::{decimal, words};

/// The user ids of a process, as the reader's user namespace sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uids {
    /// The user that started the process.
    pub real: u32,
    /// The user whose rights the process has.
    pub effective: u32,
    /// The user that the process may switch back to.
    pub saved: u32,
}

impl Uids {
    /// Whether all three are this user's.
    ///
    /// A set-id program has two users' ids. Its arguments and environment come from the user that
    /// started it.
    #[must_use]
    pub fn are(self, uid: u32) -> bool {
        [self.real, self.effective, self.saved] == [uid; 3]
    }

    fn parse(line: &[u8]) -> Option<Self> {
        let mut ids = words(line).map(|word| decimal(word).and_then(|id| u32::try_from(id).ok()));
        Some(Self { real: ids.next()??, effective: ids.next()??, saved: ids.next()?? })
    }
}

/// Parses the line "Uid:".
#[must_use]
pub fn uids(text: &[u8]) -> Option<Uids> {
    Uids::parse(field(text, b"Uid:")?)
}

/// Whether a process and everything that it starts keep their user and group for ever.
///
/// `no_new_privs` is inherited and never taken back. With it, exec heeds neither set-id bits nor
/// capabilities of files (prctl(2)). Without a capability, a process can change an id only to
/// another one of its own three.
#[must_use]
pub fn keeps_ids(text: &[u8]) -> bool {
    let is_one = |name: &[u8]| {
        field(text, name).and_then(Uids::parse).is_some_and(|ids| ids.are(ids.real))
    };
    let says = |name: &[u8], is: fn(&u8) -> bool| {
        field(text, name).is_some_and(|value| value.trim_ascii().iter().all(is))
    };
    is_one(b"Uid:")
        && is_one(b"Gid:")
        && says(b"NoNewPrivs:", |&byte| byte == b'1')
        && says(b"CapPrm:", |&byte| byte == b'0')
}

/// Whether a capability set of a process, such as `CapEff:`, has CAP_SYS_RESOURCE
/// (capabilities(7)). Returns `None` if the file does not say.
#[must_use]
pub fn has_sys_resource(text: &[u8], set: &[u8]) -> Option<bool> {
    const SYS_RESOURCE: u32 = 24;
    let digits = std::str::from_utf8(field(text, set)?.trim_ascii()).ok()?;
    Some(u64::from_str_radix(digits, 16).ok()? >> SYS_RESOURCE & 1 == 1)
}

fn field<'a>(text: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    text.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(name))
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
    fn ids_are_kept_where_no_exec_and_no_capability_changes_them() {
        let kept =
            "Uid:\t7\t7\t7\t7\nGid:\t8\t8\t8\t8\nCapPrm:\t0000000000000000\nNoNewPrivs:\t1\n";
        assert!(keeps_ids(kept.as_bytes()));
        for (line, other) in [
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0"),
            ("NoNewPrivs:\t1\n", ""),
            ("CapPrm:\t0000000000000000", "CapPrm:\t0000000000000080"),
            ("Uid:\t7\t7\t7", "Uid:\t7\t7\t9"),
            ("Gid:\t8\t8", "Gid:\t8\t9"),
        ] {
            assert!(!keeps_ids(kept.replace(line, other).as_bytes()), "{other}");
        }
    }

    #[test]
    fn the_capability_is_one_bit() {
        let has =
            |set: &str| has_sys_resource(format!("CapBnd:\t{set}\n").as_bytes(), b"CapBnd:");
        assert_eq!(has("0000000001000000"), Some(true));
        assert_eq!(has("000001fffeffffff"), Some(false));
        assert_eq!((has("x"), has_sys_resource(b"CapBnd:\t0\n", b"CapEff:")), (None, None));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = (uids(&text), keeps_ids(&text), has_sys_resource(&text, b"CapEff:"));
        }
    }
}
