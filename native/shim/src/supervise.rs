//! One tree: what happens to it, and doing what the ladder says is due.

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

/// A worker that nothing happens to for so long is one that stays.
const SETTLE_MS: u64 = 20;

/// One tree.
pub(crate) struct Supervisor<'a> {
    climb: Climb<'a>,
    watched: Watched,
    child: Child,
    reaper: Reaper,
    /// The worker's process group: in the foreground ours, unless it has made one of its own.
    group: Pid,
    /// The other end of an open stdin.
    stdin: Option<OwnedFd>,
    started: bool,
    /// The worker's end is to be told together with its tree's.
    exit_untold: bool,
    /// This long nothing has happened; what is needed for the end has been opened.
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

    /// Supervises until nothing is left; the result is the exit status.
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

    // What happens

    fn wait(&mut self, ms: Option<u64>) {
        let settles = ms.is_none() && !self.settled;
        let woken = self.watched.wait(if settles { Some(SETTLE_MS) } else { ms });
        if settles && !woken.any() {
            self.settled = true;
            // Where it fails, it is tried again when it is needed.
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
        // What has ended stays readable and would wake us for ever.
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
            // As where the VM had the other end of the pipe and is gone.
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
        // A child's end or stop; of one that did not come to its exec too, which only the kernel says by a code above 0
        // (rt_sigqueueinfo(2)).
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

    /// Whether the worker has got the signal as well: the terminal sends what is typed, and its changes of size, to a whole
    /// group. A terminal that hangs up ends the tree all the same.
    fn terminal_told_worker(&self, number: u8, code: i32) -> bool {
        const SI_KERNEL: i32 = 0x80;
        self.climb.config.foreground
            && code == SI_KERNEL
            && number != signal::HUP
            && self.reaper.unreaped().is_some_and(|worker| getpgid(Some(worker)) == Ok(getpgrp()))
    }

    /// The shell looks at us, and not at the worker: when that has stopped, so do we. Not where the VM may end
    /// meanwhile, and not once the tree is being ended.
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

    /// The child's end of the pipe has closed, or it says why it could not become the worker.
    fn take_exec(&mut self) {
        let mut message = [0u8; 3];
        let Some(fd) = self.watched.exec.as_ref() else { return };
        match (rustix::io::read(fd, &mut message), message) {
            (Err(Errno::INTR | Errno::AGAIN), _) => return,
            (Ok(3), [stage, high, low]) => {
                self.start_failed(stage, u16::from_be_bytes([high, low]))
            }
            // Killed on the way to exec, it closed the pipe too, before it is a zombie.
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

    /// They may hold a secret, which the program can wipe from its own command line only. Of a tree that outlives its VM
    /// they are needed to find it again.
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
        // Once it is reaped nobody can say any more whether it came to exec; until then there is nobody else.
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
        self.reaper.proc().is_some_and(|proc| keep::everybody(proc, self.reaper.foreign(), tag))
            && (!self.climb.config.channel || keep::self_too(tag))
    }

    /// Whether what is kept has to have us: below a warden, which would have to tell what a kept tree orphans from what a
    /// shim that was killed leaves.
    fn stays(&self) -> bool {
        self.climb.config.channel && self.climb.ladder.cause() == Cause::Kept
    }

    /// Goes on with what is kept, which nobody waits for any more, until nothing of it is left or a signal ends it.
    fn stay(&mut self) {
        let (Leader::Zombie(ended) | Leader::Reaped(ended)) = self.reaper.leader() else {
            return;
        };
        self.climb.gone(ended, self.exit_untold);
        self.reaper.let_leader_go();
        self.watched.let_go_of_channel();
        self.watched.owner = None;
        self.climb.begin_anew();
        // Nothing that the VM had open is to be held by what it has left.
        run::silence();
    }

    // What is done

    fn signal_tree(&self, number: u8) {
        self.everybody(Order::ChildrenFirst, None, &[number, signal::CONT]);
    }

    /// Signals all descendants, or those in one process group. Without `/proc` direct children only; theirs become ours
    /// as they die.
    fn everybody(&self, order: Order, group: Option<Pid>, signals: &[u8]) {
        let foreign = self.reaper.foreign();
        let walked = self.reaper.proc().is_some_and(|proc| {
            foreign.walk(proc, order, &mut |met| {
                if group.is_none_or(|group| is_in(group, met, proc)) {
                    for &number in signals {
                        met.signal(number);
                    }
                }
            }) != Walked::Nobody
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
            // ECHILD without having seen the worker end: somebody made the kernel reap for us.
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
            // We are in it ourselves, so it is never signalled by its number.
            (To::Group, Some(leader)) if self.climb.config.foreground => {
                self.group = getpgid(Some(leader)).unwrap_or(self.group);
                self.everybody(Order::ChildrenFirst, Some(self.group), &[number, signal::CONT]);
            }
            (To::Group, Some(leader)) => {
                for number in [number, signal::CONT] {
                    // Before its setsid the child is in our group and leads none.
                    if sys::kill_group(leader, number).is_err() {
                        let _ = sys::kill(leader, number);
                    }
                }
            }
            // Those are gone; `widen` tells the others.
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
            self.everybody(Order::ParentsFirst, None, &[signal::STOP]);
        }
        self.everybody(Order::ChildrenFirst, None, &[signal::KILL]);
    }
}

fn is_in(group: Pid, met: &Met<'_>, proc: &Proc) -> bool {
    met.stat(proc).is_some_and(|stat| stat.pgrp == group.as_raw_pid() && stat.lives())
}
