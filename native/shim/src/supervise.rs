//! One tree: the events that reach it, and the actions that the ladder says are due.

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{Pid, getpgid, getpgrp};

use crate::args::{Config, To};
use crate::climb::{self, Climb, Next};
use crate::command::Commands;
use crate::keep;
use crate::ladder::Cause;
use crate::marking::Tag;
use crate::proc_file::Proc;
use crate::reap::{Leader, Reaper};
use crate::report::{Ended, Report, Stage};
use crate::run;
use crate::sys::{self, Child, Vectors, Waited, signal};
use crate::tree::{Met, Order, Walked};
use crate::watched::Watched;

/// If no event comes for this long, the worker is one that stays.
const SETTLE_MS: u64 = 20;

/// The supervisor of one tree.
pub(crate) struct Supervisor<'a> {
    climb: Climb<'a>,
    watched: Watched,
    child: Child,
    reaper: Reaper,
    /// The worker's process group. In the foreground it is the shim's, unless the worker has made
    /// its own.
    group: Pid,
    /// The other end of an open stdin.
    stdin: Option<OwnedFd>,
    started: bool,
    /// The worker's end is reported together with the end of its tree.
    exit_untold: bool,
    /// No event came for [`SETTLE_MS`], and the file that the end needs has been opened.
    settled: bool,
}

impl<'a> Supervisor<'a> {
    pub(crate) fn new(
        config: &'a Config<'static>,
        vectors: Vectors,
        report: Report<'a>,
        watched: Watched,
        child: Child,
        reaper: Reaper,
        stdin: Option<OwnedFd>,
    ) -> Self {
        let climb = Climb::new(config, vectors, report);
        let group = if config.foreground { getpgrp() } else { child.pid() };
        Self {
            climb,
            watched,
            child,
            reaper,
            group,
            stdin,
            started: false,
            exit_untold: false,
            settled: false,
        }
    }

    /// Supervises until nothing is left. Returns the exit status.
    pub(crate) fn run(&mut self) -> u8 {
        loop {
            let more = self.reap();
            let now = if self.climb.ladder.is_timed() { sys::now_ms() } else { 0 };
            let leader_lives = self.reaper.leader() == Leader::Lives;
            match climb::next(self, now, leader_lives) {
                Next::Done => {}
                Next::Finish if self.stays() => self.stay(),
                Next::Finish => return self.finish(),
                Next::Wait(_) if more => self.wait(Some(0)),
                Next::Wait(until) => {
                    self.wait(until.map(|until| until.saturating_sub(sys::now_ms())))
                }
            }
        }
    }

    // Events

    fn wait(&mut self, ms: Option<u64>) {
        let settles = ms.is_none() && !self.settled;
        let woken = self.watched.wait(if settles { Some(SETTLE_MS) } else { ms });
        if settles && !woken.any() {
            self.settled = true;
            // If the open fails, it is tried again when the file is needed.
            let _ = self.reaper.proc().map(Proc::hold_children);
        }
        if woken.signals {
            self.take_signals();
        }
        if woken.exec {
            self.take_exec();
        }
        if woken.asked {
            while let Some(what) = self.watched.take_asked() {
                self.climb.asked(what);
            }
        }
        // A closed or ended descriptor stays readable and would wake the shim for ever.
        if woken.leash {
            self.watched.leash = None;
            self.let_go(Cause::Leash);
        }
        if woken.owner {
            self.watched.owner = None;
            self.let_go(Cause::Owner);
        }
    }

    fn let_go(&mut self, cause: Cause) {
        if !self.climb.config.detach {
            // The stdin ends as if the VM had held the other end of the pipe and had gone.
            climb::Tree::close_stdin(self);
            self.climb.ladder.end(cause, sys::now_ms());
        }
    }

    fn take_signals(&mut self) {
        for (number, code, sender) in self.watched.take_signals() {
            self.signalled(number, code, sender);
        }
    }

    fn signalled(&mut self, number: u8, code: i32, sender: u32) {
        // SIGCHLD says that a child ended or stopped. SIGURG says that a child ended before its
        // exec, if the code is above 0, which only the kernel sends (rt_sigqueueinfo(2)).
        if number == signal::CHLD || (number == signal::URG && code > 0) {
            self.stop_with_worker();
            return;
        }
        if self.terminal_told_worker(number, code) {
            return;
        }
        let leashed = self.watched.leash.is_some();
        if self.climb.signalled(number, sender, leashed) && self.reaper.leader() == Leader::Lives
        {
            let _ = sys::kill(self.reaper.pid(), number);
        }
    }

