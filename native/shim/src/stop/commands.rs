//! The commands that are steps of the ladder (`CMD:MS` in `--stop=`): started, reaped, killed.
//!
//! A command is a child of the shim in a session of its own, with the mark and the environment.
//! If the shim is killed, the command dies by its death signal. The processes that it started are
//! found by their tags like the rest of the tree. The command is not the worker, so it does not
//! get the worker's ids, limits and streams.

use core::convert::Infallible;
use core::ffi::CStr;
use leash_tag::signal;
use leash_tag::stop_steps::{MAX_STEPS, StepKind};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use crate::cli::config::{Config, Origin};
use crate::cli::step_commands::{MAX_ARGUMENTS, StepCommand};
use crate::os::child::{self, Child, Memory};
use crate::os::exit_status::{CommandOutcome, ExitStatus};
use crate::os::vectors::Vectors;
use crate::os::wait::{self, Waited};
use crate::os::{descriptors, process, signals};
use crate::start::{exec, spawn};

/// The data that a command's child needs.
pub(crate) struct CommandLaunch {
    vectors: Vectors,
    command: StepCommand,
    shim: Pid,
    /// The value of `--cd`: the command works in that directory too.
    directory: Option<&'static CStr>,
    /// Whether descriptor 2 is stderr, and not leash or report.
    stderr: bool,
    /// The starter of this shim.
    origin: Origin,
}

impl CommandLaunch {
    /// Returns the launch data of a step's command.
    pub(crate) fn new(config: &Config<'static>, vectors: Vectors, index: u8) -> Option<Self> {
        Some(Self {
            vectors,
            command: find(config, vectors, index)?,
            shim: process::own_pid(),
            directory: config.cd,
            stderr: ![config.leash, config.report].contains(&Some(2)),
            origin: config.origin(),
        })
    }
}

