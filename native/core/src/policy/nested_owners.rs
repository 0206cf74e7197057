//! Whether a process belongs to the living owner of a run that is nested in another run.

use crate::os::pid::Pid;
use crate::policy::evidence::Policy;
use crate::runs::owner::{OwnerRef, OwnerState};
use crate::tags::process_reader::{ProcessReader, Skipped};
use crate::tags::tagged_process::TaggedProcess;
use leash_tag::RunId;
use std::collections::HashSet;
use std::sync::Arc;

const DEPTH: usize = 256;

impl Policy {
    /// Whether a process is the living owner of a run nested in one of `runs`, or descends from
    /// such an owner.
    ///
    /// An owner that belongs to none of `runs` does not count. Orphans of a dead run inside a
    /// live one also descend from the live run's VM, and belong to no living owner.
    pub(crate) fn is_under_live_owner(
        &mut self,
        process: &TaggedProcess,
        runs: &[RunId],
    ) -> bool {
        let host = Arc::clone(&self.host);
        let living = match &self.living {
            Some(living) => Arc::clone(living),
            None => Arc::clone(self.living.insert(Arc::new(self.living_owners()))),
        };
        if living.is_empty() {
            return false;
        }
        let mut reader = ProcessReader::new(&host, &[]);
        let mut buffer = Vec::new();
        // If the parent is not known, the process may descend from any of the owners.
        if process.parent.is_none() && process.identity.known_start().is_none() {
            let others = living.iter().filter(|&&owner| owner != host.me().pid);
            return others.copied().any(|owner| {
                owner == process.identity.pid || self.belongs(owner, runs, &mut reader)
            });
        }
        let mut pid = Some(process.identity.pid);
        for _ in 0..DEPTH {
            let Some(current) = pid else { return false };
            if living.contains(&current)
                && (current == process.identity.pid || self.belongs(current, runs, &mut reader))
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
    /// What another user's process says counts only if it names a process of that same user. That
    /// user then speaks for its own process.
    fn living_owners(&self) -> HashSet<Pid> {
        let host = &self.host;
        let may_live = |owner: &OwnerRef| match owner.state(host) {
            OwnerState::Alive => true,
            OwnerState::Unknown => host.hides_processes(),
            OwnerState::Gone | OwnerState::OtherBoot | OwnerState::ForeignNamespace => false,
        };
        let is_of = |owner: &OwnerRef, uid| {
            host.proc()
                .uids(owner.pid, &mut Vec::new())
                .is_ok_and(|uids| uids.is_some_and(|it| it.are(uid)))
        };
        let ours = self.owners.values().flatten().map(|(_, owner)| owner);
        let theirs =
            self.others.iter().filter(|(owner, uid)| is_of(owner, *uid)).map(|(owner, _)| owner);
        ours.chain(theirs).filter(|owner| may_live(owner)).map(|owner| owner.pid).collect()
    }

    /// Whether an owner itself belongs to one of these runs, or whether that is not known.
    fn belongs(&mut self, owner: Pid, runs: &[RunId], reader: &mut ProcessReader<'_>) -> bool {
        let named =
            self.owners_runs.entry(owner).or_insert_with(|| match reader.read_all(owner) {
                Ok(owner) => Some(owner.runs()),
                Err(Skipped::Untagged | Skipped::Gone | Skipped::Zombie) => Some(Vec::new()),
                Err(Skipped::Failed(_)) => None,
            });
        named.as_ref().is_none_or(|named| named.iter().any(|run| runs.contains(run)))
    }
}
