//! Going through the ladder: the part that is the same for the shim's own tree and for an
//! attached one.
//!
//! The ladder says what is due, and [`next`] does it and reports it. Each kind of tree decides
//! which processes a step addresses, and how a signal reaches them.

use crate::args::{Act, Config, MAX_STEPS, To};
use crate::command::{Commands, Launch, Outcome};
use crate::ladder::{Cause, Deed, Ladder};
use crate::proc_file::own_pid;
use crate::report::{End, Ended, Report};
use crate::sys::{self, Vectors, signal};

/// The position of a tree on its ladder, and the report of it.
pub(crate) struct Climb<'a> {
    pub(crate) config: &'a Config<'static>,
    pub(crate) vectors: Vectors,
    pub(crate) report: Report<'a>,
    pub(crate) ladder: Ladder,
    /// One place for each step: `None` until the step is taken, then the number of processes
    /// reaped in it. The last place is the final phase's.
    steps: [Option<u32>; MAX_STEPS + 1],
}

/// A tree that is ended by a ladder.
pub(crate) trait Tree<'a> {
    fn climb(&mut self) -> &mut Climb<'a>;

    fn commands(&mut self) -> &mut Commands;

    /// Signals the processes that a step addresses. Each signal is followed by CONT, so that a
    /// stopped process can react to it.
    fn address(&mut self, number: u8, to: To);

    /// Sends the step's signal to the rest of the tree once none of the addressed processes
    /// lives. Otherwise the ladder would wait for a daemon that left the group and was never told
    /// to end.
    fn widen(&mut self, number: u8, to: To);

    /// Closes the worker's stdin as far as the shim can: the other end of an open one.
    fn close_stdin(&mut self) {}

    /// Sends SIGKILL to the whole tree.
    fn kill_pass(&mut self, stop_first: bool);
}

/// The result of one [`next`].
pub(crate) enum Next {
    /// Something was done, so ask again.
    Done,
    /// Nothing is due before this moment.
    Wait(Option<u64>),
    /// The tree is gone.
    Finish,
}

/// Does what the ladder says is due.
pub(crate) fn next<'a>(tree: &mut impl Tree<'a>, now: u64, leader_lives: bool) -> Next {
    match tree.climb().ladder.due(now, leader_lives) {
        Deed::Finish => return Next::Finish,
        Deed::Wait(until) => return Next::Wait(until),
        Deed::Signal { index, number, to } => {
            take(tree, index, number);
            tree.address(number, to);
        }
        Deed::Run { index } => {
            take(tree, index, Act::Command.number());
            start_command(tree, index);
        }
        // The VM closes its own end when it hears of the step, and a VM that is gone has no end
        // any more. By hand, only an open stdin is closed, since any other does not belong to the
        // shim.
        Deed::CloseStdin { index } => {
            take(tree, index, Act::CloseStdin.number());
            tree.close_stdin();
        }
        Deed::Look { number, to } => tree.widen(number, to),
        Deed::Kill { first, stop_first } => {
            if first {
                take(tree, Ladder::FINAL, signal::KILL);
            }
            tree.kill_pass(stop_first);
        }
    }
    Next::Done
}

fn take<'a>(tree: &mut impl Tree<'a>, index: u8, number: u8) {
    // The time of the command that an earlier step started is over.
    tree.commands().kill();
    let climb = tree.climb();
    if let Some(step) = climb.steps.get_mut(place(index)) {
        *step = Some(0);
    }
    let elapsed = climb.ladder.elapsed(sys::now_ms);
    climb.report.step(climb.ladder.cause() as u8, index, number, elapsed);
}

fn place(index: u8) -> usize {
    usize::from(index).min(MAX_STEPS)
}

fn start_command<'a>(tree: &mut impl Tree<'a>, index: u8) {
    let climb = tree.climb();
    let Some(launch) = Launch::of(climb.config, climb.vectors, index) else { return };
    if let Err(errno) = tree.commands().start(index, launch) {
        tree.climb().command_ended(index, Outcome::not_started(errno), false);
    }
}

/// Reports the outcome of the commands that have ended.
pub(crate) fn commands_ended<'a>(tree: &mut impl Tree<'a>, all_gone: bool) {
    while let Some((index, outcome)) = tree.commands().take_ended() {
        tree.climb().command_ended(index, outcome, all_gone);
    }
}

impl<'a> Climb<'a> {
    pub(crate) fn new(config: &'a Config<'static>, vectors: Vectors, report: Report<'a>) -> Self {
        let ladder = Ladder::new(config.stop, config.linger);
        Self { config, vectors, report, ladder, steps: [None; MAX_STEPS + 1] }
    }

    /// Handles a signal to the shim. Returns `true` if the signal is not for the shim.
    pub(crate) fn signalled(&mut self, number: u8, sender: u32, leashed: bool) -> bool {
        let now = sys::now_ms();
        match number {
            // The shim wrote to a pipe without a reader.
            signal::PIPE if i64::from(sender) == i64::from(own_pid()) => {}
            signal::QUIT => self.ladder.kill_now(now),
            // All processes were signalled at once (systemd, container runtimes). The VM is
            // draining and still needs its workers. If it dies, the leash says so.
            signal::TERM if sender <= 1 && leashed && !self.config.ladder_on_any_term => {}
            signal::TERM | signal::HUP | signal::INT => self.ladder.asked(now),
            _ => return self.config.leash.is_none(),
        }
        false
    }

    /// Handles a request of the VM on the channel: `E` begins the ladder, `K` sends SIGKILL at
    /// once. A repeated request changes nothing.
    pub(crate) fn asked(&mut self, what: u8) {
        match what {
            b'E' => self.ladder.end(Cause::Stop, sys::now_ms()),
            b'K' => self.ladder.kill_now(sys::now_ms()),
            _ => {}
        }
    }

    /// Begins once more, with the processes that the worker left, and without reports.
    pub(crate) fn begin_anew(&mut self) {
        self.report = self.report.silent();
        self.ladder = Ladder::new(self.config.stop, self.config.linger);
        self.ladder.started();
        self.steps = [None; MAX_STEPS + 1];
    }

    /// Adds processes that were reaped to the count of a step.
    pub(crate) fn count(&mut self, index: u8, reaped: u32) {
        if let Some(Some(count)) = self.steps.get_mut(place(index)) {
            *count = count.saturating_add(reaped);
        }
    }

    fn command_ended(&mut self, index: u8, outcome: Outcome, all_gone: bool) {
        outcome.tell(index, self.report, self.config, self.vectors);
        if !all_gone && !outcome.succeeded() {
            self.ladder.command_failed(index, sys::now_ms());
        }
    }

    /// Reports that nothing is left.
    pub(crate) fn gone(&self, ended: Ended, with_exit: bool) {
        let steps = self.steps.iter().enumerate().filter_map(|(place, reaped)| {
            let (index, number) = match self.config.stop.get(place) {
                Some(step) if place < MAX_STEPS => (u8::try_from(place).ok()?, step.act.number()),
                _ => (Ladder::FINAL, signal::KILL),
            };
            Some((index, number, (*reaped)?))
        });
        let end = End {
            with_exit,
            ended,
            cause: self.ladder.cause() as u8,
            last: self.ladder.last(),
            elapsed: self.ladder.elapsed(sys::now_ms),
            passes: self.ladder.passes(),
        };
        self.report.gone(&end, steps);
    }
}
