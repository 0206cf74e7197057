//! The quick pass: signals processes as soon as it sees them, for trees that fork faster than
//! they are read.
//!
//! The full pass reads everything of a process before it judges any. Meanwhile such a tree is
//! gone and has left children. So here each marked process of a tree on its ladder is held, read,
//! judged and signalled before the next one is looked at. The evidence is that of earlier full
//! passes, and the process's own.
//!
//! Of dead runs, nothing is signalled before every living shim is known, because a shim ends its
//! tree itself, by the ladder that its worker asked for.

use crate::cleanup::churn::Tally;
use crate::cleanup::engine::Engine;
use crate::cleanup::signalling::{Sent, send};
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
        let in_charge = self.targets.in_charge();
        let is_last = self.is_last(now);
        let due = |(tree, step)| match step {
            // Within a step, the slow, full passes do, except for trees that they cannot catch.
            Some(step) if !is_last => self.churn.contains(&tree).then_some((tree, step)),
            _ => Some((tree, Stage::kill(now))),
        };
        let steps = self.ladders.steps(now).filter(|(tree, _)| !in_charge.has_run_of(tree));
        let trees: HashMap<Tree, Due> = steps.filter_map(due).collect();
        if trees.is_empty() || self.report.refused.is_some() {
            return false;
        }
        self.report.passes += 1;
        self.judgements.forget_pass();
        let host = Arc::clone(&self.host);
        let mut reader = ProcessReader::new(&host, &[]);
        if !self.spec.kind.is_for_workers() && !self.shims_known {
            // A pass that was cut short may have missed a living shim, which ends its tree
            // itself. Signals wait for the next pass.
            self.find_shims(epoll, &mut reader);
            return true;
        }
        let mut tally = Tally::default();
        if trees.keys().any(|tree| self.churn.contains(tree)) {
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
        tally = Tally { sent: tally.sent + round.sent, ..round };
        self.churn.note(tally);
        self.clean &= tally.sent == 0;
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
            let judgements = &mut self.judgements;
            if !self.spec.kind.covers(&found, |run| judgements.run(run))
                || host.stat(pid, &mut buffer).is_ok_and(|stat| !is_named_shim(&stat.comm))
            {
                return ControlFlow::Continue(());
            }
            if let Ok(process) = reader.read_tags(pid, mark, Carriers::MarkOnly) {
                self.judgements.policy.observe_process(&process);
                let is_new = self.targets.get(&key(&process.identity)).is_none();
                let decision = self.judgements.process(&self.spec.kind, &process);
                if let Some(decision) =
                    decision.filter(|it| is_new && it.verdict == Verdict::Dead)
                {
                    if process.shim_of(host.uid()).is_some() {
                        self.add_target(epoll, &process, decision, None);
                    }
                }
            }
            ControlFlow::Continue(())
        });
        self.shims_known = listing.is_ok();
        self.churn.begin_anew();
    }

    /// Looks at every process from a number upwards, in small listings that are still fresh when
    /// their last entry is read.
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
            if count % 64 == 0 && began.elapsed() > QUICK_PASS_LIMIT {
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
        if !self.spec.kind.is_for_workers() && process.shim_of(self.host.uid()).is_some() {
            return QuickOutcome::Kept;
        }
        let key = key(&process.identity);
        if self.targets.is_decided(&key) {
            return QuickOutcome::Kept;
        }
        self.judgements.policy.observe_process(&process);
        let decision = self.judgements.process(&self.spec.kind, &process);
        let Some(decision) = decision else { return QuickOutcome::Kept };
        if decision.verdict != Verdict::Dead {
            return QuickOutcome::Kept;
        }
        if pidfd.is_ended() {
            return QuickOutcome::Vanished;
        }
        match send(&pidfd, signal) {
            Sent::Yes => {
                self.add_target(epoll, &process, decision, Some(pidfd));
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
