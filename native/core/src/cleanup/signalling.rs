//! Sends the signals that are due, each after one more look at the process.
//!
//! | before a signal | because |
//! |---|---|
//! | the pidfd is opened, or is open | no other process can get the signal |
//! | identity and tag are read again | an exec or a new number since the pass changes the case |
//! | records that are not fresh are read, and the process is judged again | its run may live |
//! | the pidfd is seen alive | so what was read is of this process |

use crate::cleanup::engine::Engine;
use crate::cleanup::report::{Match, Reason};
use crate::cleanup::stage::{Due, QUIT_GRACE, Stage};
use crate::cleanup::target::{Key, Target};
use crate::os::error::ErrorKind;
use crate::os::pidfd::PidFd;
use crate::os::signal::Signal;
use crate::policy::verdict::{Decision, Verdict};
use crate::procfs::host::Host;
use crate::procfs::identity::Identity;
use crate::runs::record::RecordedCommand;
use crate::tags::process_reader::{ProcessReader, Skipped};
use leash_tag::RunId;
use rustix::io::Errno;
use std::time::{Duration, Instant};

// The time until the next pass, after a signal of the ladder and after SIGKILL.
const LADDER_PASS: Duration = Duration::from_millis(100);
const KILL_PASS: Duration = Duration::from_millis(10);
// A shim may need this much longer than its own ladder.
const SHIM_GRACE: Duration = Duration::from_secs(1);

/// The result of a try to send a signal.
pub(crate) enum Sent {
    /// The signal was sent.
    Yes,
    /// The process has ended.
    Ended,
    /// The process is not to be ended after all.
    Kept(Decision),
    /// The signal could not be sent.
    Blocked(Reason),
}

impl Engine {
    /// Sends the signals that are due.
    pub(crate) fn advance(&mut self, now: Instant) {
        let mut in_charge = self.targets.in_charge();
        for key in self.targets.keys() {
            let Some(target) = self.targets.get(&key) else { continue };
            let waits = now < self.kill_at && in_charge.is_in_charge(target);
            if waits || target.is_given_up() {
                continue;
            }
            let is_shim = target.is_shim;
            let Some((signal, stage)) = self.due(target, now) else { continue };
            let outcome = self.signal(key, signal, now);
            self.note(key, signal, stage, outcome, now);
            if is_shim {
                in_charge = self.targets.in_charge();
            }
        }
    }

    /// Returns the signal that a target is due, and the stage after it.
    fn due(&self, target: &Target, now: Instant) -> Option<Due> {
        let is_last = self.is_last(now);
        match target.stage {
            Stage::New if target.is_shim && !is_last => {
                // A shim that outlives its VM has not begun by itself.
                let outlives = target.process.mark.present().is_some_and(|mark| mark.outlives());
                let signal = if outlives { Signal::INT } else { Signal::CONT };
                Some((signal, Stage::ShimWorks { until: self.shim_until(target, now) }))
            }
            Stage::ShimWorks { until } if !is_last => (now >= until)
                .then(|| (Signal::QUIT, Stage::ShimQuits { until: now + QUIT_GRACE })),
            Stage::ShimQuits { until } if !is_last => (now >= until).then(|| Stage::kill(now)),
            stage => self.ladders.due(target.tree, stage, now, is_last),
        }
    }

    /// The time until which a shim may work on its tree: its own ladder and a grace, but not past
    /// the time that SIGKILL needs.
    fn shim_until(&self, target: &Target, now: Instant) -> Instant {
        let latest = self.kill_at.checked_sub(QUIT_GRACE).unwrap_or(now);
        target
            .process
            .shim
            .as_ref()
            .and_then(|shim| now.checked_add(shim.patience?.saturating_add(SHIM_GRACE)))
            .map_or(latest, |own| own.min(latest))
    }

    /// Notes what a try to send a signal led to.
    fn note(&mut self, key: Key, signal: Signal, stage: Stage, outcome: Sent, now: Instant) {
        match outcome {
            Sent::Ended => self.targets.end(key),
            Sent::Kept(Decision { verdict, run, why }) => {
                if let Some(target) = self.targets.get(&key) {
                    let kept = Match::new(&target.process, run, verdict, why);
                    self.targets.keep(key, kept);
                }
            }
            Sent::Blocked(reason) => {
                if let Some(target) = self.targets.get_mut(&key) {
                    // A shim works whether or not it could be woken.
                    if reason == Reason::NoPidfd && signal == Signal::CONT {
                        target.stage = stage;
                        return;
                    }
                    target.blocked = Some(reason);
                }
            }
            Sent::Yes => {
                let Some(target) = self.targets.get_mut(&key) else { return };
                target.sent(signal, stage);
                if target.is_shim && signal == Signal::KILL {
                    // Its worker dies with it. No shim is left that would give the rest a grace.
                    self.ladders.skip(target.tree, now);
                } else {
                    self.ladders.begin(target.tree, now);
                }
                self.next_pass =
                    now + if signal == Signal::KILL { KILL_PASS } else { LADDER_PASS };
            }
        }
    }

