//! Going through the ladder: what is the same for a tree of our own children and for one that was attached.
//!
//! The ladder says what is due, [`next`] does it and reports it; whom a step addresses, and how he is reached, is
//! each tree's own.

use crate::args::{Act, Config, MAX_STEPS, To};
use crate::command::{Commands, Launch, Outcome};
use crate::ladder::{Cause, Deed, Ladder};
use crate::proc_file::own_pid;
use crate::report::{End, Ended, Report};
use crate::sys::{self, Vectors, signal};

/// How far a tree is on its ladder, and who is told.
pub(crate) struct Climb<'a> {
    pub(crate) config: &'a Config<'static>,
    pub(crate) vectors: Vectors,
    pub(crate) report: Report<'a>,
    pub(crate) ladder: Ladder,
    /// Taken or not, and processes reaped, in each step; the last place is the final phase's.
    steps: [Option<u32>; MAX_STEPS + 1],
}

/// A tree that is ended by a ladder.
pub(crate) trait Tree<'a> {
    fn climb(&mut self) -> &mut Climb<'a>;

    fn commands(&mut self) -> &mut Commands;

    /// Signals those whom a step addresses; each signal is followed by CONT, so that a stopped process can
    /// heed it.
    fn address(&mut self, number: u8, to: To);

    /// Once none of those addressed lives, whoever lives on gets the step's signal too: a daemon that left the
    /// group would otherwise be waited for without ever having been told.
    fn widen(&mut self, number: u8, to: To);

    /// Closes the worker's stdin as far as that is ours to close: the other end of an open one.
    fn close_stdin(&mut self) {}

    /// SIGKILL to everybody.
    fn kill_pass(&mut self, stop_first: bool);
}

/// What is left to do.
pub(crate) enum Next {
    /// Something was done: ask again.
    Done,
    /// Nothing, until this moment at the latest.
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
        // The VM closes its own end when it hears of the step; one that is gone has none any more. By hand nothing is
        // closed unless stdin is open: any other is not ours.
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
    // Whatever command an earlier step started has had its time.
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

/// Tells what became of the commands that have ended.
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

    /// What a signal to us means; `true` of one that is not for us.
    pub(crate) fn signalled(&mut self, number: u8, sender: u32, leashed: bool) -> bool {
        let now = sys::now_ms();
        match number {
            // We wrote where nobody reads.
            signal::PIPE if i64::from(sender) == i64::from(own_pid()) => {}
            signal::QUIT => self.ladder.kill_now(now),
            // Everybody was signalled at once (systemd, container runtimes): the VM is draining and still
            // needs its workers; if it dies, the leash says so.
            signal::TERM if sender <= 1 && leashed && !self.config.ladder_on_any_term => {}
            signal::TERM | signal::HUP | signal::INT => self.ladder.asked(now),
            _ => return self.config.leash.is_none(),
        }
        false
    }

    /// What the VM asked for on the channel: `E`, the ladder; `K`, SIGKILL at once. Neither means more when it is asked
    /// again.
    pub(crate) fn asked(&mut self, what: u8) {
        match what {
            b'E' => self.ladder.end(Cause::Stop, sys::now_ms()),
            b'K' => self.ladder.kill_now(sys::now_ms()),
            _ => {}
        }
    }

    /// Begins once more, with what the worker has left, and without reports.
    pub(crate) fn begin_anew(&mut self) {
        self.report = self.report.silent();
        self.ladder = Ladder::new(self.config.stop, self.config.linger);
        self.ladder.started();
        self.steps = [None; MAX_STEPS + 1];
    }

    /// Counts processes that were reaped in the step that a number stands for.
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
