//! Ends processes for certain. A cleanup is a state machine that its driver steps; it never waits
//! itself.
//!
//! Every step notes which processes have ended, passes over the process table if that is due, and
//! sends what is due. Passes repeat until a complete one, of all carriers, finds nothing left to
//! end.

use crate::cleanup::engine::Engine;
use crate::cleanup::one_process::OneProcess;
use crate::cleanup::report::Report;
use crate::cleanup::spec::{CleanupKind, CleanupSpec};
use crate::os::error::{Error, Result};
use crate::os::reserve::with_reserve;
use crate::procfs::host::Host;
use crate::tags::scan::Incomplete;
use rustix::event::epoll;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

/// The result of a step.
#[derive(Debug)]
pub enum Step {
    /// Step again at this time, or earlier once the cleanup's descriptor is readable.
    Wait {
        /// The time.
        until: Instant,
    },
    /// The result. Stepping again gives the same one.
    Done(Box<Report>),
}

/// A cleanup at work.
#[derive(Debug)]
pub struct Cleanup {
    spec: CleanupSpec,
    state: State,
    epoll: OwnedFd,
}

#[derive(Debug)]
enum State {
    New,
    Passes(Box<Engine>),
    OneProcess(Box<OneProcess>),
    Done(Box<Report>),
}

impl Cleanup {
    /// Prepares a cleanup. Nothing is read before the first step.
    ///
    /// # Errors
    ///
    /// The error of creating an epoll descriptor.
    pub fn new(spec: CleanupSpec) -> Result<Self> {
        let create = || epoll::create(epoll::CreateFlags::CLOEXEC);
        let epoll = with_reserve(create).map_err(Error::of_file)?;
        Ok(Self { spec, state: State::New, epoll })
    }

    /// Goes on as far as possible without waiting.
    pub fn step(&mut self, now: Instant) -> Step {
        if let State::New = self.state {
            self.state = self.begin(now).unwrap_or_else(State::Done);
        }
        let next = match &mut self.state {
            State::Passes(engine) => engine.step(&self.epoll, now),
            State::OneProcess(process) => process.step(now),
            State::Done(report) => ControlFlow::Break(report.clone()),
            State::New => ControlFlow::Continue(now),
        };
        match next {
            ControlFlow::Continue(until) => Step::Wait { until },
            ControlFlow::Break(report) => {
                self.state = State::Done(report.clone());
                Step::Done(report)
            }
        }
    }

    fn begin(&self, now: Instant) -> std::result::Result<State, Box<Report>> {
        let host = Host::current().map_err(|_| {
            let incomplete_because = vec![Incomplete::NoProc];
            Box::new(Report { incomplete_because, ..Report::default() })
        })?;
        let CleanupKind::Process(identity) = &self.spec.kind else {
            return Ok(State::Passes(Box::new(Engine::new(&self.spec, host, now))));
        };
        OneProcess::begin(&self.spec, identity, host, &self.epoll, now)
            .map(|process| State::OneProcess(Box::new(process)))
            .map_err(|why| Box::new(Report { refused: Some(why), ..Report::default() }))
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

impl AsFd for Cleanup {
    /// Readable when a process that is waited for may have ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
