//! Parses `/proc/self/mountinfo` (proc_pid_mountinfo(5)): how much of `/proc` we are shown.

use crate::procfs::text::words;

/// Whether the last mount on `mount_point` hides other users' processes (`hidepid`,
/// `subset=pid`).
///
/// Returns `None` if nothing is mounted there.
#[must_use]
pub fn hides_processes(mountinfo: &[u8], mount_point: &[u8]) -> Option<bool> {
    mountinfo
        .split(|&byte| byte == b'\n')
        .filter(|line| words(line).nth(4) == Some(mount_point))
        .filter_map(|line| words(line).last())
        .map(|options| options.split(|&byte| byte == b',').any(hides))
        .next_back()
}

fn hides(option: &[u8]) -> bool {
    option.strip_prefix(b"hidepid=").is_some_and(|level| !matches!(level, b"0" | b"off"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_last_mount_counts() {
        let line = |options: &str| {
            format!("22 1 0:21 / /proc rw,relatime shared:5 - proc proc {options}\n")
        };
        let hidden = |text: String| hides_processes(text.as_bytes(), b"/proc");
        assert_eq!(hidden(line("rw")), Some(false));
        assert_eq!(hidden(line("rw,hidepid=0")), Some(false));
        for options in [
            "rw,hidepid=1",
            "rw,hidepid=invisible",
            "rw,gid=4,hidepid=2",
            "hidepid=ptraceable,subset=pid",
        ] {
            assert_eq!(hidden(line(options)), Some(true), "{options}");
        }
        assert_eq!(hidden(line("rw,hidepid=2") + &line("rw")), Some(false));
        assert_eq!(hidden(String::new()), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = hides_processes(&text, b"/proc");
        }
    }
}