/// Returns the program of a step's command.
pub(crate) fn program(config: &Config<'_>, vectors: Vectors, index: u8) -> Option<&'static CStr> {
    vectors.args().nth(find(config, vectors, index)?.first)
}

/// Returns the place of a step's command: there is one for each `CMD` step, in order.
fn find(config: &Config<'_>, vectors: Vectors, index: u8) -> Option<StepCommand> {
    let before = config.stop.count(StepKind::Command, usize::from(index));
    config.step.nth(before, vectors.args())
}

/// The state of the command of one step.
enum CommandState {
    /// There is no command, or its outcome was reported.
    Empty,
    /// The command was started and is not reaped.
    Runs(Child),
    /// Reaped, and not reported yet.
    Ended(CommandOutcome),
}

impl CommandState {
    /// Returns the pid of a command that runs.
    fn running(&self) -> Option<Pid> {
        match self {
            Self::Runs(child) => Some(child.pid()),
            Self::Empty | Self::Ended(_) => None,
        }
    }

    /// Reaps the command if it has ended. Returns whether it has.
    fn reap(&mut self) -> bool {
        let Self::Runs(child) = self else { return false };
        let ended = match wait::peek(child.pid()) {
            Waited::Ended(_, ended) => ended,
            Waited::NotYet => return false,
            // The kernel reaped the child without the shim, so its pid is free.
            Waited::NoChild => ExitStatus::KILLED_UNSEEN,
        };
        // The exit status of a child that did not reach its exec is the errno. Once the child is
        // reaped, nothing says any more whether it did.
        let outcome = match ended {
            ExitStatus { how: ExitStatus::EXITED, value } if !child.executed() => {
                CommandOutcome::NotStarted(value)
            }
            ended => CommandOutcome::Ended(ended),
        };
        wait::reap(child.pid());
        *self = Self::Ended(outcome);
        true
    }
}

/// The commands of all steps. If a command cannot die because it hangs in the kernel, the next
/// one starts all the same. The stack of the hanging one stays until it ends.
pub(crate) struct Commands {
    states: [CommandState; MAX_STEPS],
}

impl Commands {
    /// Returns no commands.
    pub(crate) fn new() -> Self {
        Self { states: [const { CommandState::Empty }; MAX_STEPS] }
    }

    /// Starts the command of a step. The child works in the shim's own memory, like the worker,
    /// since it changes no ids.
    pub(crate) fn start(&mut self, index: u8, launch: CommandLaunch) -> Result<(), Errno> {
        let state = self.states.get_mut(usize::from(index)).ok_or(Errno::INVAL)?;
        let child = child::start_child(Memory::Shared, move || become_command(&launch))?;
        *state = CommandState::Runs(child);
        Ok(())
    }

    /// Sends SIGKILL to the commands that run, and to their groups. A group's number stays theirs
    /// until its leader is reaped.
    pub(crate) fn kill(&self) {
        for pid in self.states.iter().filter_map(CommandState::running) {
            // Before its setsid, the child is in the shim's group and leads none.
            let _ = signals::kill_group(pid, signal::KILL);
            let _ = signals::kill(pid, signal::KILL);
        }
    }

    /// Reaps the command with this pid if it has ended. Returns `None` if the pid is not a
    /// command's.
    pub(crate) fn reap(&mut self, pid: Pid) -> Option<bool> {
        let state = self.states.iter_mut().find(|state| state.running() == Some(pid));
        state.map(CommandState::reap)
    }

    /// Reaps the commands that have ended, and no other child.
    pub(crate) fn reap_all(&mut self) {
        for state in &mut self.states {
            state.reap();
        }
    }

    /// Returns a command that has ended since the last call, and its step.
    pub(crate) fn take_ended(&mut self) -> Option<(u8, CommandOutcome)> {
        let ended = self.states.iter_mut().enumerate().find_map(|(index, state)| match state {
            CommandState::Ended(outcome) => Some((index, *outcome, state)),
            _ => None,
        });
        let (index, outcome, state) = ended?;
        *state = CommandState::Empty;
        Some((u8::try_from(index).ok()?, outcome))
    }
}

/// Runs in the child. Returns the errno, and only if the child did not become the command.
fn become_command(launch: &CommandLaunch) -> u8 {
    let Err(errno) = prepare(launch).and_then(|()| execute(launch));
    u8::try_from(errno.raw_os_error()).unwrap_or(u8::MAX)
}

/// Prepares the child, in the order for which `spawn` gives the reasons.
fn prepare(launch: &CommandLaunch) -> Result<(), Errno> {
    rustix::process::setsid()?;
    process::die_with(launch.shim, Signal::KILL)?;
    streams(launch.stderr)?;
    // The directory may be gone with the tree that is being ended, but the command has to run all
    // the same. A relative path is skipped, since the shim has changed its own directory.
    let directory = launch.directory.filter(|path| path.to_bytes().starts_with(b"/"));
    if directory.is_none_or(|path| rustix::process::chdir(path).is_err()) {
        let _ = rustix::process::chdir(c"/");
    }
    spawn::reset_signals(launch.origin);
    Ok(())
}

/// Gives the command no input, and its output to no reader but stderr.
fn streams(keep_stderr: bool) -> Result<(), Errno> {
    let null = descriptors::open_null()?;
    descriptors::become_stream(&null, 0)?;
    descriptors::become_stream(&null, 1)?;
    if keep_stderr { descriptors::pass_on(2) } else { descriptors::become_stream(&null, 2) }
}

/// Executes the command. Returns only on failure.
fn execute(launch: &CommandLaunch) -> Result<Infallible, Errno> {
    let CommandLaunch { vectors, command: StepCommand { first, count }, .. } = *launch;
    let program = vectors.args().nth(first).ok_or(Errno::NOENT)?;
    let run = |path: &CStr| vectors.exec_part::<{ MAX_ARGUMENTS + 1 }>(path, first, count);
    Err(exec::execute(program, vectors, run))
}
