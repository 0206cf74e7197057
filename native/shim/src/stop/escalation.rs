//! The position of a tree on its ladder: the part that is the same for the shim's own tree and
//! for an attached one.
//!
//! [`Escalation::next`] says what is due, after it has reported it. The mode does it, since each
//! kind of tree has its own way to reach the processes that a step addresses.

use core::ffi::CStr;
use leash_tag::signal;
use leash_tag::stop_steps::{MAX_STEPS, SignalScope, StepKind};

use super::commands::{self, CommandLaunch, Commands};
use super::ladder::{Action, Cause, Ladder};
use super::request::Request;
use crate::cli::config::Config;
use crate::os::exit_status::{CommandOutcome, ExitStatus};
use crate::os::signals::Pending;
use crate::os::vectors::Vectors;
use crate::os::{clock, process};
use crate::out::messages;
use crate::out::report::{End, Report};
use crate::out::stage::Stage;

/// The ladder of a tree, its commands, and the report of both.
pub(crate) struct Escalation<'a> {
    /// The settings of the command line.
    pub(crate) config: &'a Config<'static>,
    /// The arguments, among which those of the commands are.
    pub(crate) vectors: Vectors,
    /// The receiver of the reports.
    pub(crate) report: Report<'a>,
    /// The state machine that says when something is due.
    pub(crate) ladder: Ladder,
    /// The commands of the steps that have one.
    pub(crate) commands: Commands,
    /// One place for each step: `None` until the step begins, then the number of processes reaped
    /// in it. The last place is the final phase's.
    reaped: [Option<u32>; MAX_STEPS + 1],
}

impl<'a> Escalation<'a> {
    /// Returns the position of a tree that is not being ended.
    pub(crate) fn new(config: &'a Config<'static>, vectors: Vectors, report: Report<'a>) -> Self {
        let ladder = Ladder::new(config.stop, config.linger);
        let commands = Commands::new();
        Self { config, vectors, report, ladder, commands, reaped: [None; MAX_STEPS + 1] }
    }

    /// Returns what is due. If that is a new step, the step has been reported, and its command
    /// started. Call it until it returns [`Action::Wait`] or [`Action::Finish`].
    pub(crate) fn next(&mut self, now: u64, leader_lives: bool) -> Action {
        let action = self.ladder.next(now, leader_lives);
        match action {
            Action::Signal { index, number, .. } => self.begin_step(index, number),
            Action::CloseStdin { index } => self.begin_step(index, StepKind::CloseStdin.number()),
            Action::RunCommand { index } => {
                self.begin_step(index, StepKind::Command.number());
                self.start_command(index);
            }
            Action::Kill { first: true, .. } => self.begin_step(Ladder::FINAL, signal::KILL),
            _ => {}
        }
        action
    }

    /// Reports that a step begins.
    fn begin_step(&mut self, index: u8, number: u8) {
        // The time of the command that an earlier step started is over.
        self.commands.kill();
        if let Some(step) = self.reaped.get_mut(place(index)) {
            *step = Some(0);
        }
        let elapsed = self.ladder.elapsed(clock::now_ms);
        self.report.step(self.ladder.cause() as u8, index, number, elapsed);
    }

    /// Starts the command of a step.
    fn start_command(&mut self, index: u8) {
        let Some(launch) = CommandLaunch::new(self.config, self.vectors, index) else { return };
        if let Err(errno) = self.commands.start(index, launch) {
            self.command_ended(index, CommandOutcome::not_started(errno), false);
        }
    }

    /// Reaps the commands that have ended, and reports their outcome. After a command that failed
    /// the next step begins, unless nothing of the tree is left.
    pub(crate) fn end_commands(&mut self, all_gone: bool) {
        self.commands.reap_all();
        while let Some((index, outcome)) = self.commands.take_ended() {
            self.command_ended(index, outcome, all_gone);
        }
    }

    /// Reports the outcome of a command. Without a VM, a person is told why it did not start.
    fn command_ended(&mut self, index: u8, outcome: CommandOutcome, all_gone: bool) {
        self.report.command(index, outcome);
        if let (CommandOutcome::NotStarted(errno), None) = (outcome, self.config.report) {
            let program = commands::program(self.config, self.vectors, index);
            let program = program.map_or(&b"--step"[..], CStr::to_bytes);
            messages::start_failed(program, Stage::Exec as u8, u16::from(errno));
        }
        if !all_gone && !outcome.succeeded() {
            self.ladder.command_failed(index, clock::now_ms());
        }
    }

    /// Handles a signal to the shim. Returns `true` if the signal is not for the shim.
    pub(crate) fn signalled(&mut self, signal: Pending, leashed: bool) -> bool {
        let now = clock::now_ms();
        match signal.number {
            // The shim wrote to a pipe without a reader.
            signal::PIPE
                if i64::from(signal.sender) == i64::from(process::own_pid().as_raw_pid()) => {}
            signal::QUIT => self.ladder.kill_now(now),
            _ if leashed && self.config.is_broadcast(signal) => {}
            signal::TERM | signal::HUP | signal::INT => self.ladder.stop_requested(now),
            _ => return self.config.leash.is_none(),
        }
        false
    }

    /// Handles a request of the VM on the channel. A repeated request for the end changes
    /// nothing. Returns the signal that the mode has to send, and the processes that get it.
    pub(crate) fn requested(&mut self, request: Request) -> Option<(u8, SignalScope)> {
        match request {
            Request::End => self.ladder.end(Cause::Stop, clock::now_ms()),
            Request::Kill => self.ladder.kill_now(clock::now_ms()),
            Request::Signal { number, scope } => return Some((number, scope)),
            Request::Unknown => {}
        }
        None
    }

    /// Begins once more, with the processes that the worker left, and without reports.
    pub(crate) fn begin_anew(&mut self) {
        *self = Self::new(self.config, self.vectors, self.report.silent());
        self.ladder.started();
    }

    /// Adds processes that were reaped to the count of a step.
    pub(crate) fn count(&mut self, index: u8, reaped: u32) {
        if let Some(Some(count)) = self.reaped.get_mut(place(index)) {
            *count = count.saturating_add(reaped);
        }
    }

    /// Reports that nothing is left.
    pub(crate) fn gone(&self, ended: ExitStatus, with_exit: bool) {
        let steps = self.reaped.iter().enumerate().filter_map(|(place, reaped)| {
            let (index, number) = match self.config.stop.get(place) {
                Some(step) => (u8::try_from(place).ok()?, step.kind.number()),
                None => (Ladder::FINAL, signal::KILL),
            };
            Some((index, number, (*reaped)?))
        });
        let end = End {
            with_exit,
            ended,
            cause: self.ladder.cause() as u8,
            last: self.ladder.last(),
            elapsed: self.ladder.elapsed(clock::now_ms),
            passes: self.ladder.passes(),
        };
        self.report.gone(&end, steps);
    }
}

/// Returns the place of a step, or of the final phase.
fn place(index: u8) -> usize {
    usize::from(index).min(MAX_STEPS)
}
