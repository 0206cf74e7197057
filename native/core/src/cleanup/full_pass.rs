//! The thorough pass: reads, judges and sorts everything tagged.

use crate::cleanup::engine::{Work, remembered};
use crate::cleanup::report::{Match, Refused};
use crate::cleanup::spec::HuntKind;
use crate::cleanup::target::{Key, Stage, Target, key, tree_of_mark};
use crate::os::pidfd::PidFd;
use crate::os::reserve::is_scarce;
use crate::policy::verdict::{Decision, Verdict};
use crate::tags::process_reader::Carriers;
use crate::tags::scan::{Incomplete, Scan, ScanOptions, SkipMark, scan_until};
use crate::tags::tagged_process::Seen;
use leash_tag::Mark;
use rustix::event::epoll;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

// Descriptors are the VM's. Past this many, a pass looks at the rest by number and identity.
const HELD: usize = 256;
// This many zombies, or a quarter as many vanished processes, show a tree that cannot be read in
// peace.
const FLEETING: usize = 64;

impl Work {
    /// Makes one pass. Judges everything tagged, and turns what is to end into targets.
    pub(crate) fn pass(&mut self, epoll: &OwnedFd, carriers: Carriers, deadline: Instant) {
        self.report.passes += 1;
        self.judgements.clear();
        let complete = self.hear_records();
        let workers = match &self.spec.kind {
            HuntKind::Worker(workers) => Some(workers as &dyn SkipMark),
            _ => None,
        };
        let (mut haunted, mut zombies) = (Vec::new(), Vec::new());
        let options = ScanOptions { carriers, recorded: &self.recorded, skip: workers };
        let host = Arc::clone(&self.host);
        let (kind, judge, judgements) = (&self.spec.kind, &mut self.judge, &mut self.judgements);
        let known = &mut self.fleeting;
        let mut fleeting = 0;
        let mut result = scan_until(&host, &options, |what| match what {
            // Once a tree is known as fleeting, its zombies say nothing new. There may be
            // thousands from long ago.
            Some((mark, true)) if known.contains(&tree_of_mark(*mark)) => false,
            Some((mark, is_zombie)) => {
                if kind.covers(mark, |run| remembered(judgements, judge, run)) {
                    if is_zombie {
                        zombies.push(*mark);
                    }
                    fleeting += if is_zombie { 1 } else { FLEETING / 4 };
                    if fleeting >= FLEETING {
                        known.insert(tree_of_mark(*mark));
                        haunted.push(*mark);
                    }
                }
                fleeting >= FLEETING
            }
            None => Instant::now() >= deadline,
        });
        let judges_owners =
            matches!(self.spec.kind, HuntKind::Run { .. } | HuntKind::Sweep { .. });
        // A hunt for own workers finds them without any record.
        if !complete && judges_owners {
            result.incomplete.push(Incomplete::Records);
        }
        if judges_owners && (host.boot().is_none() || host.pid_ns().is_none()) {
            result.incomplete.push(Incomplete::NoIdentity);
        }
        self.shims_known |= !result.incomplete.contains(&Incomplete::Fleeting);
        self.judge.hear(&result);
        self.judgements.clear();
        if let HuntKind::Run { run, .. } = self.spec.kind {
            let verdict = self.judgement(run).verdict;
            if self.report.passes == 1 && !matches!(verdict, Verdict::Dead | Verdict::Stale) {
                self.report.refused = Some(Refused::Run(verdict));
            }
        }
        let mut found = self.sort(epoll, &result);
        if carriers == Carriers::All && self.look_by_number(&mut result, found, deadline) {
            self.judge.hear(&result);
            self.judgements.clear();
            found = self.sort(epoll, &result);
        }
        haunted.extend_from_slice(&result.vanished);
        // A zombie may be an old one that no parent reaps, or the last trace of a tree that forks
        // and exits. So zombies only require that passes are calm before a pass without finds
        // counts.
        self.haunt(&zombies);
        let haunted = self.haunt(&haunted);
        self.clean = carriers == Carriers::All
            && (found == 0 || self.is_report())
            && self.targets.is_empty();
        if carriers == Carriers::All {
            self.named = result.seen.iter().flat_map(Seen::runs).collect();
            self.report.unreadable = result.unreadable;
            self.report.complete = result.is_complete();
            self.report.incomplete_because = result.incomplete;
            // A process that cannot be ended does not keep the passes going.
            self.clean |= found == 0 && !self.is_pending();
        }
        // Descriptors may become free before the deadline.
        let exhausted =
            self.report.incomplete_because.contains(&Incomplete::DescriptorsExhausted);
        self.clean &= self.is_report() || (!haunted && !exhausted);
    }

