//! The quick pass: signals processes as soon as it sees them, for trees that fork faster than
//! they are read.

use crate::cleanup::engine::{QUIT_GRACE, Work, remembered};
use crate::cleanup::report::Action;
use crate::cleanup::spec::HuntKind;
use crate::cleanup::target::{Stage, Tree, key, tree_of_mark};
use crate::os::pid::Pid;
use crate::os::pidfd::PidFd;
use crate::os::signal::Signal;
use crate::policy::verdict::Verdict;
use crate::procfs::listing::{FRESH_LISTING, each_process_from};
use crate::tags::carrier::Carrier;
use crate::tags::process_reader::{Carriers, Examiner, Skipped};
use crate::tags::tagged_process::Seen;
use leash_tag::Mark;
use leash_tag::argv::SHIM_NAME;
use rustix::io::Errno;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

// A pass of signals chases new processes upwards. After this time it ends, and the next one
// starts from below.
const SIGHT_PASS: Duration = Duration::from_millis(200);
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
enum Sight {
    Sent,
    Kept,
    Zombie,
    Vanished,
}

impl Work {
    /// Makes a quick pass that signals each marked process of the trees being ended as soon as it
    /// sees the process. A tree that forks without a pause is gone before a whole pass is over.
    ///
    /// Returns whether there was any such tree.
    pub(crate) fn signal_on_sight(
        &mut self,
        epoll: &OwnedFd,
        now: Instant,
        deadline: Instant,
    ) -> bool {
        let kill_at = self.kill_at(now, deadline);
        let in_charge = self.trees_in_charge();
        let trees: HashMap<Tree, (Signal, Stage)> = self
            .ladders
            .iter()
            .filter(|(tree, _)| !in_charge.iter().any(|shim| shim.0 == tree.0))
            .filter_map(|(tree, began)| {
                let kill = (Signal::KILL, Stage::Killed { again: now + QUIT_GRACE });
                let due = match self.spec.ladder.at(now.saturating_duration_since(*began)) {
                    Some((step, signal, _)) if now < kill_at && !self.is_for_workers() => {
                        // Within a step, the slow, thorough passes do, except for trees that they
                        // cannot catch.
                        self.fleeting.contains(tree).then_some((signal, Stage::Step(step)))?
                    }
                    _ => kill,
                };
                Some((*tree, due))
            })
            .collect();
        if trees.is_empty() || self.report.refused.is_some() {
            return false;
        }
        self.report.passes += 1;
        self.judge.forget_pass();
        self.judgements.clear();
        let host = Arc::clone(&self.host);
        let mut examiner = Examiner::new(&host, &[]);
        if !self.is_for_workers() && !self.shims_known {
            // A pass that was cut short may have missed a living shim, which ends its tree
            // itself. Signals wait for the next pass.
            self.find_shims(epoll, &mut examiner);
            return true;
        }
        let mut tally = Tally::default();
        if trees.keys().any(|tree| self.fleeting.contains(tree)) {
            // The newest come first. Behind thousands of zombies their turn would never come.
            for _ in 0..HEAD_ROUNDS {
                let first = host.last_pid().unwrap_or(0).saturating_sub(HEAD);
                let round = self.sight_round(epoll, &mut examiner, &trees, first, now);
                tally.sent += round.sent;
                if round.sent == 0 {
                    break;
                }
            }
        }
        let round = self.sight_round(epoll, &mut examiner, &trees, 0, now);
        let (sent, vanished) = (tally.sent + round.sent, round.vanished);
        // New zombies are the trace of processes that ended unseen.
        let is_calm = sent == 0 && vanished == 0 && round.zombies <= self.zombies;
        self.zombies = round.zombies;
        self.calm = if is_calm { self.calm + 1 } else { 0 };
        self.restless = if sent == 0 && !is_calm { self.restless + 1 } else { 0 };
        self.clean &= sent == 0;
        true
    }

    /// Finds living shims of runs being ended. Reads the mark and compares the name before
    /// anything else.
    fn find_shims(&mut self, epoll: &OwnedFd, examiner: &mut Examiner<'_>) {
        let host = Arc::clone(&self.host);
        let mut buffer = Vec::new();
        let listing = each_process_from(&host, 0, FRESH_LISTING, |pid| {
            let Ok(mark @ Carrier::Present(found)) = examiner.mark(pid) else {
                return ControlFlow::Continue(());
            };
            let (judge, judgements) = (&mut self.judge, &mut self.judgements);
            if !self.spec.kind.covers(&found, |run| remembered(judgements, judge, run))
                || host.stat(pid, &mut buffer).is_ok_and(|stat| stat.comm != SHIM_NAME)
            {
                return ControlFlow::Continue(());
            }
            if let Ok(seen) = examiner.rest(pid, mark, Carriers::MarkOnly) {
                self.judge.hear_process(&seen);
                let is_new = !self.targets.contains_key(&key(&seen.identity));
                if let Some(decision) =
                    self.decide(&seen).filter(|it| is_new && it.verdict == Verdict::Dead)
                    && seen.shim_of(host.uid()).is_some()
                {
                    self.take(epoll, &seen, decision, None);
                }
            }
            ControlFlow::Continue(())
        });
        self.shims_known = listing.is_ok();
        self.calm = 0;
    }