    /// Signals a target if one more look shows the same process, still to be ended.
    ///
    /// The descriptor is opened first, and is seen alive last. So everything read by number in
    /// between is of its process.
    fn signal(&mut self, key: Key, signal: Signal, now: Instant) -> Sent {
        let Some(target) = self.targets.get(&key) else { return Sent::Ended };
        let identity = target.identity();
        let opened;
        let pidfd = match &target.pidfd {
            Some(pidfd) => pidfd,
            None => match PidFd::open_raw(identity.pid) {
                Ok(pidfd) => {
                    opened = pidfd;
                    &opened
                }
                Err(Errno::SRCH) => return Sent::Ended,
                Err(Errno::MFILE | Errno::NFILE) => {
                    return Sent::Blocked(Reason::DescriptorsExhausted);
                }
                Err(Errno::INVAL | Errno::NOENT) => return Sent::Ended,
                Err(Errno::NOSYS | Errno::PERM) => return Sent::Blocked(Reason::NoPidfd),
                Err(_) => return Sent::Blocked(Reason::Unreadable),
            },
        };
        if let Err(sent) = look_again(&self.host, &self.recorded, target, signal, pidfd) {
            return sent;
        }
        match self.judgements.process_again(&self.spec.kind, &target.process, now) {
            Err(_) => return Sent::Blocked(Reason::Unreadable),
            Ok(None) => return Sent::Ended,
            Ok(Some(decision)) if decision.verdict != Verdict::Dead => {
                return Sent::Kept(decision);
            }
            Ok(Some(_)) => {}
        }
        if pidfd.is_ended() {
            return Sent::Ended;
        }
        send(pidfd, signal)
    }
}

/// Sends a signal through a descriptor, and lets a stopped process run.
pub(crate) fn send(pidfd: &PidFd, signal: Signal) -> Sent {
    match pidfd.signal(signal) {
        Ok(()) => {
            // A stopped process sees no signal but KILL before it continues.
            if !matches!(signal, Signal::KILL | Signal::CONT) {
                let _ = pidfd.signal(Signal::CONT);
            }
            Sent::Yes
        }
        Err(error) if error.is_gone() => Sent::Ended,
        Err(error) if error.is_not_permitted() => Sent::Blocked(Reason::Eperm),
        Err(error) if error.kind() == ErrorKind::Unsupported => Sent::Blocked(Reason::NoPidfd),
        Err(_) => Sent::Blocked(Reason::Unreadable),
    }
}

/// Reads a target again by number while its descriptor is open. Checks that it is the same
/// process, with the tag by which it was judged.
fn look_again(
    host: &Host,
    recorded: &[(RunId, RecordedCommand)],
    target: &Target,
    signal: Signal,
    pidfd: &PidFd,
) -> std::result::Result<(), Sent> {
    let identity = target.identity();
    if let (Some(then), Some(now)) = (identity.pidfs_inode, pidfd.inode()) {
        if then != now {
            return Err(Sent::Ended);
        }
    }
    let mut reader = ProcessReader::new(host, recorded);
    // The start is unknown if `/proc` hides the process, now or when it was found. Mark and
    // descriptor have to do then.
    let same = |now: &Identity| {
        let starts = now.known_start().zip(identity.known_start());
        starts.is_none_or(|(now, then)| now == then)
    };
    let brief = target.process.mark.present().is_some() && signal == Signal::KILL;
    let looked = if brief {
        reader
            .read_mark_and_start(identity.pid)
            .map(|(now, mark)| (now, mark == target.process.mark))
    } else {
        reader
            .read_all(identity.pid)
            .map(|process| (process.identity, process.runs() == target.process.runs()))
    };
    match looked {
        Ok((now, _)) if !same(&now) => Err(Sent::Ended),
        Ok((_, true)) => Ok(()),
        // The number may have passed on between two reads. The descriptor tells.
        Ok((_, false)) | Err(Skipped::Untagged) if pidfd.is_ended() => Err(Sent::Ended),
        Ok((_, false)) | Err(Skipped::Untagged) => Err(Sent::Blocked(Reason::TagLost)),
        Err(Skipped::Zombie) => Err(Sent::Ended),
        Err(Skipped::Gone) if pidfd.is_ended() => Err(Sent::Ended),
        Err(Skipped::Gone) => Err(Sent::Blocked(Reason::Unreadable)),
        Err(Skipped::Failed(Errno::MFILE | Errno::NFILE)) => {
            Err(Sent::Blocked(Reason::DescriptorsExhausted))
        }
        Err(Skipped::Failed(_)) => Err(Sent::Blocked(Reason::Unreadable)),
    }
}
