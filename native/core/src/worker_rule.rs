//! Which processes belong to workers of the asking VM's own run: what is ended after a shim's death.

use crate::host::Host;
use crate::verdict::{Decision, Judge, Verdict};
use crate::witness::Claim;
use crate::{Carrier, Seen};
use leash_tag::{Mark, RunId};
use std::collections::HashSet;

/// Workers of one live run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workers {
    /// The run, the asking VM's own.
    pub run: RunId,
    /// The workers' numbers.
    pub numbers: HashSet<u16>,
    /// Also those that outlive their VM on purpose.
    pub outliving: bool,
    /// Those of the numbers whose trees somebody else started: what has their mark may be older than the VM.
    pub attached: HashSet<u16>,
}

enum Belongs {
    Yes,
    No,
    Unknown,
}

impl Workers {
    /// Whether a mark says already that a process is another worker's.
    pub(crate) fn is_others(&self, mark: &Mark) -> bool {
        mark.run() == self.run && mark.worker().is_some_and(|number| !self.numbers.contains(&number.get()))
    }

    fn is_attached(&self, seen: &Seen) -> bool {
        let mark = seen.mark.present().filter(|mark| mark.run() == self.run);
        mark.and_then(|mark| mark.worker()).is_some_and(|number| self.attached.contains(&number.get()))
    }

    fn belongs(&self, host: &Host, seen: &Seen) -> Belongs {
        let number = match seen.mark.present() {
            // Another run's mark: a run nested in a worker has its own ways to end.
            Some(mark) if mark.run() != self.run => return Belongs::No,
            Some(mark) => mark.worker(),
            None => None,
        };
        if let Some(number) = number {
            return if self.numbers.contains(&number.get()) { Belongs::Yes } else { Belongs::No };
        }
        match &seen.env {
            Carrier::Present(tag) if tag.run == self.run => {
                let ours = Claim::of_env(tag)
                    .is_some_and(|claim| claim.pid == host.me().pid && Some(claim.pid_ns) == host.pid_ns());
                if ours && self.numbers.contains(&tag.worker.get()) { Belongs::Yes } else { Belongs::No }
            }
            _ if seen.mark.present().is_some() => Belongs::Unknown,
            _ => Belongs::No,
        }
    }

    /// Judges a process; `None` for one that is none of these workers'.
    pub(crate) fn judge(&self, host: &Host, judge: &mut Judge, seen: &Seen) -> Option<Decision> {
        let decide =
            |verdict, why: &str| Some(Decision { verdict, run: Some(self.run), why: why.to_owned() });
        match self.belongs(host, seen) {
            Belongs::No => return None,
            Belongs::Unknown => return decide(Verdict::UnknownWorker, "nothing says which worker's it is"),
            Belongs::Yes => {}
        }
        if let Some(refusal) = judge.refusal(seen) {
            return decide(Verdict::Refused, &refusal.to_string());
        }
        if !self.outliving && seen.mark.present().is_some_and(|mark| mark.outlives()) {
            return decide(Verdict::Outlives, "it outlives its VM on purpose");
        }
        if judge.is_under_live_owner(seen, &[self.run]) {
            return decide(Verdict::LiveRunOwner, "it owns a live run, or descends from an owner of one");
        }
        if seen.identity.start_ticks < host.me().start_ticks && !self.is_attached(seen) {
            return decide(Verdict::PredatesOwner, "it is older than this VM");
        }
        if let Some(why) = judge.foreign_user(seen, self.run) {
            return decide(Verdict::ForeignUser, why);
        }
        decide(Verdict::Dead, "its worker is to end")
    }
}
