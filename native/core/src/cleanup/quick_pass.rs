//! The quick pass: signals processes as soon as it sees them, for trees that fork faster than
//! they are read.

use crate::cleanup::engine::{Engine, remembered};
use crate::cleanup::report::Action;
use crate::cleanup::signalling::{Sent, send};
use crate::cleanup::spec::CleanupKind;
use crate::cleanup::stage::{Due, Stage};
use crate::cleanup::target::{Tree, key, tree_of_mark};
use crate::os::pid::Pid;
use crate::os::pidfd::PidFd;
use crate::policy::verdict::Verdict;
use crate::procfs::listing::{FRESH_LISTING, each_process_from};
use crate::tags::carrier::Carrier;
use crate::tags::process_reader::{Carriers, ProcessReader, Skipped};
use crate::tags::shim::is_named_shim;
use leash_tag::Mark;
use rustix::io::Errno;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

// A pass of signals chases new processes upwards. After this time it ends, and the next one
// starts from below.
const QUICK_PASS_LIMIT: Duration = Duration::from_millis(200);
// This many numbers below the last given one are looked at first. That repeats at most
// `HEAD_ROUNDS` times, while it ends something.
const HEAD: u32 = 256;
const HEAD_ROUNDS: u32 = 64;

/// The result of a quick pass.
#[derive(Default)]
struct Tally {
    sent: u32,
    vanished: u32,
    zombies: u32,
}

/// The result of a quick look at a process.
enum QuickOutcome {
    Sent,
    Kept,
    Zombie,
    Vanished,
}

impl Engine {
    /// Makes a quick pass that signals each marked process of the trees being ended as soon as it
    /// sees the process. A tree that forks without a pause is gone before a whole pass is over.
    ///
    /// Returns whether there was any such tree.
    pub(crate) fn quick_pass(&mut self, epoll: &OwnedFd, now: Instant) -> bool {
        let in_charge = self.trees_in_charge();
        let trees: HashMap<Tree, Due> = self
            .ladders
            .iter()
            .filter(|(tree, _)| !in_charge.iter().any(|shim| shim.0 == tree.0))
            .filter_map(|(tree, began)| {
                let due = match self.spec.ladder.at(now.saturating_duration_since(*began)) {
                    Some((step, signal, _)) if now < self.kill_at && !self.is_for_workers() => {
                        // Within a step, the slow, thorough passes do, except for trees that they
                        // cannot catch.
                        self.churning.contains(tree).then(|| Stage::step(step, signal, now))?
                    }
                    _ => Stage::kill(now),
                };
                Some((*tree, due))
            })
            .collect();
        if trees.is_empty() || self.report.refused.is_some() {
            return false;
        }
        self.report.passes += 1;
        self.policy.forget_pass();
        self.judgements.clear();
        let host = Arc::clone(&self.host);
        let mut reader = ProcessReader::new(&host, &[]);
        if !self.is_for_workers() && !self.shims_known {
            // A pass that was cut short may have missed a living shim, which ends its tree
            // itself. Signals wait for the next pass.
            self.find_shims(epoll, &mut reader);
            return true;
        }
        let mut tally = Tally::default();
        if trees.keys().any(|tree| self.churning.contains(tree)) {
            // The newest come first. Behind thousands of zombies their turn would never come.
            for _ in 0..HEAD_ROUNDS {
                let first = host.last_pid().unwrap_or(0).saturating_sub(HEAD);
                let round = self.quick_round(epoll, &mut reader, &trees, first, now);
                tally.sent += round.sent;
                if round.sent == 0 {
                    break;
                }
            }
        }
        let round = self.quick_round(epoll, &mut reader, &trees, 0, now);
        let (sent, vanished) = (tally.sent + round.sent, round.vanished);
        // New zombies are the trace of processes that ended unseen.
        let is_quiescent = sent == 0 && vanished == 0 && round.zombies <= self.zombies;
        self.zombies = round.zombies;
        self.quiescent_passes = if is_quiescent { self.quiescent_passes + 1 } else { 0 };
        self.busy_passes = if sent == 0 && !is_quiescent { self.busy_passes + 1 } else { 0 };
        self.clean &= sent == 0;
        true
    }

