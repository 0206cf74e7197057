//! `/proc/<pid>/stat` (proc(5)).

use super::text::number;

/// The fields of `/proc/<pid>/stat` that the shim needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// The letter of its state.
    pub(crate) state: u8,
    /// The parent, 0 for one of another pid namespace.
    pub(crate) ppid: i32,
    /// The process group.
    pub(crate) pgrp: i32,
    /// It has no program and cannot be signalled.
    pub(crate) kernel_thread: bool,
    /// The start in clock ticks since boot, which tells two processes of one number apart.
    pub(crate) start_ticks: u64,
}

impl Stat {
    /// include/linux/sched.h
    const PF_KTHREAD: u64 = 0x0020_0000;

    /// Parses the file. The name in field 2 may hold anything, so the last parenthesis ends it
    /// (proc(5)).
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let close = text.iter().rposition(|&byte| byte == b')')?;
        let mut fields = text.get(close.saturating_add(2)..)?.split(|&byte| byte == b' ');
        let state = *fields.next()?.first()?;
        let ppid = number(fields.next()?)?;
        let pgrp = number(fields.next()?)?;
        // Fields 3, 4 and 5 are read; 9 and 22 follow.
        let kernel_thread = number::<u64>(fields.nth(3)?)? & Self::PF_KTHREAD != 0;
        let start_ticks = number(fields.nth(12)?)?;
        Some(Self { state, ppid, pgrp, kernel_thread, start_ticks })
    }

    /// Returns whether the process can still run. A leader shown as `Z` counts as dead here, even
    /// if its other threads live. Its tree is not gone before `waitid` says so.
    pub(crate) fn lives(self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x')
    }

    /// Returns whether the process waits in the kernel and reacts to no signal.
    pub(crate) fn blocked(self) -> bool {
        self.state == b'D'
    }

    /// Returns whether the process is stopped, by a signal or a tracer.
    pub(crate) fn stopped(self) -> bool {
        matches!(self.state, b'T' | b't')
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TAIL: &str = " 4242 4243 4242 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 10 20";

    #[test]
    fn the_name_may_hold_anything() {
        for name in ["sleep", "a) R 1 (b", "", "x\ny", "((("] {
            let text = std::format!("17 ({name}) S{TAIL}");
            let stat = Stat::parse(text.as_bytes()).unwrap();
            let expected = Stat {
                state: b'S',
                ppid: 4242,
                pgrp: 4243,
                kernel_thread: false,
                start_ticks: 987_654,
            };
            assert_eq!(stat, expected);
        }
        assert_eq!(Stat::parse(b"17 (cut"), None);
        assert_eq!(Stat::parse(b"17 (cut)"), None);
        assert_eq!(Stat::parse(b"17 (cut) S 1 2"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Stat::parse(&bytes);
        }

        #[test]
        fn no_tail_panics(tail in "[ -~]{0,80}") {
            let _ = Stat::parse(std::format!("1 (x){tail}").as_bytes());
        }
    }
}
