//! Parses `/proc/self/mountinfo` (proc_pid_mountinfo(5)): how much of `/proc` we are shown, and
//! where control groups are.

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

/// Returns each mount of the control groups of version 2: the group at its root, and the mount
/// point.
pub(crate) fn cgroup2(mountinfo: &[u8]) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    mountinfo.split(|&byte| byte == b'\n').filter_map(|line| {
        let mut fields = words(line).skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        // Optional fields end with a single hyphen, which the type follows.
        let kind = fields.skip_while(|&field| field != b"-").nth(1)?;
        (kind == b"cgroup2").then(|| (unescaped(root), unescaped(point)))
    })
}

/// Replaces `\040` and its like, three octal digits, by the byte.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let (mut result, mut rest) = (Vec::with_capacity(field.len()), field);
    while let Some((&byte, more)) = rest.split_first() {
        let octal = more.get(..3).filter(|_| byte == b'\\');
        let octal = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) => {
                result.push(escaped);
                rest = more.get(3..).unwrap_or_default();
            }
            None => {
                result.push(byte);
                rest = more;
            }
        }
    }
    result
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

    #[test]
    fn mounts_of_version_2_are_found_with_their_roots() {
        let text = b"22 1 0:21 / /proc rw shared:5 - proc proc rw\n\
            30 1 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:9 master:1 - cgroup2 cgroup2 rw\n\
            31 1 0:27 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
            32 1 0:26 /a\\134b /mnt/my\\040groups rw - cgroup2 none rw\n33 1\n";
        let found: Vec<_> = cgroup2(text).collect();
        let pair = |root: &[u8], point: &[u8]| (root.to_vec(), point.to_vec());
        assert_eq!(
            found,
            [pair(b"/", b"/sys/fs/cgroup/unified"), pair(b"/a\\b", b"/mnt/my groups")]
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = cgroup2(&text).count();
            let _ = hides_processes(&text, b"/proc");
        }
    }
}
