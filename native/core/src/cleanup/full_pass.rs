//! The full pass: reads, judges and sorts everything tagged.
//!
//! The order matters. The records are read first, because they name commands that the scan looks
//! for. The scan's result is evidence before any process of it is judged: the last process of the
//! listing may be the witness that keeps the first one alive.
//!
//! A pass that is cut short, because a tree forks faster than it is read, proves nothing. It only
//! begins the ladder of that tree, and the quick pass does the rest.

use crate::cleanup::engine::Engine;
use crate::cleanup::report::{Match, Refused};
use crate::cleanup::spec::CleanupKind;
use crate::cleanup::target::{Target, key, tree_of_mark};
use crate::os::pidfd::PidFd;
use crate::policy::verdict::{Decision, Verdict};
use crate::tags::process_reader::Carriers;
use crate::tags::scan::{Incomplete, Scan, ScanOptions, scan_until};
use crate::tags::tagged_process::TaggedProcess;
use leash_tag::Mark;
use rustix::event::epoll;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

// This many zombies, or a quarter as many vanished processes, show a tree that cannot be read in
// peace.
const CHURN_LIMIT: usize = 64;

impl Engine {
    /// Makes one pass. Judges everything tagged, and turns what is to end into targets.
    pub(crate) fn full_pass(&mut self, epoll: &OwnedFd, carriers: Carriers) {
        self.report.passes += 1;
        self.judgements.forget();
        let complete = self.observe_records();
        let (mut churned, mut zombies) = (Vec::new(), Vec::new());
        let options =
            ScanOptions { carriers, recorded: &self.recorded, skip: self.spec.kind.skip() };
        let host = Arc::clone(&self.host);
        let (kind, judgements) = (&self.spec.kind, &mut self.judgements);
        let known = &mut self.churn;
        let deadline = self.deadline;
        let mut churn = 0;
        let mut result = scan_until(&host, &options, |what| match what {
            // Once a tree is known to churn, its zombies say nothing new. There may be
            // thousands from long ago.
            Some((mark, true)) if known.contains(&tree_of_mark(*mark)) => false,
            Some((mark, is_zombie)) => {
                if kind.covers(mark, |run| judgements.run(run)) {
                    if is_zombie {
                        zombies.push(*mark);
                    }
                    churn += if is_zombie { 1 } else { CHURN_LIMIT / 4 };
                    if churn >= CHURN_LIMIT {
                        known.add(tree_of_mark(*mark));
                        churned.push(*mark);
                    }
                }
                churn >= CHURN_LIMIT
            }
            None => Instant::now() >= deadline,
        });
        let judges_owners = !self.spec.kind.is_for_workers();
        // A cleanup for own workers finds them without any record.
        if !complete && judges_owners {
            result.incomplete.push(Incomplete::Records);
        }
        if judges_owners && (host.boot().is_none() || host.pid_ns().is_none()) {
            result.incomplete.push(Incomplete::NoIdentity);
        }
        self.shims_known |= !result.incomplete.contains(&Incomplete::Fleeting);
        self.judgements.observe(&result);
        if let CleanupKind::Run { run, .. } = self.spec.kind {
            let verdict = self.judgements.run(run).verdict;
            if self.report.passes == 1 && !matches!(verdict, Verdict::Dead | Verdict::Stale) {
                self.report.refused = Some(Refused::Run(verdict));
            }
        }
        let mut found = self.sort(epoll, &result);
        if carriers == Carriers::All && self.add_hidden(&mut result, found) {
            self.judgements.observe(&result);
            found = self.sort(epoll, &result);
        }
        churned.extend_from_slice(&result.vanished);
        // A zombie may be an old one that no parent reaps, or the last trace of a tree that forks
        // and exits. So zombies only require that passes are quiescent before a pass without
        // finds counts.
        self.note_churn(&zombies);
        let churned = self.note_churn(&churned);
        self.clean = carriers == Carriers::All
            && (found == 0 || self.spec.kind.is_report())
            && self.targets.is_empty();
        if carriers == Carriers::All {
            self.named = result.tagged.iter().flat_map(TaggedProcess::runs).collect();
            self.name_untagged(&mut result);
            self.report.unreadable = result.unreadable;
            self.report.complete = result.is_complete();
            self.report.incomplete_because = result.incomplete;
            // A process that cannot be ended does not keep the passes going.
            self.clean |= found == 0 && !self.targets.is_pending();
        }
        // Descriptors may become free before the deadline.
        let exhausted =
            self.report.incomplete_because.contains(&Incomplete::DescriptorsExhausted);
        self.clean &= self.spec.kind.is_report() || (!churned && !exhausted);
    }

