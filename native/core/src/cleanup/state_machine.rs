//! Ends processes for certain. A cleanup is a state machine that its driver steps; it never waits
//! itself.
//!
//! Every step notes which processes have ended, passes over the process table if that is due, and
//! sends what is due. Passes repeat until a complete one, of all carriers, finds nothing left to
//! end.

use crate::cleanup::engine::{Engine, millis};
use crate::cleanup::report::Report;
use crate::cleanup::spec::CleanupSpec;
use crate::os::error::{Error, Result};
use crate::os::reserve::with_reserve;
use rustix::event::epoll;
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
    Working(Box<Engine>),
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
            self.state = match Engine::begin(&self.spec, &self.epoll, now) {
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

impl AsFd for Cleanup {
    /// Readable when a process that is waited for may have ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
