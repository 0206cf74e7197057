//! Children that are not of the worker's tree: the program that exec'ed this one had them before.
//!
//! They are neither signalled nor waited for. The same holds for the processes that they leave to
//! the shim, the subreaper, when they end. A process of the tree carries the shim's mark or, in a
//! nested run, a lower one. A process that an inherited child forks still has the higher limit
//! that the shim had before.

use rustix::io::Errno;
use rustix::process::Pid;

use crate::proc_file::Proc;
use crate::sys;
use crate::tree::{self, Met, Order, Walked};

/// The children that must not be touched.
pub(crate) struct Foreign {
    present: bool,
    pids: [i32; Self::MAX],
    len: usize,
    /// The shim's own hard limit, if it is a mark.
    mark: Option<u64>,
}

impl Foreign {
    /// As many as fit without the cost of a page.
    const MAX: usize = 64;

    /// Looks for children. It is called before there is a worker.
    ///
    /// # Errors
    ///
    /// `ECHILD` for more than can be remembered: starting a worker would mean to end some of them
    /// with it. Other errors mean that a worker could not be waited for here.
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

    /// Returns whether there ever were any.
    pub(crate) fn present(&self) -> bool {
        self.present
    }

    /// Returns whether a direct child is foreign.
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

    /// Forgets a child that was reaped, since its number may become a descendant's.
    pub(crate) fn forget(&mut self, pid: Pid) {
        for place in self.pids.iter_mut().filter(|place| **place == pid.as_raw_pid()) {
            *place = 0;
        }
    }
}
