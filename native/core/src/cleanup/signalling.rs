//! Sends one signal to one process, after one more look at the process.

use crate::cleanup::engine::{Engine, SHIM_GRACE, remembered};
use crate::cleanup::report::{Match, Reason};
use crate::cleanup::spec::CleanupKind;
use crate::cleanup::stage::{Due, QUIT_GRACE, Stage};
use crate::cleanup::target::{Key, Target, is_in_charge};
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

// A dead run does not come back to life by itself. Only new witnesses change the verdict, and
// those come with passes.
const JUDGEMENT_HOLDS: Duration = Duration::from_millis(5);
const LADDER_PASS: Duration = Duration::from_millis(100);
const KILL_PASS: Duration = Duration::from_millis(10);

/// The result of a try to send a signal.
pub(crate) enum Sent {
    Yes,
    Ended,
    Kept(Decision),
    Blocked(Reason),
}

impl Engine {
    /// Sends the signals that are due.
    pub(crate) fn advance(&mut self, now: Instant) {
        // Shims come first, because they decide whether the others wait.
        let mut keys: Vec<_> =
            self.targets.iter().map(|(key, target)| (!target.is_shim, *key)).collect();
        keys.sort_unstable();
        let mut in_charge = self.trees_in_charge();
        for (_, key) in keys {
            let Some(target) = self.targets.get(&key) else { continue };
            if target.is_given_up() || (now < self.kill_at && is_in_charge(&in_charge, target)) {
                continue;
            }
            let is_shim = target.is_shim;
            let Some((signal, stage)) = self.due(target, now) else { continue };
            let outcome = self.signal(key, signal, now);
            self.note(key, signal, stage, outcome, now);
            if is_shim {
                in_charge = self.trees_in_charge();
            }
        }
    }

    /// Returns the signal that a target is due, and the stage after it.
    fn due(&self, target: &Target, now: Instant) -> Option<Due> {
        let is_last = now >= self.kill_at || self.is_for_workers();
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
            stage => {
                let began = self.ladders.get(&target.tree).copied().unwrap_or(now);
                stage.due(&self.spec.ladder, began, now, is_last)
            }
        }
    }

    fn shim_until(&self, target: &Target, now: Instant) -> Instant {
        let latest = self.kill_at.checked_sub(QUIT_GRACE).unwrap_or(now);
        target
            .process
            .shim
            .as_ref()
            .and_then(|shim| now.checked_add(shim.patience?.saturating_add(SHIM_GRACE)))
            .map_or(latest, |own| own.min(latest))
    }

    fn note(&mut self, key: Key, signal: Signal, stage: Stage, outcome: Sent, now: Instant) {
        match outcome {
            Sent::Ended => {
                let in_charge = self.trees_in_charge();
                self.end(key, &in_charge);
            }
            Sent::Kept(Decision { verdict, run, why }) => {
                if let Some(target) = self.targets.get(&key) {
                    let kept = Match::new(&target.process, run, verdict, why);
                    self.forget(key);
                    self.others.insert(key, kept);
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
                self.ladders.entry(target.tree).or_insert(now);
                let tree = target.tree;
                if target.is_shim && signal == Signal::KILL {
                    // Its worker dies with it. No shim is left that would give the rest a grace.
                    self.ladders
                        .insert(tree, now.checked_sub(self.ladder_length()).unwrap_or(now));
                }
                self.next_pass =
                    now + if signal == Signal::KILL { KILL_PASS } else { LADDER_PASS };
            }
        }
    }

    fn ladder_length(&self) -> Duration {
        self.spec.ladder.total().unwrap_or(Duration::from_secs(1 << 30))
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
        // The borrow of the target must end before the policy is asked.
        let process = target.process.clone();
        let fresh =
            match &self.spec.kind {
                CleanupKind::Process(_) => Some(None),
                CleanupKind::Worker(workers) => {
                    Some(workers.judge(&self.host, &mut self.policy, &process))
                }
                CleanupKind::Run { .. } | CleanupKind::Sweep { .. } => {
                    let stale: Vec<_> = process
                        .runs()
                        .into_iter()
                        .filter(|run| {
                            self.judgements
                                .get(run)
                                .is_none_or(|known| now.duration_since(known.0) > JUDGEMENT_HOLDS)
                        })
                        .collect();
                    for run in stale {
                        self.judgements.remove(&run);
                        if self.policy.refresh(run).is_err() {
                            return Sent::Blocked(Reason::Unreadable);
                        }
                    }
                    let judgements = &mut self.judgements;
                    Some(Some(self.policy.judge_process(&process, |policy, run| {
                        remembered(judgements, policy, run)
                    })))
                }
            };
        match fresh {
            Some(Some(decision)) if decision.verdict != Verdict::Dead => {
                return Sent::Kept(decision);
            }
            Some(None) => return Sent::Ended,
            _ => {}
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
    if let (Some(then), Some(now)) = (identity.pidfs_inode, pidfd.inode())
        && then != now
    {
        return Err(Sent::Ended);
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