    fn sight_round(
        &mut self,
        epoll: &OwnedFd,
        examiner: &mut Examiner<'_>,
        trees: &HashMap<Tree, (Signal, Stage)>,
        first: u32,
        began: Instant,
    ) -> Tally {
        let host = Arc::clone(&self.host);
        let mut tally = Tally::default();
        let mut count = 0_u32;
        let listing = each_process_from(&host, first, FRESH_LISTING, |pid| {
            count += 1;
            if count.is_multiple_of(64) && began.elapsed() > SIGHT_PASS {
                tally.vanished += 1;
                return ControlFlow::Break(());
            }
            let mark = match examiner.mark(pid) {
                Ok(mark) => mark,
                Err(Skipped::Gone) => {
                    tally.vanished += 1;
                    return ControlFlow::Continue(());
                }
                Err(_) => return ControlFlow::Continue(()),
            };
            let tree = mark.present().map(|mark| tree_of_mark(*mark));
            if let Some(&due) = tree.and_then(|tree| trees.get(&tree)) {
                match self.on_sight(epoll, examiner, pid, mark, due) {
                    Sight::Sent => tally.sent += 1,
                    Sight::Kept => {}
                    Sight::Zombie => tally.zombies += 1,
                    Sight::Vanished => tally.vanished += 1,
                }
            }
            ControlFlow::Continue(())
        });
        tally.vanished += u32::from(listing.is_err());
        tally
    }

    /// Whether a process may be a shim, by the name that the kernel keeps. Only the program
    /// itself can change that name.
    fn may_be_shim(&self, seen: &Seen) -> bool {
        let is_ours = seen.is_of(self.host.uid());
        is_ours
            && seen
                .command
                .strip_prefix('[')
                .and_then(|name| name.strip_suffix(']'))
                .map(str::as_bytes)
                == Some(SHIM_NAME)
    }

    pub(crate) fn is_for_workers(&self) -> bool {
        matches!(self.spec.kind, HuntKind::Worker(_))
    }

    /// Signals a process that was seen just now, if it is to be ended.
    fn on_sight(
        &mut self,
        epoll: &OwnedFd,
        examiner: &mut Examiner<'_>,
        pid: Pid,
        mark: Carrier<Mark>,
        (signal, stage): (Signal, Stage),
    ) -> Sight {
        let pidfd = match PidFd::open_raw(pid) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH | Errno::NOENT | Errno::INVAL) => return Sight::Vanished,
            Err(_) => return Sight::Kept,
        };
        // Zombies keep their mark until they are reaped, and there may be thousands.
        if pidfd.is_ended() {
            return Sight::Zombie;
        }
        // The mark is read anew, now that the descriptor holds the process.
        let again = examiner.mark(pid);
        let seen = match again {
            Ok(again) if again == mark => match examiner.lean(pid, again) {
                Ok(seen) => seen,
                Err(Skipped::Gone) => return Sight::Vanished,
                Err(_) => return Sight::Kept,
            },
            Err(Skipped::Gone) => return Sight::Vanished,
            _ => return Sight::Kept,
        };
        if !self.is_for_workers() && self.may_be_shim(&seen) {
            return Sight::Kept;
        }
        let key = key(&seen.identity);
        if self.targets.contains_key(&key)
            || self.others.get(&key).is_some_and(|m| m.action == Action::Kept)
        {
            return Sight::Kept;
        }
        self.judge.hear_process(&seen);
        let Some(decision) = self.decide(&seen) else { return Sight::Kept };
        if decision.verdict != Verdict::Dead {
            return Sight::Kept;
        }
        if pidfd.is_ended() {
            return Sight::Vanished;
        }
        match pidfd.signal(signal) {
            Ok(()) => {
                if signal != Signal::KILL {
                    let _ = pidfd.signal(Signal::CONT);
                }
                self.take(epoll, &seen, decision, Some(pidfd));
                if let Some(target) = self.targets.get_mut(&key) {
                    target.stage = stage;
                    target.last = Some(signal);
                }
                Sight::Sent
            }
            Err(error) if error.is_gone() => Sight::Vanished,
            Err(_) => Sight::Kept,
        }
    }
}