    /// Returns whether the worker has got the signal as well. The terminal sends typed signals,
    /// and its changes of size, to a whole group. A terminal that hangs up ends the tree all the
    /// same.
    fn terminal_told_worker(&self, number: u8, code: i32) -> bool {
        const SI_KERNEL: i32 = 0x80;
        self.climb.config.foreground
            && code == SI_KERNEL
            && number != signal::HUP
            && self.reaper.unreaped().is_some_and(|worker| getpgid(Some(worker)) == Ok(getpgrp()))
    }

    /// Stops the shim when the worker has stopped, since the shell looks at the shim and not at
    /// the worker. This does not happen if the VM may end meanwhile, or once the tree is being
    /// ended.
    fn stop_with_worker(&self) {
        let config = self.climb.config;
        let by_hand = config.leash.is_none() && config.owner.is_none();
        if config.foreground
            && by_hand
            && !self.climb.ladder.is_timed()
            && sys::has_stopped(self.reaper.pid())
        {
            sys::stop_for_the_shell();
        }
    }

    /// Handles the end of the start: the child's end of the pipe has closed, or the child says
    /// why it could not become the worker.
    fn take_exec(&mut self) {
        let mut message = [0u8; 3];
        let Some(fd) = self.watched.exec.as_ref() else { return };
        match (rustix::io::read(fd, &mut message), message) {
            (Err(Errno::INTR | Errno::AGAIN), _) => return,
            (Ok(3), [stage, high, low]) => {
                self.start_failed(stage, u16::from_be_bytes([high, low]))
            }
            // A child that is killed before exec closes the pipe too, before it is a zombie.
            _ if !self.child.executed() => {
                self.start_failed(Stage::Exec as u8, Errno::CANCELED.raw_os_error() as u16);
            }
            _ => {
                self.started = true;
                self.wipe_arguments();
                self.climb.report.started(self.reaper.pid().as_raw_pid());
                self.climb.ladder.started();
            }
        }
        self.watched.exec = None;
    }

    /// Wipes the arguments, which may hold a secret. The program can wipe them from its own
    /// command line only. A tree that outlives its VM needs them, to be found again.
    fn wipe_arguments(&self) {
        let config = self.climb.config;
        if !config.detach && config.name.is_none() {
            self.climb.vectors.wipe(config.command_index.saturating_add(1));
        }
    }

    fn start_failed(&mut self, stage: u8, errno: u16) {
        self.climb.ladder.start_failed();
        self.climb.report.start_failed(stage, errno);
        if self.climb.config.report.is_none() {
            crate::say::start_failed(self.climb.config.command.to_bytes(), stage, errno);
        }
    }

    fn reap(&mut self) -> bool {
        // Once the child is reaped, nothing says any more whether it reached exec. Until then the
        // tree has no other process.
        if self.watched.exec.is_some() {
            if sys::peek(self.reaper.pid()) == Waited::NotYet {
                self.reaper.commands().reap_all();
                climb::commands_ended(self, false);
                return false;
            }
            self.take_exec();
            if self.watched.exec.is_some() {
                return true;
            }
        }
        let before = self.reaper.leader();
        let step = self.climb.ladder.current();
        let found = self.reaper.reap();

        if let (Leader::Lives, Leader::Zombie(ended) | Leader::Reaped(ended)) =
            (before, self.reaper.leader())
        {
            if found.gone {
                self.exit_untold = self.started;
            } else {
                if self.started {
                    self.climb.report.exited(ended);
                }
                self.climb.ladder.worker_ended(sys::now_ms());
            }
        }
        if let Some(index) = step {
            self.climb.count(index, found.reaped - found.commands);
        }
        climb::commands_ended(self, found.gone);
        if found.gone {
            self.climb.ladder.gone();
        } else if self.climb.config.keep
            && self.started
            && self.climb.ladder.lingers()
            && self.keep()
        {
            self.climb.ladder.kept();
        }
        found.more
    }

    fn keep(&self) -> bool {
        let tag = Tag { run: self.climb.config.run, worker: self.climb.config.worker };
        self.reaper.proc().is_some_and(|proc| keep::keep_all(proc, self.reaper.foreign(), tag))
            && (!self.climb.config.channel || keep::self_too(tag))
    }

    /// Returns whether the shim has to stay for the processes that are kept. It has to below a
    /// warden. Otherwise the warden would have to tell orphans of a kept tree from those of a
    /// killed shim.
    fn stays(&self) -> bool {
        self.climb.config.channel && self.climb.ladder.cause() == Cause::Kept
    }

