//! Small files of `/proc`, read into a caller's buffer.

use core::fmt::{self, Write};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Pid;

/// A path under `/proc`, on the stack.
pub(crate) struct Path {
    bytes: [u8; 64],
    len: usize,
}

impl Path {
    pub(crate) fn new(text: fmt::Arguments<'_>) -> Self {
        let mut path = Self { bytes: [0; 64], len: 0 };
        // Only numbers vary, so it always fits; were it cut, opening it would fail.
        let _ = path.write_fmt(text);
        path
    }

    pub(crate) fn open(&self) -> Result<OwnedFd, Errno> {
        let name = self.bytes.get(..self.len).unwrap_or_default();
        rustix::fs::open(name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    }
}

impl Write for Path {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let place = self.bytes.get_mut(self.len..self.len + text.len()).ok_or(fmt::Error)?;
        place.copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}

/// What is needed of `/proc/<pid>/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) state: u8,
    pub(crate) ppid: i32,
    pub(crate) pgrp: i32,
    pub(crate) start_ticks: u64,
}

impl Stat {
    pub(crate) fn read(pid: Pid) -> Result<Self, Errno> {
        let file = Path::new(format_args!("/proc/{}/stat", pid.as_raw_pid())).open()?;
        let mut buffer = [0u8; 512];
        let len = rustix::io::read(&file, &mut buffer)?;
        Self::parse(buffer.get(..len).unwrap_or_default()).ok_or(Errno::INVAL)
    }

    /// The name in field 2 may hold anything, so the last parenthesis ends it (proc(5)).
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let close = text.iter().rposition(|&byte| byte == b')')?;
        let mut fields = text.get(close + 2..)?.split(|&byte| byte == b' ');
        let state = *fields.next()?.first()?;
        let ppid = number(fields.next()?)?;
        let pgrp = number(fields.next()?)?;
        // Fields 3, 4 and 5 are read; 22 is the start.
        let start_ticks = number(fields.nth(16)?)?;
        Some(Self { state, ppid: i32::try_from(ppid).ok()?, pgrp: i32::try_from(pgrp).ok()?, start_ticks })
    }

    /// Whether it can still run; a leader shown `Z` whose other threads live counts as dead here, but its
    /// tree is not gone before `waitid` says so.
    pub(crate) fn lives(self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x')
    }
}

pub(crate) fn number(text: &[u8]) -> Option<u64> {
    core::str::from_utf8(text).ok()?.trim_end().parse().ok()
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
            assert_eq!((stat.state, stat.ppid, stat.pgrp, stat.start_ticks), (b'S', 4242, 4243, 987_654));
        }
    }

    #[test]
    fn reads_this_process() {
        let pid = rustix::process::getpid();
        let stat = Stat::read(pid).unwrap();
        assert!(stat.lives());
        assert_eq!(Some(stat.ppid), rustix::process::getppid().map(Pid::as_raw_pid));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Stat::parse(&bytes);
        }
    }
}
