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

use core::mem::MaybeUninit;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::RawDir;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

use crate::proc_file::{Path, Proc, Stat, number};
use crate::sys;

/// The levels of one walk, three descriptors each. Deeper processes are met once those above them
/// are gone and they have become children of this process.
const MAX_DEPTH: usize = 40;

/// The processes of one walk. A tree that grows during the walk must not keep this process from
/// reaping.
pub(crate) const MAX_VISITS: u32 = 16_384;

/// The order of a walk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// A parent that was stopped forks no more children during the walk.
    ParentsFirst,
    /// If a parent were killed first, its children would be out of this walk's reach.
    ChildrenFirst,
}

/// One process met on a walk.
pub(crate) struct Met<'a> {
    pid: Pid,
    held: Option<(BorrowedFd<'a>, Stat)>,
}

impl Met<'_> {
    /// Returns the pid. A child of this process keeps its pid, but any other pid may belong to
    /// another process by now.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Returns the pidfd, `None` for a child of this process, which needs none.
    pub(crate) fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.held.as_ref().map(|(fd, _)| fd.as_fd())
    }

    pub(crate) fn signal(&self, signal: u8) {
        // If the process is gone meanwhile, that is fine. If it may not be signalled, it is found
        // alive at the end.
        let _ = match &self.held {
            Some((fd, _)) => sys::pidfd_signal(*fd, signal),
            None => sys::kill(self.pid, signal),
        };
    }

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

struct Walk<'a> {
    proc: &'a Proc,
    order: Order,
    visits_left: u32,
    cut: bool,
    visit: &'a mut dyn FnMut(&Met<'_>),
}

/// Visits every descendant, at most `most`, except children that are spared and everything below
/// them.
pub(crate) fn walk(
    proc: &Proc,
    spared: &dyn Fn(Pid) -> bool,
    order: Order,
    most: u32,
    visit: &mut dyn FnMut(&Met<'_>),
) -> Walked {
    let mut walk = Walk { proc, order, visits_left: most, cut: false, visit };
    let listed = proc.each_own_child(&mut |pid| {
        if walk.visits_left == 0 || spared(pid) {
            return;
        }
        // The child is an unreaped one of this process, so its number cannot be reused. Only the
        // walk below it needs a pidfd. If no descriptor is left, the child itself must still be
        // visited.
        let met = Met { pid, held: None };
        walk.around(&met, |walk| {
            if let Ok(fd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
                walk.below(pid, fd.as_fd(), 1);
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
    visit: &mut dyn FnMut(&Met<'_>),
) -> Walked {
    let mut walk = Walk { proc, order, visits_left: MAX_VISITS, cut: false, visit };
    walk.below(pid, fd, 0);
    if walk.cut { Walked::Part } else { Walked::All }
}

impl Walk<'_> {
    fn around(&mut self, met: &Met<'_>, below: impl FnOnce(&mut Self)) {
        let Some(left) = self.visits_left.checked_sub(1) else {
            self.cut = true;
            return;
        };
        self.visits_left = left;
        if self.order == Order::ParentsFirst {
            (self.visit)(met);
        }
        below(self);
        if self.order == Order::ChildrenFirst {
            (self.visit)(met);
        }
    }

    fn below(&mut self, parent: Pid, parent_fd: BorrowedFd<'_>, depth: usize) {
        if depth >= MAX_DEPTH || self.visits_left == 0 {
            self.cut = true;
            return;
        }
        let proc = self.proc;
        // Every thread has a list of its own.
        let _ = each_thread(proc, parent, &mut |thread| {
            let _ = proc.each_child_of(parent, thread, &mut |pid| {
                let Ok(fd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
                    return;
                };
                let Ok(stat) = proc.stat(pid) else { return };
                if stat.ppid != parent.as_raw_pid() || ended(parent_fd) {
                    return;
                }
                let met = Met { pid, held: Some((fd.as_fd(), stat)) };
                self.around(&met, |walk| walk.below(pid, fd.as_fd(), depth + 1));
            });
        });
    }
}

/// Returns whether all threads of a process have ended, reaped or not.
pub(crate) fn ended(pidfd: BorrowedFd<'_>) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    !matches!(rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&now)), Ok(0))
}

/// The state of a process's threads, all of them taken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Threads {
    /// All have ended.
    Ended,
    /// Those that live are stopped.
    Stopped,
    /// One waits in the kernel and reacts to no signal, and none runs.
    Blocked,
    /// One may run, or be in the middle of a fork.
    Run,
}

/// Looks at each thread by itself. The first one may have ended while others go on, or be stopped
/// while another still forks.
pub(crate) fn threads(proc: &Proc, process: Pid) -> Threads {
    let gone = |errno| matches!(errno, Errno::SRCH | Errno::NOENT);
    let mut all = Threads::Ended;
    let listed = each_thread(proc, process, &mut |thread| {
        all = all.max(match proc.stat_of_thread(process, thread) {
            Ok(stat) if !stat.lives() => Threads::Ended,
            Ok(stat) if stat.stopped() => Threads::Stopped,
            Ok(stat) if stat.blocked() => Threads::Blocked,
            Err(errno) if gone(errno) => Threads::Ended,
            _ => Threads::Run,
        });
    });
    match listed {
        Err(errno) if !gone(errno) => Threads::Run,
        _ => all,
    }
}

fn each_thread(proc: &Proc, process: Pid, visit: &mut dyn FnMut(i32)) -> Result<(), Errno> {
    let path = Path::new().number(process.as_raw_pid()).add(b"/task");
    let directory = proc.open_file(&path)?;
    let mut buffer = [MaybeUninit::<u8>::uninit(); 512];
    let mut entries = RawDir::new(&directory, &mut buffer);
    while let Some(Ok(entry)) = entries.next() {
        let name = entry.file_name().to_bytes();
        if let Some(thread) = number(name).and_then(|thread| i32::try_from(thread).ok()) {
            visit(thread);
        }
    }
    Ok(())
}
