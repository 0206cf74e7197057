//! Parses `/proc/<pid>/status`: the user ids, and what may change them or pass over limits.

use crate::os::user_ids::Uids;
use crate::procfs::text::words;
use leash_tag::parse_number;

/// Parses the line "Uid:".
#[must_use]
pub fn uids(text: &[u8]) -> Option<Uids> {
    ids(field(text, b"Uid:")?)
}

/// Whether a process and everything that it starts keep their user and group for ever.
///
/// `no_new_privs` is inherited and never taken back. With it, exec heeds neither set-id bits nor
/// capabilities of files (prctl(2)). Without a capability, a process can change an id only to
/// another one of its own three.
#[must_use]
pub fn keeps_ids(text: &[u8]) -> bool {
    let is_one =
        |name: &[u8]| field(text, name).and_then(ids).is_some_and(|ids| ids.are(ids.real));
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
    Some(capabilities(text, set)? >> SYS_RESOURCE & 1 == 1)
}

/// Parses a capability set of a process, such as `CapEff:`. Bit n stands for the capability of
/// number n.
#[must_use]
pub fn capabilities(text: &[u8], set: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(field(text, set)?.trim_ascii()).ok()?;
    u64::from_str_radix(digits, 16).ok()
}

fn ids(line: &[u8]) -> Option<Uids> {
    let mut ids = words(line).map(parse_number::<u32>);
    Some(Uids { real: ids.next()??, effective: ids.next()??, saved: ids.next()?? })
}

fn field<'a>(text: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    text.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::pid::Pid;
    use crate::os::pidfd::PidFd;
    use proptest::prelude::*;
    use std::process::Command;
    use std::time::{Duration, Instant};

    #[test]
    fn reads_the_kernels_file() {
        let uids = uids(&std::fs::read("/proc/self/status").unwrap()).unwrap();
        assert_eq!(uids.effective, rustix::process::geteuid().as_raw());
    }

    #[test]
    fn a_pidfd_tells_the_ids_that_the_file_tells() {
        // Three ids where that is permitted; exec sets the saved one to the effective.
        let mut command = Command::new("setpriv");
        if rustix::process::geteuid().is_root() {
            command.args(["--ruid=65534", "--euid=65533", "--clear-groups"]);
        }
        let mut child = command.args(["sleep", "60"]).spawn().unwrap();
        let status = || std::fs::read(format!("/proc/{}/status", child.id())).unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        let begun = || status().starts_with(b"Name:\tsleep\n");
        while !begun() && Instant::now() < end {
            std::thread::yield_now();
        }
        let begun = begun();
        let told = PidFd::open(Pid::from_u32(child.id()).unwrap()).unwrap().uids();
        let read = uids(&status());
        let _ = child.kill();
        let _ = child.wait();
        assert!(begun && read.is_some());
        match told {
            None => println!("skipped: no PIDFD_GET_INFO here"),
            told => assert_eq!(told, read),
        }
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
