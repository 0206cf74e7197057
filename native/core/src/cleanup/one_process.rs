//! Ends one process that is named by its identity, whatever its tags.
//!
//! Its descriptor holds the process from the first look to the last, so no pass over `/proc` is
//! needed. The ladder begins at once. A process that `/proc` does not identify is refused,
//! because then the descriptor may be of another process.

use crate::cleanup::report::{Match, Refused, Report, millis};
use crate::cleanup::signalling::{Sent, send};
use crate::cleanup::spec::CleanupSpec;
use crate::cleanup::target::Target;
use crate::os::error::ErrorKind;
use crate::os::pidfd::PidFd;
use crate::policy::verdict::Verdict;
use crate::procfs::host::Host;
use crate::procfs::identity::Identity;
use crate::tags::ladder::Ladder;
use crate::tags::process_reader::{ProcessReader, Skipped};
use crate::tags::tagged_process::TaggedProcess;
use rustix::event::epoll;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

// After a signal that was not sent, the next try comes in this time.
const RETRY: Duration = Duration::from_millis(20);

/// The cleanup of one process.
#[derive(Debug)]
pub(crate) struct OneProcess {
    host: Host,
    target: Target,
    pidfd: PidFd,
    ladder: Ladder,
    began: Instant,
    deadline: Instant,
    kill_at: Instant,
}

impl OneProcess {
    /// Opens the process. The driver's descriptor wakes when it ends.
    pub(crate) fn begin(
        spec: &CleanupSpec,
        identity: &Identity,
        host: Host,
        epoll: &OwnedFd,
        now: Instant,
    ) -> Result<Self, Refused> {
        if let Some(refusal) = host.refusal(identity.pid) {
            return Err(Refused::Process(refusal));
        }
        let pidfd = host.open(identity).map_err(|error| match error.kind() {
            ErrorKind::Gone => Refused::Gone,
            ErrorKind::Reused => Refused::Reused,
            ErrorKind::NotPermitted => Refused::NotPermitted,
            _ => Refused::Unknown,
        })?;
        let read = ProcessReader::new(&host, &[]).read_untagged(identity.pid);
        let process = read.map_err(|why| match why {
            Skipped::Gone | Skipped::Zombie => Refused::Gone,
            _ => Refused::Unknown,
        })?;
        let process = TaggedProcess { identity: *identity, ..process };
        // Without this entry the driver's clock finds the end, only later.
        let _ = epoll::add(epoll, &pidfd, epoll::EventData::new_u64(0), epoll::EventFlags::IN);
        let found =
            Match::new(&process, None, Verdict::Asked, "asked for by its identity".into());
        let target = Target::new(process, found, (None, None));
        let (deadline, kill_at) = spec.times(now);
        Ok(Self {
            host,
            target,
            pidfd,
            ladder: spec.ladder.clone(),
            began: now,
            deadline,
            kill_at,
        })
    }

    /// Makes one step: until when to wait, or the report when all is done.
    pub(crate) fn step(&mut self, now: Instant) -> ControlFlow<Box<Report>, Instant> {
        let now = Instant::now().max(now);
        let due = self.target.stage.due(&self.ladder, self.began, now, now >= self.kill_at);
        if let Some((signal, stage)) = due {
            if !self.pidfd.is_ended() {
                match send(&self.pidfd, signal) {
                    Sent::Yes => self.target.sent(signal, stage),
                    Sent::Blocked(reason) => self.target.blocked = Some(reason),
                    Sent::Ended | Sent::Kept(_) => {}
                }
            }
        }
        let is_ended = self.pidfd.is_ended();
        if is_ended || self.target.is_given_up() || now >= self.deadline {
            return ControlFlow::Break(Box::new(self.report(is_ended)));
        }
        let retry = self.target.blocked.map(|_| now + RETRY);
        let next = self.target.stage.next(&self.ladder, self.began, now);
        let kill_at = Some(self.kill_at).filter(|kill_at| *kill_at > now);
        let times = [retry, next, kill_at, Some(self.deadline)];
        ControlFlow::Continue(times.into_iter().flatten().min().unwrap_or(self.deadline))
    }

    /// The report on the process, ended or not.
    fn report(&self, is_ended: bool) -> Report {
        let (found, survivor) = if is_ended {
            (self.target.ended(false), None)
        } else {
            let (found, survivor) = self.target.survived(&self.host);
            (found, Some(survivor))
        };
        Report {
            matches: vec![found],
            survivors: survivor.into_iter().collect(),
            elapsed_ms: millis(self.began.elapsed()),
            ..Report::default()
        }
    }
}