    /// Reads the records. Returns whether it could read every one that the verdicts need.
    fn hear_records(&mut self) -> bool {
        let is_for_workers = self.is_for_workers();
        let Some(dir) = &self.spec.run_dir else {
            return is_for_workers || !self.spec.records_unusable;
        };
        if is_for_workers {
            // The asking VM is the proof for its own workers. A record could add only the owner
            // of a run that is nested in one of them.
            self.judge.hear_records(&dir.heads().files);
            return true;
        }
        let records = dir.records();
        self.recorded = records.commands();
        self.judge.hear_records(&records.files);
        self.judge.records_are_unusable(!records.complete);
        records.complete
    }

    /// Starts the ladder of each tree of which only fleeting processes were seen. Returns whether
    /// there is one.
    fn haunt(&mut self, vanished: &[Mark]) -> bool {
        let mut haunted = false;
        for mark in vanished {
            let (judge, judgements) = (&mut self.judge, &mut self.judgements);
            if self.spec.kind.covers(mark, |run| remembered(judgements, judge, run)) {
                haunted = true;
                self.ladders.entry(tree_of_mark(*mark)).or_insert_with(Instant::now);
                self.fleeting.insert(tree_of_mark(*mark));
            }
        }
        haunted
    }

    /// Returns how many new targets there are.
    fn sort(&mut self, epoll: &OwnedFd, result: &Scan) -> usize {
        let mut found = 0;
        for seen in &result.seen {
            let key = key(&seen.identity);
            let Some(decision) = self.decide(seen) else { continue };
            let is_target = decision.verdict == Verdict::Dead && self.report.refused.is_none();
            if is_target && !self.is_report() {
                if let Some(target) = self.targets.get_mut(&key) {
                    target.found.state = seen.state;
                    target.seen = seen.clone();
                } else {
                    found += 1;
                    self.take(epoll, seen, decision, None);
                }
            } else {
                self.forget(key);
                let Decision { verdict, run, why } = decision;
                self.others.insert(key, Match::new(seen, run, verdict, why));
            }
        }
        found
    }

    pub(crate) fn take(
        &mut self,
        epoll: &OwnedFd,
        seen: &Seen,
        decision: Decision,
        open: Option<PidFd>,
    ) {
        let Decision { verdict, run, why } = decision;
        let found = Match::new(seen, run, verdict, why);
        let is_shim = !self.is_for_workers() && seen.shim_of(self.host.uid()).is_some();
        let tree = (run, run.and_then(|run| seen.worker_in(run)));
        let key = key(&seen.identity);
        let pidfd = if self.held < HELD { self.hold(epoll, seen, key, open) } else { None };
        let stage = Stage::New;
        let waited_for = self.is_for_workers();
        let (last, blocked) = (None, None);
        let target = Target {
            seen: seen.clone(),
            found,
            tree,
            is_shim,
            pidfd,
            stage,
            last,
            blocked,
            waited_for,
        };
        self.others.remove(&key);
        if !is_shim {
            self.ladders.entry(tree).or_insert_with(Instant::now);
        }
        self.targets.insert(key, target);
    }

    /// Opens a descriptor of the process that was seen, to wait on. `None` does no harm.
    fn hold(
        &mut self,
        epoll: &OwnedFd,
        seen: &Seen,
        key: Key,
        open: Option<PidFd>,
    ) -> Option<PidFd> {
        // The reserve is for signals, so this descriptor must not come from it.
        if is_scarce() {
            return None;
        }
        let pidfd = match open {
            Some(pidfd) => pidfd,
            None => PidFd::open_unreserved(seen.identity.pid)?,
        };
        let data = epoll::EventData::new_u64(u64::from(key.0));
        epoll::add(epoll, &pidfd, data, epoll::EventFlags::IN).ok()?;
        self.held += 1;
        Some(pidfd)
    }
}
