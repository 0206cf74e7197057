//! Reaping, and the proof that nothing is left.
//!
//! The only proof of "gone" is that `waitid` says ECHILD, since every orphan of the tree becomes
//! a child of this process, the subreaper. The worker stays a zombie until it is the last of its
//! tree. While it is not reaped, the number of its process group cannot be reused.

use rustix::process::Pid;

use crate::os::exit_status::ExitStatus;
use crate::os::proc_file::Proc;
use crate::os::wait::{self, Waited};

/// The most children reaped in one go. Against a fork bomb, "until none is left" may never end.
const BOUND: u32 = 256;

/// The state of the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leader {
    /// It has not ended, as far as is known.
    Lives,
    /// It has ended, and its number is still its own.
    Zombie(ExitStatus),
    /// Its number may belong to another process.
    Reaped(ExitStatus),
}

/// The result of one go of reaping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReapResult {
    /// The number of children that were reaped.
    pub(crate) reaped: u32,
    /// The number of these that were commands of the ladder, and not of the worker's tree.
    pub(crate) commands: u32,
    /// The bound was reached, so there may be more.
    pub(crate) more: bool,
    /// Nothing of the tree is left.
    pub(crate) gone: bool,
}

/// The children of this process: the worker, and the orphans of its tree.
pub(crate) struct Children {
    /// `None` if `/proc` is not mounted or has no `children` files (CONFIG_PROC_CHILDREN). Then
    /// the worker cannot be spared while others are reaped, and is reaped when its turn comes.
    proc: Option<Proc>,
    /// The worker's pid.
    pid: Pid,
    /// The worker's state.
    leader: Leader,
}

/// Reaps a child that is a command of the ladder, if it has ended. `None` for other children.
pub(crate) type ReapCommand<'a> = &'a mut dyn FnMut(Pid) -> Option<bool>;

impl Children {
    /// Returns the children of a shim that has just started its worker.
    pub(crate) fn new(proc: Option<Proc>, worker: Pid) -> Self {
        Self { proc, pid: worker, leader: Leader::Lives }
    }

    /// Returns the `/proc` whose list of children can be read.
    pub(crate) fn proc(&self) -> Option<&Proc> {
        self.proc.as_ref()
    }

    /// Returns the worker's pid.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Returns the state of the worker.
    pub(crate) fn leader(&self) -> Leader {
        self.leader
    }

    /// Returns the worker's pid, as long as it cannot belong to another process.
    pub(crate) fn unreaped(&self) -> Option<Pid> {
        (!matches!(self.leader, Leader::Reaped(_))).then_some(self.pid)
    }

    /// Reaps the children that have ended, the worker last.
    pub(crate) fn reap(&mut self, command: ReapCommand<'_>) -> ReapResult {
        let mut found = ReapResult::default();
        self.reap_in_turn(command, &mut found);
        if let (Leader::Zombie(ended), false) = (self.leader, found.more) {
            if wait::none_lives() {
                self.reap_leader(ended, &mut found);
                self.reap_in_turn(command, &mut found);
            } else {
                self.reap_around_leader(ended, command, &mut found);
            }
        }
        found
    }

    /// Reaps the children that `waitid` names, up to the worker. Once the worker is a zombie,
    /// `waitid` names it every time.
    fn reap_in_turn(&mut self, command: ReapCommand<'_>, found: &mut ReapResult) {
        while found.reaped < BOUND {
            match wait::peek_any() {
                Waited::NoChild => {
                    found.gone = true;
                    return;
                }
                Waited::NotYet => return,
                Waited::Ended(pid, ended) if pid == self.pid => {
                    self.leader = Leader::Zombie(ended);
                    if self.proc.is_some() {
                        return;
                    }
                    self.reap_leader(ended, found);
                }
                Waited::Ended(pid, _) => {
                    found.reap(pid, command);
                }
            }
        }
        found.more = true;
    }

    /// Reaps the worker. From then on its group is not signalled, since the number may be
    /// another's.
    pub(crate) fn let_leader_go(&mut self) {
        if let Leader::Zombie(ended) = self.leader {
            self.reap_leader(ended, &mut ReapResult::default());
        }
    }

    /// Reaps the worker, which has ended.
    fn reap_leader(&mut self, ended: ExitStatus, found: &mut ReapResult) {
        wait::reap(self.pid);
        self.leader = Leader::Reaped(ended);
        found.reaped += 1;
    }

    /// Reaps all children except the worker, and the worker when it is the last.
    fn reap_around_leader(
        &mut self,
        ended: ExitStatus,
        command: ReapCommand<'_>,
        found: &mut ReapResult,
    ) {
        let Some(proc) = &self.proc else { return };
        while found.reaped < BOUND {
            let (before, mut others) = (found.reaped, false);
            let listed = proc.each_own_child(&mut |pid| {
                if pid != self.pid && !(found.reaped < BOUND && found.reap(pid, command)) {
                    others = true;
                }
            });
            if listed.is_err() {
                // The list cannot be read, so go on as without one.
                self.proc = None;
                return self.reap_leader(ended, found);
            }
            // Reaping during the read makes the list skip some children, so only a pass without
            // reaping tells which are left.
            if found.reaped == before {
                if !others {
                    self.reap_leader(ended, found);
                    found.gone = wait::peek_any() == Waited::NoChild;
                }
                return;
            }
        }
        found.more = true;
    }
}

impl ReapResult {
    /// Reaps a child that is not the worker. Returns whether it had ended.
    fn reap(&mut self, pid: Pid, command: ReapCommand<'_>) -> bool {
        let of_command = command(pid);
        let gone = of_command.unwrap_or_else(|| wait::reap(pid));
        if gone {
            self.reaped += 1;
            self.commands += u32::from(of_command.is_some());
        }
        gone
    }
}
