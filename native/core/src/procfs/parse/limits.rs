//! Parses `/proc/<pid>/limits`. Every user can read it (0444), for other users' processes and
//! zombies too.

use crate::procfs::text::{decimal, words};
use leash_tag::Limits;

/// The line "Max file locks", `RLIMIT_LOCKS`.
#[must_use]
pub fn file_locks(text: &[u8]) -> Option<Limits> {
    let line = text
        .split(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(b"Max file locks"))?;
    let mut values = words(line);
    Some(Limits { soft: value(values.next()?)?, hard: value(values.next()?)? })
}

fn value(word: &[u8]) -> Option<u64> {
    match word {
        b"unlimited" => Some(u64::MAX),
        number => decimal(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_the_kernels_file() {
        let text = std::fs::read("/proc/self/limits").unwrap();
        let ours = crate::os::syscalls::file_lock_limits(crate::os::pid::Pid::current()).unwrap();
        assert_eq!(file_locks(&text), Some(ours));
    }

    #[test]
    fn numbers_unlimited_and_nonsense() {
        let read = |line: &str| file_locks(format!("Limit\n{line}\nMax x 1 2\n").as_bytes());
        assert_eq!(
            read("Max file locks            5495798998463051920 unlimited            locks     "),
            Some(Limits { soft: 5_495_798_998_463_051_920, hard: u64::MAX })
        );
        for line in [
            "Max file locks",
            "Max file locks 1",
            "Max file locks -1 1",
            "Max file locks x y",
            "Max 1 2",
        ] {
            assert_eq!(read(line), None, "{line}");
        }
        assert_eq!(read("Max file locks 18446744073709551616 1"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = file_locks(&text);
        }

        #[test]
        fn every_pair_round_trips(soft: u64, hard: u64) {
            let text = format!("Max file locks            {soft:<20} {hard:<20} locks\n");
            prop_assert_eq!(file_locks(text.as_bytes()), Some(Limits { soft, hard }));
        }
    }
}
