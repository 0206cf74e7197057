//! Whether a process belongs to the living owner of a run that is nested in another run.

use crate::os::pid::Pid;
use crate::policy::evidence::Judge;
use crate::runs::owner::{Claim, OwnerState};
use crate::tags::process_reader::{Examiner, Skipped};
use crate::tags::tagged_process::Seen;
use leash_tag::RunId;
use std::collections::HashSet;
use std::sync::Arc;

const DEPTH: usize = 256;

impl Judge {
    /// Whether a process is the living owner of a run nested in one of `runs`, or descends from
    /// such an owner.
    ///
    /// An owner that belongs to none of `runs` does not count. Orphans of a dead run inside a
    /// live one also descend from the live run's VM, and belong to no living owner.
    pub(crate) fn is_under_live_owner(&mut self, seen: &Seen, runs: &[RunId]) -> bool {
        let host = Arc::clone(&self.host);
        let living = match &self.living {
            Some(living) => Arc::clone(living),
            None => Arc::clone(self.living.insert(Arc::new(self.living_owners()))),
        };
        if living.is_empty() {
            return false;
        }
        let mut examiner = Examiner::new(&host, &[]);
        let mut buffer = Vec::new();
        // If the parent is not known, the process may descend from any of the owners.
        if seen.parent.is_none() && seen.identity.known_start().is_none() {
            let others = living.iter().filter(|&&owner| owner != host.me().pid);
            return others.copied().any(|owner| {
                owner == seen.identity.pid || self.belongs(owner, runs, &mut examiner)
            });
        }
        let mut pid = Some(seen.identity.pid);
        for _ in 0..DEPTH {
            let Some(current) = pid else { return false };
            if living.contains(&current)
                && (current == seen.identity.pid || self.belongs(current, runs, &mut examiner))
            {
                return true;
            }
            pid = match self.parents.get(&current) {
                Some(&parent) => parent,
                None => {
                    let parent = host.parent_of(current, &mut buffer);
                    self.parents.insert(current, parent);
                    parent
                }
            };
        }
        // No real chain is this long. Nothing is proven, so the process counts as one to keep.
        true
    }

    /// Returns every owner that lives. An owner that `/proc` hides may be alive, so it counts.
    ///
    /// A claim of another user counts only if it names a process of that same user. That user
    /// then speaks for its own process.
    fn living_owners(&self) -> HashSet<Pid> {
        let host = &self.host;
        let may_live = |claim: &Claim| match claim.state(host) {
            OwnerState::Alive => true,
            OwnerState::Unknown => host.hides_processes(),
            OwnerState::Gone | OwnerState::OtherBoot | OwnerState::ForeignNamespace => false,
        };
        let is_of = |claim: &Claim, uid| {
            host.proc()
                .uids(claim.pid, &mut Vec::new())
                .is_ok_and(|uids| uids.is_some_and(|it| it.are(uid)))
        };
        let ours = self.claims.values().flatten().map(|(_, claim)| claim);
        let theirs =
            self.others.iter().filter(|(claim, uid)| is_of(claim, *uid)).map(|(claim, _)| claim);
        ours.chain(theirs).filter(|claim| may_live(claim)).map(|claim| claim.pid).collect()
    }

    /// Whether an owner itself belongs to one of these runs, or whether that is not known.
    fn belongs(&mut self, owner: Pid, runs: &[RunId], examiner: &mut Examiner<'_>) -> bool {
        let named =
            self.owners_runs.entry(owner).or_insert_with(|| match examiner.again(owner) {
                Ok(owner) => Some(owner.runs()),
                Err(Skipped::Untagged | Skipped::Gone | Skipped::Zombie) => Some(Vec::new()),
                Err(Skipped::Failed(_)) => None,
            });
        named.as_ref().is_none_or(|named| named.iter().any(|run| runs.contains(run)))
    }
}
