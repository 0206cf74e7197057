//! Children that are not of the worker's tree: whoever exec'ed this program had them before.
//!
//! They are neither signalled nor waited for, and neither is what they leave to us, the subreaper, when they
//! end. A process of the tree carries our mark or, in a nested run, a lower one; what an inherited child
//! forks still has the higher limit that we had before.

use rustix::io::Errno;
use rustix::process::Pid;

use crate::proc_file::Proc;
use crate::sys;
use crate::tree::{self, Met, Order, Walked};

/// Whom not to touch.
pub(crate) struct Foreign {
    present: bool,
    pids: [i32; Self::MAX],
    len: usize,
    /// Our own hard limit, where it is a mark.
    mark: Option<u64>,
}

impl Foreign {
    /// As many as fit without costing a page.
    const MAX: usize = 64;

    /// Looks for children; called before there is a worker.
    ///
    /// # Errors
    ///
    /// `ECHILD` for more than can be remembered: starting a worker would mean to end some of them with it. Otherwise nobody could
    /// wait for a worker here.
    pub(crate) fn find(proc: Option<&Proc>, mark: Option<u64>) -> Result<Self, Errno> {
        let present = sys::has_children()?;
        let mut found = Self { present, pids: [0; Self::MAX], len: 0, mark };
        if !present {
            return Ok(found);
        }
        let mut missed = false;
        let mut note = |pid: Pid| match found.pids.get_mut(found.len) {
            Some(place) => {
                *place = pid.as_raw_pid();
                found.len += 1;
            }
            None => missed = true,
        };
        match proc {
            Some(proc) if proc.each_own_child(&mut note).is_ok() => {}
            _ => sys::each_child_by_number(&mut note),
        }
        if missed { Err(Errno::CHILD) } else { Ok(found) }
    }

    /// Whether there ever were any.
    pub(crate) fn present(&self) -> bool {
        self.present
    }

    /// Whether a direct child is none of ours.
    pub(crate) fn includes(&self, proc: Option<&Proc>, pid: Pid) -> bool {
        if !self.present {
            return false;
        }
        let known = self.pids.get(..self.len).unwrap_or_default().contains(&pid.as_raw_pid());
        known
            || match (self.mark, proc.and_then(|proc| proc.hard_locks_limit(pid))) {
                (Some(ours), Some(theirs)) => theirs > ours,
                _ => false,
            }
    }

    /// Visits every descendant that is not foreign.
    pub(crate) fn walk(
        &self,
        proc: &Proc,
        order: Order,
        visit: &mut dyn FnMut(&Met<'_>),
    ) -> Walked {
        tree::walk(proc, &|pid| self.includes(Some(proc), pid), order, tree::MAX_VISITS, visit)
    }

    /// Forgets a child that was reaped: its number may become a descendant's.
    pub(crate) fn forget(&mut self, pid: Pid) {
        for place in self.pids.iter_mut().filter(|place| **place == pid.as_raw_pid()) {
            *place = 0;
        }
    }
}
