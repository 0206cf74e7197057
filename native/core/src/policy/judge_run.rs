//! Whether a run is dead.
//!
//! The first of these rules that holds gives the verdict:
//!
//! | if | then |
//! |---|---|
//! | it is the asking VM's own run | `Own` |
//! | the asking VM or an ancestor of it belongs to it | `OwnOuterRun` |
//! | an owner lives | `Live` |
//! | its lock is held, and not every witness says that the owner is gone | `Live`, `Disputed` |
//! | its lock cannot be tried, and no process speaks in place of a corrupt record | `UnknownOwner` |
//! | only a record of another boot names an owner | `Stale` |
//! | nothing names an owner | `UnknownOwner` |
//! | every owner that is named is gone | `Dead` |
//! | every owner is of another pid namespace | `ForeignNamespace` |
//! | some owners are gone, and none is unknown | `Disputed` |
//! | anything else | `UnknownOwner` |

use crate::policy::evidence::Policy;
use crate::policy::verdict::{RunJudgement, Verdict};
use crate::runs::owner::{OwnerRef, OwnerState, Source};
use crate::runs::record_file::Lock;
use leash_tag::RunId;

impl Policy {
    /// Judges a run by every witness, and checks each of them now.
    #[must_use]
    pub fn judge_run(&self, run: RunId) -> RunJudgement {
        let owners: Vec<_> = self
            .owners
            .get(&run)
            .into_iter()
            .flatten()
            .map(|&(source, owner)| (source, owner, owner.state(&self.host)))
            .collect();
        let (verdict, why) = self.weigh(run, &owners);
        RunJudgement { run, verdict, why: why.into(), owners }
    }

    fn weigh(
        &self,
        run: RunId,
        owners: &[(Source, OwnerRef, OwnerState)],
    ) -> (Verdict, &'static str) {
        use OwnerState::{Alive, ForeignNamespace, Gone, OtherBoot, Unknown};
        if self.requester.own_run == Some(run) {
            return (Verdict::Own, "it is this VM's own run");
        }
        if self.outer.contains(&run) {
            return (Verdict::OwnOuterRun, "this VM or an ancestor of it belongs to that run");
        }
        let any = |state| owners.iter().any(|owner| owner.2 == state);
        if any(Alive) {
            return (Verdict::Live, "its owner lives");
        }
        // A record of another boot is no witness of this boot's processes. A process of this boot
        // that names another boot is a contradiction.
        let stale = |owner: &&(Source, OwnerRef, OwnerState)| {
            owner.0 == Source::Record && owner.2 == OtherBoot
        };
        let speaking = owners.iter().filter(|owner| !stale(owner)).count();
        let every = |state| {
            speaking > 0 && owners.iter().filter(|o| !stale(o)).all(|owner| owner.2 == state)
        };
        let file = self.records.get(&run);
        let unread = if self.records_unusable { Lock::Unknown } else { Lock::Free };
        match file.map_or(unread, |file| file.lock) {
            Lock::Free => {}
            // A child that a NIF forked in the VM keeps the lock open after its owner is gone.
            Lock::Held if every(Gone) && owners.iter().any(|owner| owner.0 == Source::Record) => {
            }
            Lock::Held if any(Gone) || any(OtherBoot) => {
                return (
                    Verdict::Disputed,
                    "its lock is held, but its witnesses say that its owner is gone",
                );
            }
            Lock::Held => return (Verdict::Live, "its lock is held"),
            Lock::Unknown if file.is_some_and(|file| file.record.is_err()) && speaking > 0 => {}
            Lock::Unknown => return (Verdict::UnknownOwner, "its lock cannot be tried"),
        }
        if speaking == 0 && any(OtherBoot) {
            return (Verdict::Stale, "its record is of another boot");
        }
        if owners.is_empty() {
            return (Verdict::UnknownOwner, "nothing names its owner");
        }
        if every(Gone) {
            return (Verdict::Dead, "its owner is gone and its lock is free");
        }
        if every(ForeignNamespace) {
            return (Verdict::ForeignNamespace, "its owner's pid namespace is not this one");
        }
        if any(Gone) && !any(Unknown) {
            return (Verdict::Disputed, "its witnesses name owners of different fates");
        }
        (Verdict::UnknownOwner, "whether its owner lives cannot be told")
    }
}
