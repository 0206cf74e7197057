//! The settings of a command line.

use core::ffi::CStr;
use leash_tag::stop_steps::Steps;
use leash_tag::{RunId, WorkerNumber, signal};

use super::identity::Identity;
use super::step_commands::StepCommands;
use super::worker_limits::WorkerLimits;
use crate::os::signals::Pending;

/// The place that one of the worker's standard streams goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream<'a> {
    /// The stream of the shim itself.
    Inherit,
    /// `/dev/null`.
    Null,
    /// A pipe whose other end the shim holds and never writes to (stdin only).
    Open,
    /// The same place as stdout (stderr only).
    Stdout,
    /// A descriptor that was passed to the shim, and that only the worker keeps.
    Descriptor(i32),
    /// Appended to this file.
    File(&'a CStr),
}

/// The starter of the shim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A shell, a unit, a container.
    Hand,
    /// The VM's fork server.
    Port,
    /// The run's warden.
    Warden,
}

/// The settings of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is the option of its name, which help describes")]
pub struct Config<'a> {
    pub run: RunId,
    pub worker: Option<WorkerNumber>,
    /// For a later search by name; nothing here uses it.
    pub name: Option<&'a [u8]>,
    pub leash: Option<i32>,
    pub owner: Option<(i32, u64)>,
    pub report: Option<i32>,
    /// Leash and report are one socket, on which the VM also sends requests.
    pub channel: bool,
    pub stdin: Stream<'a>,
    pub stdout: Stream<'a>,
    pub stderr: Stream<'a>,
    pub stop: Steps,
    pub step: StepCommands,
    pub linger: u32,
    pub cd: Option<&'a CStr>,
    pub arg0: Option<&'a CStr>,
    pub identity: Identity,
    pub limits: WorkerLimits,
    pub cgroup: Option<&'a CStr>,
    pub mark: bool,
    pub detach: bool,
    /// The processes that a worker leaves when it exits by itself go on.
    pub keep: bool,
    pub ladder_on_any_term: bool,
    pub foreground: bool,
    pub controlling_tty: bool,
    /// A process that was not started by this shim, and its start ticks. There is no command
    /// then.
    pub attach: Option<(i32, Option<u64>)>,
    /// No tree of its own: the process starts the run's shims, and ends what they leave.
    pub warden: bool,
    /// The name of the socket on which the VM asks its warden for shims.
    pub control: Option<&'a [u8]>,
    /// The command's index in the argument vector.
    pub command_index: usize,
    /// The command.
    pub command: &'a CStr,
}

impl Config<'_> {
    /// Returns the settings of a command line with nothing but a run.
    pub(crate) fn new(run: RunId) -> Self {
        Self {
            run,
            worker: None,
            name: None,
            leash: None,
            owner: None,
            report: None,
            channel: false,
            stdin: Stream::Inherit,
            stdout: Stream::Inherit,
            stderr: Stream::Inherit,
            stop: Steps::DEFAULT,
            step: StepCommands::default(),
            linger: 200,
            cd: None,
            arg0: None,
            identity: Identity::default(),
            limits: WorkerLimits::default(),
            cgroup: None,
            mark: true,
            detach: false,
            keep: false,
            ladder_on_any_term: false,
            foreground: false,
            controlling_tty: false,
            attach: None,
            warden: false,
            control: None,
            command_index: 0,
            command: c"",
        }
    }

    /// Returns the starter of this shim.
    pub(crate) fn origin(&self) -> Origin {
        match self.leash {
            _ if self.channel => Origin::Warden,
            Some(_) => Origin::Port,
            None => Origin::Hand,
        }
    }

    /// Returns whether a signal went to all processes at once (systemd, container runtimes). The
    /// VM is draining and still needs its workers. If it dies, the leash says so.
    pub(crate) fn is_broadcast(&self, signal: Pending) -> bool {
        signal.number == signal::TERM
            && signal.sender <= 1
            && self.leash.is_some()
            && !self.ladder_on_any_term
    }

    /// Returns the descriptors beside 0 to 2 that were passed to the shim: leash, report, and the
    /// worker's own.
    pub(crate) fn descriptors(&self) -> [Option<i32>; 5] {
        let of = |stream| match stream {
            Stream::Descriptor(fd) => Some(fd),
            _ => None,
        };
        let all = [self.leash, self.report, of(self.stdin), of(self.stdout), of(self.stderr)];
        all.map(|fd| fd.filter(|&fd| fd > 2))
    }

    /// Returns the descriptors that are the worker's own.
    pub(crate) fn workers_descriptors(&self) -> impl Iterator<Item = i32> + use<> {
        self.descriptors().into_iter().skip(2).flatten()
    }
}
