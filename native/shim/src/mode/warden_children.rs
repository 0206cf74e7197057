//! The children of a warden: the shims that it started, and the orphans that a killed shim leaves
//! to it, the subreaper.
//!
//! A shim that ends by itself leaves nothing. So every other child was left by a killed shim, and
//! the warden ends it. The warden goes by descent, which no process can shed, and does not look
//! at the mark. Only processes that outlive their VM on purpose are spared.
//!
//! A child that is not reaped keeps its pid, so signals by pid are safe here.

use leash_tag::{Mark, signal};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::SendFlags;
use rustix::process::Pid;

use crate::os::exit_status::ExitStatus;
use crate::os::pid_list::PidList;
use crate::os::proc_file::Proc;
use crate::os::wait::{self, Waited};
use crate::os::{clock, mark_limits, signals};
use crate::stop::ladder::{STOP_FIRST_AFTER, pause_after};
use crate::tree::walk::{self, Order, Walked};

/// The most children reaped in one go: some 10 ms.
const BOUND: u32 = 16_384;

/// The most processes that one pass signals. A start that is asked for meanwhile waits no longer
/// than that takes.
const VISITS: u32 = 256;

/// Exit status of a shim that failed itself, and may have left its tree.
const OWN_FAILURE: u8 = 125;

/// Passes after which the warden stops waiting for what is left: some 2 seconds.
const VAIN_PASSES: u32 = 65;

/// The most descriptors that can wait for word at a time.
const WAITING: usize = 32;

/// The children of a warden.
pub(crate) struct WardenChildren {
    /// The shims that were started and are not reaped.
    shims: PidList,
    /// Processes that lost their shim and outlive their VM on purpose.
    outliving: PidList,
    /// The time of the next pass over the orphans, and the number of passes so far; `None` if
    /// there are no orphans.
    orphans: Option<(u64, u32)>,
    /// The last round of reaping reached its bound.
    more: bool,
    /// The descriptors on which the VM wants word.
    waiting: [Option<OwnedFd>; WAITING],
}

impl WardenChildren {
    /// Maps the lists. They cost only the part in use.
    pub(crate) fn new() -> Result<Self, Errno> {
        Ok(Self {
            shims: PidList::new()?,
            outliving: PidList::new()?,
            orphans: None,
            more: false,
            waiting: [const { None }; WAITING],
        })
    }

    /// Adds a shim.
    pub(crate) fn started(&mut self, pid: Pid) {
        self.shims.add(pid);
    }

    /// Returns whether anything is left that does not outlive its VM on purpose.
    pub(crate) fn any(&self) -> bool {
        let ends = |&pid: &i32| Pid::from_raw(pid).is_some_and(|pid| !outlives(pid));
        self.orphans.is_some() || self.shims.all().iter().any(ends)
    }

    /// Sends word on `fd` once no orphan is left. If too many descriptors wait, or the passes
    /// have been in vain for long, `fd` is closed without word.
    pub(crate) fn notify_when_clear(&mut self, fd: OwnedFd) {
        if self.orphans.is_none() {
            notify(&fd);
        } else if self.is_vain() {
            drop(fd);
        } else if let Some(place) = self.waiting.iter_mut().find(|place| place.is_none()) {
            *place = Some(fd);
        }
    }

    /// Returns whether the passes have found orphans for so long that no word will come.
    fn is_vain(&self) -> bool {
        self.orphans.is_some_and(|(_, passes)| passes > VAIN_PASSES)
    }

    /// Returns when to call [`WardenChildren::end_orphans`] next.
    pub(crate) fn due(&self) -> Option<u64> {
        if self.more { Some(0) } else { self.orphans.map(|(at, _)| at) }
    }

    /// Reaps the children that have ended. Returns whether there may be more.
    pub(crate) fn reap(&mut self, proc: Option<&Proc>) -> bool {
        let mut lost_outliving = false;
        self.more = true;
        for _ in 0..BOUND {
            let Waited::Ended(pid, ended) = wait::peek_any() else {
                self.more = false;
                break;
            };
            let killed = ended.how != ExitStatus::EXITED || ended.value == OWN_FAILURE;
            if self.shims.remove(pid) && killed {
                // The mark of a process can be read until the process is reaped.
                if outlives(pid) {
                    lost_outliving = true;
                } else {
                    self.orphans.get_or_insert((0, 0));
                }
            }
            self.outliving.remove(pid);
            wait::reap(pid);
        }
        if lost_outliving {
            self.spare_outliving(proc);
        }
        self.more
    }

