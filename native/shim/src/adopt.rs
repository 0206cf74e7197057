//! The children of a warden: the shims that it started, and what comes to it, the subreaper, when one of them is killed.
//!
//! A shim that ended by itself has left nothing, so whatever else becomes our child was left by one that was killed, and
//! is ended: by descent, which no process can shed, and without a look at its mark, but for those that outlive their VM
//! on purpose. A child that is not reaped keeps its number, so plain numbers are safe.

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::SendFlags;
use rustix::process::Pid;

use crate::ladder::{STOP_FIRST_AFTER, pause_after};
use crate::proc_file::Proc;
use crate::report::Ended;
use crate::sys::{self, Numbers, Waited, signal};
use crate::tree::{self, Order, Walked};
use leash_tag::Mark;

/// Children reaped in one go at most: some 10 ms.
const BOUND: u32 = 16_384;

/// Processes that one pass signals at most: a start that is asked for meanwhile waits for no longer than that takes.
const VISITS: u32 = 256;

/// A shim's own failure, with which it may have left its tree.
const OWN_FAILURE: u8 = 125;

/// Passes after which those that are left are not waited for: some 2 seconds.
const VAIN_PASSES: u32 = 65;

/// How many may wait for word at a time.
const WAITING: usize = 32;

/// The children.
pub(crate) struct Children {
    shims: Numbers,
    /// What outlives its VM on purpose, and has lost its shim.
    left: Numbers,
    /// When to end orphans next, and how many passes there were; `None` where there are none.
    orphans: Option<(u64, u32)>,
    /// The last round of reaping met its bound.
    more: bool,
    waiting: [Option<OwnedFd>; WAITING],
}

impl Children {
    pub(crate) fn new() -> Result<Self, Errno> {
        Ok(Self {
            shims: Numbers::new()?,
            left: Numbers::new()?,
            orphans: None,
            more: false,
            waiting: [const { None }; WAITING],
        })
    }

    /// Takes a shim in.
    pub(crate) fn started(&mut self, pid: Pid) {
        self.shims.add(pid);
    }

    /// Whether anything is left that does not outlive its VM on purpose.
    pub(crate) fn any(&self) -> bool {
        let ends = |&pid: &i32| Pid::from_raw(pid).is_some_and(|pid| !outlives(pid));
        self.orphans.is_some() || self.shims.all().iter().any(ends)
    }

    /// Gives word once no orphan is left. Where too many wait, or nothing has helped for long, it is closed without.
    pub(crate) fn give_word(&mut self, fd: OwnedFd) {
        if self.orphans.is_none() {
            say(&fd);
        } else if self.is_vain() {
            drop(fd);
        } else if let Some(place) = self.waiting.iter_mut().find(|place| place.is_none()) {
            *place = Some(fd);
        }
    }

    fn is_vain(&self) -> bool {
        self.orphans.is_some_and(|(_, passes)| passes > VAIN_PASSES)
    }

    /// When to call [`Children::end_orphans`] next.
    pub(crate) fn due(&self) -> Option<u64> {
        if self.more { Some(0) } else { self.orphans.map(|(at, _)| at) }
    }

    /// Reaps those that have ended; whether there may be more.
    pub(crate) fn reap(&mut self, proc: Option<&Proc>) -> bool {
        let mut leaves = false;
        self.more = true;
        for _ in 0..BOUND {
            let Waited::Ended(pid, ended) = sys::peek_any() else {
                self.more = false;
                break;
            };
            let killed = ended.how != Ended::EXITED || ended.value == OWN_FAILURE;
            if self.shims.remove(pid) && killed {
                // Its mark can be read as long as it is not reaped.
                if outlives(pid) {
                    leaves = true;
                } else {
                    self.orphans.get_or_insert((0, 0));
                }
            }
            self.left.remove(pid);
            let _ = sys::reap(pid);
        }
        if leaves {
            self.leave(proc);
        }
        self.more
    }

    /// What the shim of a tree that outlives its VM has left is let be, without its mark, too; unless another shim was
    /// killed with it. Then what is left of the two cannot be told apart, and the mark decides.
    fn leave(&mut self, proc: Option<&Proc>) {
        let before = self.left.all().len();
        if self.orphans.is_none() {
            self.note_left(proc, |_| true);
            // A process ends and leaves its children at one moment (exit_notify in kernel/exit.c): if another shim has
            // left what was listed, then its end is seen now.
            if matches!(sys::peek_any(), Waited::Ended(pid, _) if self.shims.has(pid)) {
                self.left.truncate(before);
            }
        }
        self.note_left(proc, outlives);
    }

    /// Lets those be that are neither shims nor known, where they are such.
    fn note_left(&mut self, proc: Option<&Proc>, is_left: impl Fn(Pid) -> bool) {
        let (shims, left) = (&self.shims, &mut self.left);
        let _ = each_child(proc, &mut |pid| {
            if !shims.has(pid) && !left.has(pid) && is_left(pid) {
                left.add(pid);
            }
        });
    }

    /// One pass over the orphans and all that is below them, if it is due.
    pub(crate) fn end_orphans(&mut self, proc: Option<&Proc>, now: u64) {
        let Some((at, passes)) = self.orphans else { return };
        if now < at {
            return;
        }
        let mut found = 0u32;
        // Those that lose their mark later stay known.
        if proc.is_some() {
            self.note_left(proc, outlives);
        }
        let spared = |pid: Pid| self.shims.has(pid) || self.left.has(pid);
        let signals: &[(Order, u8)] = if passes >= STOP_FIRST_AFTER {
            &[(Order::ParentsFirst, signal::STOP), (Order::ChildrenFirst, signal::KILL)]
        } else {
            &[(Order::ChildrenFirst, signal::KILL)]
        };
        let mut listed = false;
        if let Some(proc) = proc {
            for &(order, number) in signals {
                found = 0;
                listed = Walked::Nobody
                    != tree::walk(proc, &spared, order, VISITS, &mut |met| {
                        if !outlives(met.pid()) {
                            found = found.saturating_add(1);
                            met.signal(number);
                        }
                    });
            }
        }
        let mut pause = pause_after(passes);
        if !listed {
            // Theirs become ours as they die.
            sys::each_child_by_number(&mut |pid| {
                if !spared(pid) && !outlives(pid) {
                    found = found.saturating_add(1);
                    let _ = sys::kill(pid, signal::KILL);
                }
            });
            // All numbers take a second, in which nothing else is done.
            let took = sys::now_ms().saturating_sub(now);
            pause = if passes > 1 { pause.max(took.saturating_mul(4)) } else { pause };
        }
        self.orphans = if found > 0 {
            Some((sys::now_ms().saturating_add(pause), passes.saturating_add(1)))
        } else {
            self.waiting.iter_mut().filter_map(Option::take).for_each(|fd| say(&fd));
            None
        };
        if self.is_vain() {
            self.waiting = [const { None }; WAITING];
        }
    }
}

/// Without `/proc` a pass over all numbers, which takes a second.
fn each_child(proc: Option<&Proc>, visit: &mut dyn FnMut(Pid)) -> Result<(), Errno> {
    match proc {
        Some(proc) => proc.each_own_child(visit),
        None => {
            sys::each_child_by_number(visit);
            Ok(())
        }
    }
}

fn say(fd: &OwnedFd) {
    let _ = rustix::net::send(fd, b"W", SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}

fn outlives(pid: Pid) -> bool {
    sys::locks_limits(pid).ok().and_then(Mark::decode).is_some_and(Mark::outlives)
}
