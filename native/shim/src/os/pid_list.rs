//! A list of children's pids.
#![allow(unsafe_code)]

use rustix::io::Errno;
use rustix::mm::MapFlags;
use rustix::process::Pid;

use super::mapping::Mapping;

/// A list of children's pids, in memory of its own.
pub(crate) struct PidList {
    memory: Mapping,
    len: usize,
}

impl PidList {
    /// Twice the number of worker numbers, since children that have ended are in the list until
    /// they are reaped.
    const MAX: usize = 65_536;

    /// Maps the memory.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self, Errno> {
        let memory = Mapping::new(Self::MAX * size_of::<i32>(), MapFlags::NORESERVE)?;
        Ok(Self { memory, len: 0 })
    }

    /// Returns all places, in use or not.
    fn places(&mut self) -> &mut [i32] {
        // SAFETY: mapped, zero as the kernel gave it or written, and used by this value alone.
        unsafe { core::slice::from_raw_parts_mut(self.memory.at(0), Self::MAX) }
    }

    /// Returns the pids in the list.
    pub(crate) fn all(&self) -> &[i32] {
        // SAFETY: as in `places`; never longer than MAX.
        unsafe { core::slice::from_raw_parts(self.memory.at(0), self.len) }
    }

    /// Returns whether a child is in the list.
    pub(crate) fn has(&self, pid: Pid) -> bool {
        self.all().contains(&pid.as_raw_pid())
    }

    /// Adds a child, if there is room.
    pub(crate) fn add(&mut self, pid: Pid) {
        let len = self.len;
        if let Some(place) = self.places().get_mut(len) {
            *place = pid.as_raw_pid();
            self.len += 1;
        }
    }

    /// Drops the pids that came last, down to this length.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Removes a child. Returns whether it was in the list.
    pub(crate) fn remove(&mut self, pid: Pid) -> bool {
        let index = self.all().iter().position(|&number| number == pid.as_raw_pid());
        if let Some(index) = index {
            self.len -= 1;
            let last = self.len;
            self.places().swap(index, last);
        }
        index.is_some()
    }
}
