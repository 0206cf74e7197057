//! A walk over everything below this process, which never signals an unrelated process.
//!
//! A direct child that is not reaped keeps its number, so it can be signalled by that. Any other
//! descendant could end, and its number be used again, between a look and a signal. So it is held
//! by a pidfd, opened by number. Then `stat`, read by number, must name the parent that this
//! process holds, and that parent must not have ended meanwhile. By induction from the direct
//! children, the pidfd holds a descendant.
//!
//! `children` files are exact only for stopped trees (proc(5)), and processes fork meanwhile. So
//! callers walk until `waitid` says that nothing is left.

use rustix::fd::{AsFd, BorrowedFd};
use rustix::process::Pid;

use crate::os::proc_file::Proc;
use crate::os::stat::Stat;
use crate::os::{pidfd, signals};

/// The levels of one walk, three descriptors each. Deeper processes are met once those above them
/// are gone and they have become children of this process.
const MAX_DEPTH: usize = 40;

/// The processes of one walk. A tree that grows during the walk must not keep this process from
/// reaping.
const MAX_VISITS: u32 = 16_384;

/// The order of a walk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// A parent that was stopped forks no more children during the walk.
    ParentsFirst,
    /// If a parent were killed first, its children would be out of this walk's reach.
    ChildrenFirst,
}

/// One process met on a walk.
pub(crate) struct Visited<'a> {
    pid: Pid,
    held: Option<(BorrowedFd<'a>, Stat)>,
}

impl Visited<'_> {
    /// Returns a child of this process, which is not reaped.
    pub(crate) fn child(pid: Pid) -> Self {
        Self { pid, held: None }
    }

    /// Returns the pid. A child of this process keeps its pid, but any other pid may belong to
    /// another process by now.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Returns the pidfd, `None` for a child of this process, which needs none.
    pub(crate) fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.held.as_ref().map(|(fd, _)| fd.as_fd())
    }

    /// Sends signals, in order.
    pub(crate) fn signal_all(&self, signals: &[u8]) {
        for &signal in signals {
            // If the process is gone meanwhile, that is fine. If it may not be signalled, it is
            // found alive at the end.
            let _ = match &self.held {
                Some((fd, _)) => pidfd::signal(*fd, signal),
                None => signals::kill(self.pid, signal),
            };
        }
    }

    /// Returns the `stat` file as it was when the process was identified, or as it is now.
    pub(crate) fn stat(&self, proc: &Proc) -> Option<Stat> {
        match &self.held {
            Some((_, stat)) => Some(*stat),
            None => proc.stat(self.pid).ok(),
        }
    }
}

/// The result of a walk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Walked {
    /// Every process that the lists named was visited.
    All,
    /// The tree is deeper or larger than one walk.
    Part,
    /// The direct children cannot be listed, and no process was visited.
    Nothing,
}

/// The state of one walk.
struct Walk<'a> {
    proc: &'a Proc,
    order: Order,
    visits_left: u32,
    cut: bool,
    visit: &'a mut dyn FnMut(&Visited<'_>),
}

/// Visits every descendant.
pub(crate) fn walk_all(proc: &Proc, order: Order, visit: &mut dyn FnMut(&Visited<'_>)) -> Walked {
    walk(proc, &|_| false, order, MAX_VISITS, visit)
}

/// Visits every descendant, at most `most`, except children that are spared and everything below
/// them.
pub(crate) fn walk(
    proc: &Proc,
    spared: &dyn Fn(Pid) -> bool,
    order: Order,
    most: u32,
    visit: &mut dyn FnMut(&Visited<'_>),
) -> Walked {
    let mut walk = Walk { proc, order, visits_left: most, cut: false, visit };
    let listed = proc.each_own_child(&mut |pid| {
        if walk.visits_left == 0 || spared(pid) {
            return;
        }
        // The child is an unreaped one of this process, so its number cannot be reused. Only the
        // walk below it needs a pidfd. If no descriptor is left, the child itself must still be
        // visited.
        let visited = Visited::child(pid);
        walk.visit_with_subtree(&visited, |walk| {
            if let Ok(fd) = pidfd::open(pid) {
                walk.visit_below(pid, fd.as_fd(), 1);
            } else {
                walk.cut = true;
            }
        });
    });
    match (listed, walk.cut) {
        (Err(_), _) => Walked::Nothing,
        (Ok(()), true) => Walked::Part,
        (Ok(()), false) => Walked::All,
    }
}

/// Visits every descendant of a process that is held by its pidfd. They may not be children of
/// this process, so each of them comes with a pidfd.
pub(crate) fn walk_below(
    proc: &Proc,
    (pid, fd): (Pid, BorrowedFd<'_>),
    order: Order,
    visit: &mut dyn FnMut(&Visited<'_>),
) -> Walked {
    let mut walk = Walk { proc, order, visits_left: MAX_VISITS, cut: false, visit };
    walk.visit_below(pid, fd, 0);
    if walk.cut { Walked::Part } else { Walked::All }
}

impl Walk<'_> {
    /// Visits a process before or after everything below it.
    fn visit_with_subtree(&mut self, visited: &Visited<'_>, below: impl FnOnce(&mut Self)) {
        let Some(left) = self.visits_left.checked_sub(1) else {
            self.cut = true;
            return;
        };
        self.visits_left = left;
        if self.order == Order::ParentsFirst {
            (self.visit)(visited);
        }
        below(self);
        if self.order == Order::ChildrenFirst {
            (self.visit)(visited);
        }
    }

    /// Visits everything below a process that is held by its pidfd.
    fn visit_below(&mut self, parent: Pid, parent_fd: BorrowedFd<'_>, depth: usize) {
        if depth >= MAX_DEPTH || self.visits_left == 0 {
            self.cut = true;
            return;
        }
        let proc = self.proc;
        // Every thread has a list of its own.
        let _ = proc.each_thread(parent, &mut |thread| {
            let _ = proc.each_child_of(parent, thread, &mut |pid| {
                let Ok(fd) = pidfd::open(pid) else {
                    return;
                };
                let Ok(stat) = proc.stat(pid) else { return };
                if stat.ppid != parent.as_raw_pid() || pidfd::has_ended(parent_fd) {
                    return;
                }
                let visited = Visited { pid, held: Some((fd.as_fd(), stat)) };
                self.visit_with_subtree(&visited, |walk| {
                    walk.visit_below(pid, fd.as_fd(), depth + 1)
                });
            });
        });
    }
}