    /// Spares what the killed shim of an outliving tree left, even processes without the mark.
    ///
    /// If another killed shim has left orphans too, the two kinds cannot be told apart. Then the
    /// mark decides.
    fn spare_outliving(&mut self, proc: Option<&Proc>) {
        let before = self.outliving.all().len();
        if self.orphans.is_none() {
            self.spare_children(proc, |_| true);
            // A process ends and leaves its children at one moment (exit_notify in
            // kernel/exit.c). If another shim left any of the listed processes, its end is
            // visible now.
            if matches!(wait::peek_any(), Waited::Ended(pid, _) if self.shims.has(pid)) {
                self.outliving.truncate(before);
            }
        }
        self.spare_children(proc, outlives);
    }

    /// Adds each child for which `is_spared` holds, unless the child is a shim or is already
    /// known.
    fn spare_children(&mut self, proc: Option<&Proc>, is_spared: impl Fn(Pid) -> bool) {
        let (shims, outliving) = (&self.shims, &mut self.outliving);
        let _ = each_child(proc, &mut |pid| {
            if !shims.has(pid) && !outliving.has(pid) && is_spared(pid) {
                outliving.add(pid);
            }
        });
    }

    /// Makes one pass over the orphans and everything below them, if a pass is due.
    pub(crate) fn end_orphans(&mut self, proc: Option<&Proc>, now: u64) {
        let Some((at, passes)) = self.orphans else { return };
        if now < at {
            return;
        }
        let mut found = 0u32;
        // A process that loses its mark later stays known.
        if proc.is_some() {
            self.spare_children(proc, outlives);
        }
        let spared = |pid: Pid| self.shims.has(pid) || self.outliving.has(pid);
        let signals: &[(Order, u8)] = if passes >= STOP_FIRST_AFTER {
            &[(Order::ParentsFirst, signal::STOP), (Order::ChildrenFirst, signal::KILL)]
        } else {
            &[(Order::ChildrenFirst, signal::KILL)]
        };
        let mut listed = false;
        if let Some(proc) = proc {
            for &(order, number) in signals {
                found = 0;
                listed = Walked::Nothing
                    != walk::walk(proc, &spared, order, VISITS, &mut |visited| {
                        if !outlives(visited.pid()) {
                            found = found.saturating_add(1);
                            visited.signal_all(&[number]);
                        }
                    });
            }
        }
        let mut pause = pause_after(passes);
        if !listed {
            // The children of those killed become children of the warden.
            wait::each_child_by_number(&mut |pid| {
                if !spared(pid) && !outlives(pid) {
                    found = found.saturating_add(1);
                    let _ = signals::kill(pid, signal::KILL);
                }
            });
            // A look at all pids takes a second, in which the warden does nothing else.
            let took = clock::now_ms().saturating_sub(now);
            pause = if passes > 1 { pause.max(took.saturating_mul(4)) } else { pause };
        }
        self.orphans = if found > 0 {
            Some((clock::now_ms().saturating_add(pause), passes.saturating_add(1)))
        } else {
            self.waiting.iter_mut().filter_map(Option::take).for_each(|fd| notify(&fd));
            None
        };
        if self.is_vain() {
            self.waiting = [const { None }; WAITING];
        }
    }
}

/// Visits each child. Without `/proc`, this is a pass over all pids, which takes a second.
fn each_child(proc: Option<&Proc>, visit: &mut dyn FnMut(Pid)) -> Result<(), Errno> {
    match proc {
        Some(proc) => proc.each_own_child(visit),
        None => {
            wait::each_child_by_number(visit);
            Ok(())
        }
    }
}

/// Tells the other end of a descriptor that no orphan is left.
fn notify(fd: &OwnedFd) {
    let _ = rustix::net::send(fd, b"W", SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}

/// Returns whether a process has a mark that says that it outlives its VM on purpose.
fn outlives(pid: Pid) -> bool {
    mark_limits::read(pid).ok().and_then(Mark::decode).is_some_and(Mark::outlives)
}
