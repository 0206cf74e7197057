//! The identity of one process, and not of the next process with its number.

use crate::os::pid::Pid;
use serde::Serialize;

/// Number, start and, where the kernel has it, the pidfs inode of a process.
///
/// The start counts ticks of 10 ms, so a number that is reused within one tick would pass. The
/// inode, which Linux 6.9 brought, never repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Identity {
    /// The number.
    pub pid: Pid,
    /// Field 22 of `/proc/<pid>/stat`, as the machine's own clock counts it.
    pub start_ticks: u64,
    /// The inode of its pidfd.
    pub pidfs_inode: Option<u64>,
}

impl Identity {
    /// The start of a process that `/proc` hides, because nothing tells the real one.
    ///
    /// No process has this start, and it is no age. A hidden process counts as older than
    /// nothing.
    pub const UNKNOWN_START: u64 = u64::MAX;

    /// The start, if it is known.
    #[must_use]
    pub fn known_start(&self) -> Option<u64> {
        (self.start_ticks != Self::UNKNOWN_START).then_some(self.start_ticks)
    }

    /// Whether both are the same process. The inode decides only if both have one.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        let inodes = match (self.pidfs_inode, other.pidfs_inode) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        self.pid == other.pid && self.start_ticks == other.start_ticks && inodes
    }
}
