//! The processes that are being ended, and what became of each process that was seen.

use crate::cleanup::report::{Action, Match, Survivor};
use crate::cleanup::target::{Key, Target, Tree};
use crate::os::reserve::is_scarce;
use crate::procfs::host::Host;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

// Descriptors are the VM's. Past this many, a pass looks at the rest by number and identity.
const HELD: usize = 256;
// Targets without a descriptor are looked at in this interval.
const UNHELD_INTERVAL: Duration = Duration::from_millis(5);

/// Living targets, and the matches of all other processes.
#[derive(Debug)]
pub(crate) struct Targets {
    living: HashMap<Key, Target>,
    others: HashMap<Key, Match>,
    // The number of targets with a descriptor.
    held: usize,
    // The time when targets without a descriptor are looked at again.
    next_look: Instant,
}

/// The trees that living shims are at work on.
#[derive(Debug)]
pub(crate) struct InCharge(HashSet<Tree>);

impl InCharge {
    /// Whether a shim works on any tree of the same run.
    pub(crate) fn has_run_of(&self, tree: &Tree) -> bool {
        self.0.iter().any(|shim| shim.0 == tree.0)
    }

    /// Whether a shim is in charge of a process that is no shim itself.
    pub(crate) fn is_in_charge(&self, target: &Target) -> bool {
        let (run, worker) = target.tree;
        !target.is_shim
            && (self.0.contains(&target.tree)
                || self.0.contains(&(run, None))
                || (worker.is_none() && self.has_run_of(&target.tree)))
    }
}

impl Targets {
    /// No target and no match.
    pub(crate) fn new(now: Instant) -> Self {
        Self { living: HashMap::new(), others: HashMap::new(), held: 0, next_look: now }
    }

    /// Whether there is no target, also none that was given up.
    pub(crate) fn is_empty(&self) -> bool {
        self.living.is_empty()
    }

    /// Whether a target may still be ended.
    pub(crate) fn is_pending(&self) -> bool {
        self.pending().next().is_some()
    }

    /// The targets that may still be ended.
    pub(crate) fn pending(&self) -> impl Iterator<Item = &Target> {
        self.living.values().filter(|target| !target.is_given_up())
    }

    /// The target of a key.
    pub(crate) fn get(&self, key: &Key) -> Option<&Target> {
        self.living.get(key)
    }

    /// The target of a key, to change.
    pub(crate) fn get_mut(&mut self, key: &Key) -> Option<&mut Target> {
        self.living.get_mut(key)
    }

    /// The keys of all targets, shims first, because they decide whether the others wait.
    pub(crate) fn keys(&self) -> Vec<Key> {
        let keys = self.living.iter().map(|(key, target)| (!target.is_shim, *key));
        let mut keys: Vec<_> = keys.collect();
        keys.sort_unstable();
        keys.into_iter().map(|(_, key)| key).collect()
    }

    /// Whether a process is a target, or is kept.
    pub(crate) fn is_decided(&self, key: &Key) -> bool {
        self.living.contains_key(key)
            || self.others.get(key).is_some_and(|found| found.action == Action::Kept)
    }

    /// Whether one more target may hold a descriptor. The reserve is for signals, so such a
    /// descriptor must not come from it.
    pub(crate) fn may_hold(&self) -> bool {
        self.held < HELD && !is_scarce()
    }

    /// Adds a target.
    pub(crate) fn add(&mut self, key: Key, target: Target) {
        self.held += usize::from(target.pidfd.is_some());
        self.others.remove(&key);
        self.living.insert(key, target);
    }

    fn take(&mut self, key: Key) -> Option<Target> {
        let target = self.living.remove(&key)?;
        self.held = self.held.saturating_sub(usize::from(target.pidfd.is_some()));
        Some(target)
    }

    /// Keeps a process, also if it was a target.
    pub(crate) fn keep(&mut self, key: Key, found: Match) {
        self.take(key);
        self.others.insert(key, found);
    }

    /// Takes out a target that has ended, by the kernel's word.
    pub(crate) fn end(&mut self, key: Key) {
        let in_charge = self.in_charge();
        self.end_beside(key, &in_charge);
    }

    fn end_beside(&mut self, key: Key, in_charge: &InCharge) {
        if let Some(target) = self.take(key) {
            let in_charge = in_charge.is_in_charge(&target);
            self.others.insert(key, target.ended(in_charge));
        }
    }

    /// Takes out the targets that have ended.
    ///
    /// The end of each descriptor wakes the driver. Each target without a descriptor costs a
    /// look. Looking at all of them at every wake-up was most of the cost of killing a large
    /// tree.
    pub(crate) fn take_out_ended(&mut self, host: &Host) {
        let now = Instant::now();
        let looks = now >= self.next_look;
        if looks {
            self.next_look = now + UNHELD_INTERVAL;
        }
        let is_ended = |target: &Target| match &target.pidfd {
            Some(pidfd) => pidfd.is_ended(),
            None => looks && host.is_over(&target.identity()),
        };
        let ended = self.living.iter().filter(|(_, target)| is_ended(target));
        let ended: Vec<_> = ended.map(|(key, _)| *key).collect();
        if !ended.is_empty() {
            let in_charge = self.in_charge();
            for key in ended {
                self.end_beside(key, &in_charge);
            }
        }
    }

    /// Gives descriptors back if the table is full. The targets are found again by number and
    /// identity.
    pub(crate) fn release_pidfds(&mut self) {
        if is_scarce() && self.held > 0 {
            self.held = 0;
            for target in self.living.values_mut() {
                target.pidfd = None;
            }
        }
    }

    /// Returns the trees that living shims are at work on.
    pub(crate) fn in_charge(&self) -> InCharge {
        let shims = self.living.values().filter(|shim| shim.is_shim_in_charge());
        InCharge(shims.map(|shim| shim.tree).collect())
    }

    /// Names each target that may still live as a survivor. Returns what became of all processes.
    pub(crate) fn finish(&mut self, host: &Host) -> (Vec<Match>, Vec<Survivor>) {
        // Without this look, a process that has ended would be listed as a survivor.
        self.next_look = Instant::now();
        self.take_out_ended(host);
        let mut survivors = Vec::new();
        for (key, target) in self.living.drain() {
            let (found, survivor) = target.survived(host);
            survivors.push(survivor);
            self.others.insert(key, found);
        }
        let mut matches: Vec<_> = self.others.drain().map(|(_, found)| found).collect();
        matches.sort_by_key(|found| (found.pid, found.start_ticks));
        survivors.sort_by_key(|survivor| (survivor.pid, survivor.start_ticks));
        (matches, survivors)
    }
}
