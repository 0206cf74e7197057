//! One tree: what happens to it, and doing what the ladder says is due.

use rustix::io::Errno;

use crate::args::{Config, MAX_STEPS, To};
use crate::command::{Launch, Outcome};
use crate::keep;
use crate::ladder::{Cause, Deed, Ladder};
use crate::marking::Tag;
use crate::proc_file::{Proc, own_pid};
use crate::reap::{Leader, Reaper};
use crate::report::{End, Ended, Report, Stage};
use crate::sys::{self, Child, Vectors, Waited, signal};
use crate::tree::{self, Order, Walked};
use crate::watched::Watched;

/// A worker that nothing happens to for so long is one that stays.
const SETTLE_MS: u64 = 20;

/// One tree.
pub(crate) struct Supervisor<'a> {
    config: &'a Config<'static>,
    vectors: Vectors,
    report: Report<'a>,
    watched: Watched,
    child: Child,
    reaper: Reaper,
    ladder: Ladder,
    started: bool,
    /// The worker's end is to be told together with its tree's.
    exit_untold: bool,
    /// This long nothing has happened; what is needed for the end has been opened.
    settled: bool,
    /// Taken or not, and processes reaped, in each step; the last place is the final phase's.
    steps: [Option<u32>; MAX_STEPS + 1],
}

impl<'a> Supervisor<'a> {
    pub(crate) fn new(
        config: &'a Config<'static>,
        vectors: Vectors,
        report: Report<'a>,
        watched: Watched,
        child: Child,
        reaper: Reaper,
    ) -> Self {
        let ladder = Ladder::new(config.stop, config.linger);
        Self {
            config,
            vectors,
            report,
            watched,
            child,
            reaper,
            ladder,
            started: false,
            exit_untold: false,
            settled: false,
            steps: [None; MAX_STEPS + 1],
        }
    }