    /// Reads the records. Returns whether it could read every one that the verdicts need.
    fn observe_records(&mut self) -> bool {
        let is_for_workers = self.spec.kind.is_for_workers();
        let Some(dir) = &self.spec.run_dir else {
            return is_for_workers || !self.spec.records_unusable;
        };
        if is_for_workers {
            // The asking VM is the proof for its own workers. A record could add only the owner
            // of a run that is nested in one of them.
            self.judgements.policy.observe_records(&dir.heads().files);
            return true;
        }
        let records = dir.records();
        self.recorded = records.commands();
        self.judgements.policy.observe_records(&records.files);
        self.judgements.policy.records_are_unusable(!records.complete);
        records.complete
    }

    /// Starts the ladder of each tree whose processes end before they are read. Returns whether
    /// there is one.
    fn note_churn(&mut self, vanished: &[Mark]) -> bool {
        let mut churned = false;
        for mark in vanished {
            let judgements = &mut self.judgements;
            if self.spec.kind.covers(mark, |run| judgements.run(run)) {
                churned = true;
                self.ladders.begin(tree_of_mark(*mark), Instant::now());
                self.churn.add(tree_of_mark(*mark));
            }
        }
        churned
    }

    /// Makes targets of the processes that are to end, and matches of the others. Returns how
    /// many new targets there are.
    fn sort(&mut self, epoll: &OwnedFd, result: &Scan) -> usize {
        let mut found = 0;
        for process in &result.tagged {
            let key = key(&process.identity);
            let Some(decision) = self.judgements.process(&self.spec.kind, process) else {
                continue;
            };
            let is_target = decision.verdict == Verdict::Dead && self.report.refused.is_none();
            if is_target && !self.spec.kind.is_report() {
                if let Some(target) = self.targets.get_mut(&key) {
                    target.found.state = process.state;
                    target.process = process.clone();
                } else {
                    found += 1;
                    self.add_target(epoll, process, decision, None);
                }
            } else {
                let Decision { verdict, run, why } = decision;
                self.targets.keep(key, Match::new(process, run, verdict, why));
            }
        }
        found
    }

    /// Makes a process a target. `open` is its descriptor, if there is one already.
    pub(crate) fn add_target(
        &mut self,
        epoll: &OwnedFd,
        process: &TaggedProcess,
        decision: Decision,
        open: Option<PidFd>,
    ) {
        let Decision { verdict, run, why } = decision;
        let found = Match::new(process, run, verdict, why);
        let waited_for = self.spec.kind.is_for_workers();
        let is_shim = !waited_for && process.shim_of(self.host.uid()).is_some();
        let tree = (run, run.and_then(|run| process.worker_in(run)));
        let pidfd = if self.targets.may_hold() { hold(epoll, process, open) } else { None };
        if !is_shim {
            self.ladders.begin(tree, Instant::now());
        }
        let target =
            Target { is_shim, pidfd, waited_for, ..Target::new(process.clone(), found, tree) };
        self.targets.add(key(&process.identity), target);
    }
}

/// Opens a descriptor of the process that was seen, to wait on. `None` does no harm.
fn hold(epoll: &OwnedFd, process: &TaggedProcess, open: Option<PidFd>) -> Option<PidFd> {
    let pidfd = match open {
        Some(pidfd) => pidfd,
        None => PidFd::open_unreserved(process.identity.pid)?,
    };
    let data = epoll::EventData::new_u64(u64::from(process.identity.pid.as_u32()));
    epoll::add(epoll, &pidfd, data, epoll::EventFlags::IN).ok()?;
    Some(pidfd)
}