    /// Finds living shims of runs being ended. Reads the mark and compares the name before
    /// anything else.
    fn find_shims(&mut self, epoll: &OwnedFd, reader: &mut ProcessReader<'_>) {
        let host = Arc::clone(&self.host);
        let mut buffer = Vec::new();
        let listing = each_process_from(&host, 0, FRESH_LISTING, |pid| {
            let Ok(mark @ Carrier::Present(found)) = reader.read_mark(pid) else {
                return ControlFlow::Continue(());
            };
            let (policy, judgements) = (&mut self.policy, &mut self.judgements);
            if !self.spec.kind.covers(&found, |run| remembered(judgements, policy, run))
                || host.stat(pid, &mut buffer).is_ok_and(|stat| !is_named_shim(&stat.comm))
            {
                return ControlFlow::Continue(());
            }
            if let Ok(process) = reader.read_tags(pid, mark, Carriers::MarkOnly) {
                self.policy.observe_process(&process);
                let is_new = !self.targets.contains_key(&key(&process.identity));
                if let Some(decision) =
                    self.decide(&process).filter(|it| is_new && it.verdict == Verdict::Dead)
                    && process.shim_of(host.uid()).is_some()
                {
                    self.take(epoll, &process, decision, None);
                }
            }
            ControlFlow::Continue(())
        });
        self.shims_known = listing.is_ok();
        self.quiescent_passes = 0;
    }

    fn quick_round(
        &mut self,
        epoll: &OwnedFd,
        reader: &mut ProcessReader<'_>,
        trees: &HashMap<Tree, Due>,
        first: u32,
        began: Instant,
    ) -> Tally {
        let host = Arc::clone(&self.host);
        let mut tally = Tally::default();
        let mut count = 0_u32;
        let listing = each_process_from(&host, first, FRESH_LISTING, |pid| {
            count += 1;
            if count.is_multiple_of(64) && began.elapsed() > QUICK_PASS_LIMIT {
                tally.vanished += 1;
                return ControlFlow::Break(());
            }
            let mark = match reader.read_mark(pid) {
                Ok(mark) => mark,
                Err(Skipped::Gone) => {
                    tally.vanished += 1;
                    return ControlFlow::Continue(());
                }
                Err(_) => return ControlFlow::Continue(()),
            };
            let tree = mark.present().map(|mark| tree_of_mark(*mark));
            if let Some(&due) = tree.and_then(|tree| trees.get(&tree)) {
                match self.signal_at_once(epoll, reader, pid, mark, due) {
                    QuickOutcome::Sent => tally.sent += 1,
                    QuickOutcome::Kept => {}
                    QuickOutcome::Zombie => tally.zombies += 1,
                    QuickOutcome::Vanished => tally.vanished += 1,
                }
            }
            ControlFlow::Continue(())
        });
        tally.vanished += u32::from(listing.is_err());
        tally
    }

    pub(crate) fn is_for_workers(&self) -> bool {
        matches!(self.spec.kind, CleanupKind::Worker(_))
    }

    /// Signals a process that was seen just now, if it is to be ended.
    fn signal_at_once(
        &mut self,
        epoll: &OwnedFd,
        reader: &mut ProcessReader<'_>,
        pid: Pid,
        mark: Carrier<Mark>,
        (signal, stage): Due,
    ) -> QuickOutcome {
        let pidfd = match PidFd::open_raw(pid) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH | Errno::NOENT | Errno::INVAL) => return QuickOutcome::Vanished,
            Err(_) => return QuickOutcome::Kept,
        };
        // Zombies keep their mark until they are reaped, and there may be thousands.
        if pidfd.is_ended() {
            return QuickOutcome::Zombie;
        }
        // The mark is read anew, now that the descriptor holds the process.
        let again = reader.read_mark(pid);
        let process = match again {
            Ok(again) if again == mark => match reader.read_without_cmdline(pid, again) {
                Ok(process) => process,
                Err(Skipped::Gone) => return QuickOutcome::Vanished,
                Err(_) => return QuickOutcome::Kept,
            },
            Err(Skipped::Gone) => return QuickOutcome::Vanished,
            _ => return QuickOutcome::Kept,
        };
        if !self.is_for_workers() && process.shim_of(self.host.uid()).is_some() {
            return QuickOutcome::Kept;
        }
        let key = key(&process.identity);
        if self.targets.contains_key(&key)
            || self.others.get(&key).is_some_and(|m| m.action == Action::Kept)
        {
            return QuickOutcome::Kept;
        }
        self.policy.observe_process(&process);
        let Some(decision) = self.decide(&process) else { return QuickOutcome::Kept };
        if decision.verdict != Verdict::Dead {
            return QuickOutcome::Kept;
        }
        if pidfd.is_ended() {
            return QuickOutcome::Vanished;
        }
        match send(&pidfd, signal) {
            Sent::Yes => {
                self.take(epoll, &process, decision, Some(pidfd));
                if let Some(target) = self.targets.get_mut(&key) {
                    target.sent(signal, stage);
                }
                QuickOutcome::Sent
            }
            Sent::Ended => QuickOutcome::Vanished,
            Sent::Kept(_) | Sent::Blocked(_) => QuickOutcome::Kept,
        }
    }
}