    /// Goes on with the processes that are kept, until none is left or a signal ends them. No
    /// caller waits for them any more.
    fn stay(&mut self) {
        let (Leader::Zombie(ended) | Leader::Reaped(ended)) = self.reaper.leader() else {
            return;
        };
        self.climb.gone(ended, self.exit_untold);
        self.reaper.let_leader_go();
        self.watched.let_go_of_channel();
        self.watched.owner = None;
        self.climb.begin_anew();
        // The shim, which the VM has left behind, must not hold anything open that the VM had
        // open.
        run::silence();
    }

    // Actions

    fn signal_tree(&self, number: u8) {
        self.signal_all(Order::ChildrenFirst, None, &[number, signal::CONT]);
    }

    /// Signals all descendants, or those in one process group. Without `/proc` it signals direct
    /// children only, and their children become the shim's as they die.
    fn signal_all(&self, order: Order, group: Option<Pid>, signals: &[u8]) {
        let foreign = self.reaper.foreign();
        let walked = self.reaper.proc().is_some_and(|proc| {
            foreign.walk(proc, order, &mut |met| {
                if group.is_none_or(|group| is_in(group, met, proc)) {
                    for &number in signals {
                        met.signal(number);
                    }
                }
            }) != Walked::Nothing
        });
        if !walked {
            sys::each_child_by_number(&mut |pid| {
                let addressed = group.is_none_or(|group| getpgid(Some(pid)) == Ok(group));
                if addressed && !foreign.includes(None, pid) {
                    for &number in signals {
                        let _ = sys::kill(pid, number);
                    }
                }
            });
        }
    }

    fn finish(&self) -> u8 {
        let ended = match self.reaper.leader() {
            Leader::Zombie(ended) | Leader::Reaped(ended) => ended,
            // ECHILD came, but no end of the worker was seen: the kernel was made to reap for the
            // shim.
            Leader::Lives => Ended { how: Ended::KILLED, value: signal::KILL },
        };
        self.climb.gone(ended, self.exit_untold);
        ended.exit_status()
    }
}

impl<'a> climb::Tree<'a> for Supervisor<'a> {
    fn climb(&mut self) -> &mut Climb<'a> {
        &mut self.climb
    }

    fn commands(&mut self) -> &mut Commands {
        self.reaper.commands()
    }

    fn close_stdin(&mut self) {
        drop(self.stdin.take());
    }

    fn address(&mut self, number: u8, to: To) {
        match (to, self.reaper.unreaped()) {
            (To::Tree, _) => self.signal_tree(number),
            (To::Leader, Some(leader)) => {
                let _ = sys::kill(leader, number);
                let _ = sys::kill(leader, signal::CONT);
            }
            // The shim is in that group itself, so the group is never signalled by its number.
            (To::Group, Some(leader)) if self.climb.config.foreground => {
                self.group = getpgid(Some(leader)).unwrap_or(self.group);
                self.signal_all(Order::ChildrenFirst, Some(self.group), &[number, signal::CONT]);
            }
            (To::Group, Some(leader)) => {
                for number in [number, signal::CONT] {
                    // Before its setsid, the child is in the shim's group and leads none.
                    if sys::kill_group(leader, number).is_err() {
                        let _ = sys::kill(leader, number);
                    }
                }
            }
            // Leader and group are gone; `widen` tells the others.
            (_, None) => {}
        }
    }

    fn widen(&mut self, number: u8, to: To) {
        let mut addressed_live = false;
        if let (To::Group, Some(proc)) = (to, self.reaper.proc()) {
            self.reaper.foreign().walk(proc, Order::ParentsFirst, &mut |met| {
                addressed_live |= !addressed_live && is_in(self.group, met, proc);
            });
        }
        if !addressed_live {
            self.signal_tree(number);
            self.climb.ladder.widened();
        }
    }

    fn kill_pass(&mut self, stop_first: bool) {
        if let Some(leader) = self.reaper.unreaped() {
            let _ = sys::kill_group(leader, signal::KILL);
            let _ = sys::kill(leader, signal::KILL);
        }
        if stop_first {
            self.signal_all(Order::ParentsFirst, None, &[signal::STOP]);
        }
        self.signal_all(Order::ChildrenFirst, None, &[signal::KILL]);
    }
}

fn is_in(group: Pid, met: &Met<'_>, proc: &Proc) -> bool {
    met.stat(proc).is_some_and(|stat| stat.pgrp == group.as_raw_pid() && stat.lives())
}
