//! Ends processes for certain. A hunt is a state machine that its driver steps; it never waits
//! itself.
//!
//! Every step notes which processes have ended, passes over the process table if that is due, and
//! sends what is due. Passes repeat until a complete one, of all carriers, finds nothing left to
//! end.

use crate::Identity;
use crate::error::{Error, Result};
use crate::ladder::Ladder;
use crate::report::Report;
use crate::run_dir::RunDir;
use crate::scan::SkipMark;
use crate::work::{Work, millis};
use crate::worker_rule::Workers;
use leash_tag::{Mark, RunId};
use rustix::event::epoll;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The processes to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HuntKind {
    /// Workers of the asking VM's own run, by SIGKILL passes.
    Worker(Workers),
    /// One dead run; a run that is not dead is refused.
    Run {
        /// The run.
        run: RunId,
        /// The asking VM's own run.
        own_run: Option<RunId>,
        /// Whether to end what outlives its VM on purpose, too: detached trees, and what was
        /// kept.
        outliving: bool,
    },
    /// Every dead run.
    Sweep {
        /// The asking VM's own run.
        own_run: Option<RunId>,
        /// Only runs whose record names this application.
        app: Option<String>,
        /// End them, or report only.
        mode: Mode,
    },
    /// One process, whatever its tags.
    Process(Identity),
}

/// Whether a sweep ends anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// End what is dead.
    End,
    /// One pass that explains every match and sends nothing.
    Report,
}

/// The task of a hunt: what to end, how, and how long.
#[derive(Clone, Debug)]
pub struct HuntSpec {
    /// The processes to end.
    pub kind: HuntKind,
    /// The signals to send before SIGKILL. A hunt for workers ignores it.
    pub ladder: Ladder,
    /// The time for everything.
    pub deadline: Duration,
    /// The directory of the records. Without it, no run is judged by a record.
    pub run_dir: Option<Arc<RunDir>>,
    /// Whether there may be records that cannot be read. No run is dead then, and the report is
    /// incomplete. Hunts for workers and for single processes need no record.
    pub records_unusable: bool,
}

/// The result of a step.
#[derive(Debug)]
pub enum Step {
    /// Step again at this time, or earlier once the hunt's descriptor is readable.
    Wait {
        /// The time.
        until: Instant,
    },
    /// The result. Stepping again gives the same one.
    Done(Box<Report>),
}

/// A hunt at work.
#[derive(Debug)]
pub struct Hunt {
    spec: HuntSpec,
    state: State,
    epoll: OwnedFd,
}

#[derive(Debug)]
enum State {
    New,
    Working(Box<Work>),
    Done(Box<Report>),
}

impl Hunt {
    /// Prepares a hunt. Nothing is read before the first step.
    ///
    /// # Errors
    ///
    /// The error of creating an epoll descriptor.
    pub fn new(spec: HuntSpec) -> Result<Self> {
        let create = || epoll::create(epoll::CreateFlags::CLOEXEC);
        let epoll = crate::reserve::with_reserve(create).map_err(Error::of_file)?;
        Ok(Self { spec, state: State::New, epoll })
    }

    /// Goes on as far as possible without waiting.
    pub fn step(&mut self, now: Instant) -> Step {
        if let State::New = self.state {
            self.state = match Work::begin(&self.spec, &self.epoll, now) {
                Ok(work) => State::Working(Box::new(work)),
                Err(report) => State::Done(report),
            };
        }
        if let State::Working(work) = &mut self.state {
            match work.step(&self.epoll, now) {
                Some(until) => return Step::Wait { until },
                None => {
                    let mut report = std::mem::take(&mut work.report);
                    report.elapsed_ms = millis(work.began.elapsed());
                    self.state = State::Done(Box::new(report));
                }
            }
        }
        match &self.state {
            State::Done(report) => Step::Done(report.clone()),
            _ => Step::Wait { until: now },
        }
    }

    /// Steps until done and sleeps in between. For tests and command lines, never for a VM's
    /// scheduler.
    pub fn run(&mut self) -> Report {
        loop {
            match self.step(Instant::now()) {
                Step::Done(report) => return *report,
                Step::Wait { until } => {
                    let left = until.saturating_duration_since(Instant::now());
                    let timeout = rustix::event::Timespec::try_from(left).ok();
                    let mut fds =
                        [rustix::event::PollFd::new(&self.epoll, rustix::event::PollFlags::IN)];
                    let _ = rustix::event::poll(&mut fds, timeout.as_ref());
                }
            }
        }
    }
}

impl AsFd for Hunt {
    /// Readable when a process that is waited for may have ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl SkipMark for Workers {
    fn skip(&self, mark: &Mark) -> bool {
        self.is_others(mark)
    }
}
