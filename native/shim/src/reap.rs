//! Reaping, and the proof that nothing is left.
//!
//! The only proof of "gone" is that `waitid` says ECHILD, since every orphan of the tree becomes
//! a child of this process, the subreaper. The worker stays a zombie until it is the last of its
//! tree. While it is not reaped, the number of its process group cannot be reused.

use rustix::process::Pid;

use crate::command::Commands;
use crate::foreign::Foreign;
use crate::proc_file::Proc;
use crate::report::Ended;
use crate::sys::{self, Waited};

/// The most children reaped in one go. Against a fork bomb, "until none is left" may never end.
const BOUND: u32 = 256;

/// The state of the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leader {
    Lives,
    Zombie(Ended),
    Reaped(Ended),
}

/// The result of one go of reaping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) reaped: u32,
    /// The number of these that were commands of the ladder, and not of the worker's tree.
    pub(crate) commands: u32,
    /// The bound was reached, so there may be more.
    pub(crate) more: bool,
    /// Nothing of the tree is left.
    pub(crate) gone: bool,
}

/// The children of this process.
pub(crate) struct Reaper {
    /// `None` if `/proc` is not mounted or has no `children` files (CONFIG_PROC_CHILDREN). Then
    /// the worker cannot be spared while others are reaped, and is reaped when its turn comes.
    proc: Option<Proc>,
    foreign: Foreign,
    pid: Pid,
    leader: Leader,
    commands: Commands,
}

impl Reaper {
    pub(crate) fn new(proc: Option<Proc>, foreign: Foreign, pid: Pid) -> Self {
        Self { proc, foreign, pid, leader: Leader::Lives, commands: Commands::new() }
    }

    pub(crate) fn proc(&self) -> Option<&Proc> {
        self.proc.as_ref()
    }

    pub(crate) fn foreign(&self) -> &Foreign {
        &self.foreign
    }

    pub(crate) fn commands(&mut self) -> &mut Commands {
        &mut self.commands
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    pub(crate) fn leader(&self) -> Leader {
        self.leader
    }

    /// Returns the worker's pid, as long as it cannot belong to another process.
    pub(crate) fn unreaped(&self) -> Option<Pid> {
        (!matches!(self.leader, Leader::Reaped(_))).then_some(self.pid)
    }

    pub(crate) fn reap(&mut self) -> Found {
        let mut found = Found::default();
        self.reap_in_turn(&mut found);
        if let (Leader::Zombie(ended), false) = (self.leader, found.more) {
            if sys::none_lives() {
                self.reap_leader(ended, &mut found);
                self.reap_in_turn(&mut found);
            } else {
                self.reap_around_leader(&mut found);
            }
        }
        if !found.gone && self.foreign.present() && matches!(self.leader, Leader::Reaped(_)) {
            found.gone = self.only_foreign_left();
        }
        found
    }

    /// Reaps the children that `waitid` names, up to the worker. Once the worker is a zombie,
    /// `waitid` names it every time.
    fn reap_in_turn(&mut self, found: &mut Found) {
        while found.reaped < BOUND {
            match sys::peek_any() {
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
                    self.reap_other(pid, found);
                }
            }
        }
        found.more = true;
    }

    /// Reaps the worker. From then on its group is not signalled, since the number may be
    /// another's.
    pub(crate) fn let_leader_go(&mut self) {
        if let Leader::Zombie(ended) = self.leader {
            self.reap_leader(ended, &mut Found::default());
        }
    }

    fn reap_leader(&mut self, ended: Ended, found: &mut Found) {
        let _ = sys::reap(self.pid);
        self.leader = Leader::Reaped(ended);
        found.reaped += 1;
    }

    fn reap_other(&mut self, pid: Pid, found: &mut Found) -> bool {
        let command = self.commands.reap(pid);
        let gone = command.unwrap_or_else(|| matches!(sys::reap(pid), Waited::Ended(..)));
        if gone {
            self.foreign.forget(pid);
            found.reaped += 1;
            found.commands += u32::from(command.is_some());
        }
        gone
    }

    /// Reaps all children except the worker, and the worker when it is the last.
    fn reap_around_leader(&mut self, found: &mut Found) {
        let Leader::Zombie(ended) = self.leader else { return };
        // `proc` is taken out so that the list can be read while the rest is changed.
        let Some(proc) = self.proc.take() else { return };
        let leader = self.pid;
        loop {
            let (before, mut others) = (found.reaped, false);
            let listed = proc.each_own_child(&mut |pid| {
                if pid == leader || (found.reaped < BOUND && self.reap_other(pid, found)) {
                    return;
                }
                others |= !self.foreign.includes(Some(&proc), pid);
            });
            if listed.is_err() {
                // The list cannot be read, so go on as without one.
                self.reap_leader(ended, found);
                return;
            }
            // Reaping during the read makes the list skip some children, so only a pass without
            // reaping tells which are left.
            if found.reaped == before {
                self.proc = Some(proc);
                if !others {
                    self.reap_leader(ended, found);
                    found.gone = matches!(sys::peek_any(), Waited::NoChild);
                }
                return;
            }
            if found.reaped >= BOUND {
                self.proc = Some(proc);
                found.more = true;
                return;
            }
        }
    }

    /// Returns whether only foreign children are left. While one of them lives, `waitid` cannot
    /// prove it.
    fn only_foreign_left(&self) -> bool {
        let proc = self.proc();
        let mut ours = false;
        let mut visit = |pid: Pid| ours |= !self.foreign.includes(proc, pid);
        match proc {
            Some(proc) if proc.each_own_child(&mut visit).is_ok() => {}
            _ => sys::each_child_by_number(&mut visit),
        }
        !ours
    }
}