    /// Supervises until nothing is left; the result is the exit status.
    pub(crate) fn run(&mut self) -> u8 {
        loop {
            let more = self.reap();
            let now = if self.ladder.is_timed() { sys::now_ms() } else { 0 };
            match self.ladder.due(now, self.reaper.leader() == Leader::Lives) {
                Deed::Finish => return self.finish(),
                Deed::Signal { index, number, to } => {
                    self.take(usize::from(index), index, number);
                    self.address(number, to);
                }
                Deed::Run { index } => {
                    self.take(usize::from(index), index, 0);
                    self.start_command(index);
                }
                Deed::Look { number, to } => self.widen(number, to),
                Deed::Kill { first, stop_first } => {
                    if first {
                        self.take(MAX_STEPS, Ladder::FINAL, signal::KILL);
                    }
                    self.kill_pass(stop_first);
                }
                Deed::Wait(_) if more => self.wait(Some(0)),
                Deed::Wait(until) => self.wait(until.map(|until| until.saturating_sub(sys::now_ms()))),
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
        if !self.config.detach {
            self.ladder.end(cause, sys::now_ms());
        }
    }

    fn take_signals(&mut self) {
        for (number, code, sender) in self.watched.take_signals() {
            self.signalled(number, code, sender);
        }
    }

    fn signalled(&mut self, number: u8, code: i32, sender: u32) {
        // A child's end; of one that did not come to its exec too, which nobody but the kernel says by a code
        // above 0 (rt_sigqueueinfo(2)).
        if number == signal::CHLD || (number == signal::URG && code > 0) {
            return;
        }
        let now = sys::now_ms();
        match number {
            // We wrote where nobody reads.
            signal::PIPE if i64::from(sender) == i64::from(own_pid()) => {}
            signal::QUIT => self.ladder.kill_now(now),
            // Everybody was signalled at once (systemd, container runtimes): the VM is draining and still
            // needs its workers; if it dies, the leash says so.
            signal::TERM
                if sender <= 1 && self.watched.leash.is_some() && !self.config.ladder_on_any_term => {}
            signal::TERM | signal::HUP | signal::INT => self.ladder.asked(now),
            other if self.config.leash.is_none() && self.reaper.leader() == Leader::Lives => {
                let _ = sys::kill(self.reaper.pid(), other);
            }
            _ => {}
        }
    }

    /// The child's end of the pipe has closed, or it says why it could not become the worker.
    fn take_exec(&mut self) {
        let mut message = [0u8; 3];
        let Some(fd) = self.watched.exec.as_ref() else { return };
        match (rustix::io::read(fd, &mut message), message) {
            (Err(Errno::INTR | Errno::AGAIN), _) => return,
            (Ok(3), [stage, high, low]) => self.start_failed(stage, u16::from_be_bytes([high, low])),
            // Killed on the way to exec, it closed the pipe too, before it is a zombie.
            _ if !self.child.executed() => {
                self.start_failed(Stage::Exec as u8, Errno::CANCELED.raw_os_error() as u16);
            }
            _ => {
                self.started = true;
                self.report.started(self.reaper.pid().as_raw_pid());
                self.ladder.started();
            }
        }
        self.watched.exec = None;
    }

    fn start_failed(&mut self, stage: u8, errno: u16) {
        self.ladder.start_failed();
        self.report.start_failed(stage, errno);
        if self.config.report.is_none() {
            crate::say::start_failed(self.config.command.to_bytes(), stage, errno);
        }
    }

    fn reap(&mut self) -> bool {
        // Once it is reaped nobody can say any more whether it came to exec; until then there is nobody else.
        if self.watched.exec.is_some() {
            if sys::peek(self.reaper.pid()) == Waited::NotYet {
                self.reaper.commands().reap_all();
                self.commands_ended(false);
                return false;
            }
            self.take_exec();
            if self.watched.exec.is_some() {
                return true;
            }
        }
        let before = self.reaper.leader();
        let place = self.ladder.current();
        let found = self.reaper.reap();

        if let (Leader::Lives, Leader::Zombie(ended) | Leader::Reaped(ended)) = (before, self.reaper.leader())
        {
            if found.gone {
                self.exit_untold = self.started;
            } else {
                if self.started {
                    self.report.exited(ended);
                }
                self.ladder.worker_ended(sys::now_ms());
            }
        }
        if let Some(place) = place {
            let place = usize::from(place).min(MAX_STEPS);
            if let Some(Some(count)) = self.steps.get_mut(place) {
                *count = count.saturating_add(found.reaped - found.commands);
            }
        }
        self.commands_ended(found.gone);
        if found.gone {
            self.ladder.gone();
        } else if self.config.keep && self.started && self.ladder.lingers() && self.keep() {
            self.ladder.kept();
        }
        found.more
    }

    fn keep(&self) -> bool {
        let tag = Tag { run: self.config.run, worker: self.config.worker };
        self.reaper.proc().is_some_and(|proc| keep::everybody(proc, self.reaper.foreign(), tag))
    }

    fn commands_ended(&mut self, all_gone: bool) {
        while let Some((index, outcome)) = self.reaper.commands().take_ended() {
            self.command_ended(index, outcome, all_gone);
        }
    }

    fn command_ended(&mut self, index: u8, outcome: Outcome, all_gone: bool) {
        outcome.tell(index, self.report, self.config, self.vectors);
        if !all_gone && !outcome.succeeded() {
            self.ladder.command_failed(index, sys::now_ms());
        }
    }

    // What is done

    fn start_command(&mut self, index: u8) {
        let Some(launch) = Launch::of(self.config, self.vectors, index) else { return };
        if let Err(errno) = self.reaper.commands().start(index, launch) {
            self.command_ended(index, Outcome::not_started(errno), false);
        }
    }

    fn take(&mut self, place: usize, index: u8, number: u8) {
        // Whatever command an earlier step started has had its time.
        self.reaper.commands().kill();
        if let Some(step) = self.steps.get_mut(place) {
            *step = Some(0);
        }
        let elapsed = self.ladder.elapsed(sys::now_ms);
        self.report.step(self.ladder.cause() as u8, index, number, elapsed);
    }

    /// Signals those whom a step addresses; each signal is followed by CONT, so that a stopped process can
    /// heed it.
    fn address(&self, number: u8, to: To) {
        match (to, self.reaper.unreaped()) {
            (To::Tree, _) => self.signal_tree(number),
            (To::Leader, Some(leader)) => {
                let _ = sys::kill(leader, number);
                let _ = sys::kill(leader, signal::CONT);
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

    fn signal_tree(&self, number: u8) {
        self.everybody(Order::ChildrenFirst, &[number, signal::CONT]);
    }

    /// Signals all descendants. Without `/proc` direct children only; theirs become ours as they die.
    fn everybody(&self, order: Order, signals: &[u8]) {
        let foreign = self.reaper.foreign();
        let walked = self.reaper.proc().is_some_and(|proc| {
            tree::walk(proc, foreign, order, &mut |met| {
                for &number in signals {
                    met.signal(number);
                }
            }) != Walked::Nobody
        });
        if !walked {
            sys::each_child_by_number(&mut |pid| {
                if !foreign.includes(None, pid) {
                    for &number in signals {
                        let _ = sys::kill(pid, number);
                    }
                }
            });
        }
    }

    /// Once none of those addressed lives, whoever lives on gets the step's signal too: a daemon that left the
    /// group would otherwise be waited for without ever having been told.
    fn widen(&mut self, number: u8, to: To) {
        let group = self.reaper.pid().as_raw_pid();
        let mut addressed_live = false;
        if let (To::Group, Some(proc)) = (to, self.reaper.proc()) {
            tree::walk(proc, self.reaper.foreign(), Order::ParentsFirst, &mut |met| {
                addressed_live |=
                    !addressed_live && met.stat(proc).is_some_and(|stat| stat.pgrp == group && stat.lives());
            });
        }
        if !addressed_live {
            self.signal_tree(number);
            self.ladder.widened();
        }
    }

    fn kill_pass(&self, stop_first: bool) {
        if let Some(leader) = self.reaper.unreaped() {
            let _ = sys::kill_group(leader, signal::KILL);
            let _ = sys::kill(leader, signal::KILL);
        }
        if stop_first {
            self.everybody(Order::ParentsFirst, &[signal::STOP]);
        }
        self.everybody(Order::ChildrenFirst, &[signal::KILL]);
    }

    fn finish(&self) -> u8 {
        let ended = match self.reaper.leader() {
            Leader::Zombie(ended) | Leader::Reaped(ended) => ended,
            // ECHILD without having seen the worker end: somebody made the kernel reap for us.
            Leader::Lives => Ended { how: Ended::KILLED, value: signal::KILL },
        };
        let steps = self.steps.iter().enumerate().filter_map(|(place, reaped)| {
            let (index, number) = match self.config.stop.get(place) {
                Some(step) if place < MAX_STEPS => (u8::try_from(place).ok()?, step.number()),
                _ => (Ladder::FINAL, signal::KILL),
            };
            Some((index, number, (*reaped)?))
        });
        let end = End {
            with_exit: self.exit_untold,
            ended,
            cause: self.ladder.cause() as u8,
            last: self.ladder.last(),
            elapsed: self.ladder.elapsed(sys::now_ms),
            passes: self.ladder.passes(),
        };
        self.report.gone(&end, steps);
        if self.config.foreground {
            // Whoever started us gets the terminal back; SIGTTOU is blocked.
            let _ = rustix::termios::tcsetpgrp(sys::borrow(0), rustix::process::getpgrp());
        }
        ended.exit_status()
    }
}
