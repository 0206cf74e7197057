//! Tells which processes belong to workers of the asking VM's own run. These are ended after a
//! shim's death.

use crate::policy::descent::is_plausible;
use crate::policy::evidence::Policy;
use crate::policy::verdict::{Decision, Verdict};
use crate::procfs::host::Host;
use crate::runs::mark_loss::MarkLoss;
use crate::runs::owner::OwnerRef;
use crate::tags::carrier::Carrier;
use crate::tags::scan::SkipMark;
use crate::tags::tagged_process::TaggedProcess;
use leash_tag::{Mark, RunId};
use std::collections::HashSet;

/// Workers of one live run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workers {
    /// The run, the asking VM's own.
    pub run: RunId,
    /// The workers' numbers.
    pub numbers: HashSet<u16>,
    /// The numbers that outlive their VM on purpose and are to end all the same.
    pub outliving: HashSet<u16>,
    /// Set if the run is another's and the workers were adopted.
    pub adopted: Option<Adopted>,
    /// The numbers whose trees Leash attached. A process with their mark may be older than the
    /// VM.
    pub attached: HashSet<u16>,
    /// The numbers whose mark is off. Only the environment may tell their processes.
    pub unmarked: HashSet<u16>,
}

/// Distinguishes the processes of an adopted tree from others with the same run and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// The start of its shim. An older process cannot be of this tree.
    pub start_ticks: u64,
    /// The nesting depth of its run.
    pub depth: u8,
}

enum Belongs {
    Yes,
    No,
    Unknown,
}

impl Workers {
    /// Workers with these numbers, whose trees this VM started and which end with it.
    #[must_use]
    pub fn of(run: RunId, numbers: HashSet<u16>) -> Self {
        Self {
            run,
            numbers,
            outliving: HashSet::new(),
            adopted: None,
            attached: HashSet::new(),
            unmarked: HashSet::new(),
        }
    }

    /// Whether a mark alone shows that a process is another worker's.
    pub(crate) fn is_others(&self, mark: &Mark) -> bool {
        mark.run() == self.run
            && mark.worker().is_some_and(|number| !self.numbers.contains(&number.get()))
    }

    /// Whether a process that outlives its VM on purpose is to end all the same, as far as the
    /// number tells.
    pub(crate) fn is_outliving(&self, mark: &Mark) -> bool {
        mark.worker().is_some_and(|number| self.outliving.contains(&number.get()))
    }

    /// As `is_outliving`, but by the whole mark. A process that a command kept (`--on-exit=keep`)
    /// has a deeper mark. Its number may have been given out again since.
    fn ends_outliving(&self, mark: &Mark, host: &Host) -> bool {
        let depth = match self.adopted {
            Some(adopted) => Some(adopted.depth),
            None => host
                .proc()
                .limits(host.me().pid, &mut Vec::new())
                .ok()
                .and_then(|own| Mark::nested_in(own, self.run, mark.worker(), true).ok())
                .map(Mark::depth),
        };
        self.is_outliving(mark) && depth == Some(mark.depth())
    }

    fn is_attached(&self, process: &TaggedProcess) -> bool {
        let mark = process.mark.present().filter(|mark| mark.run() == self.run);
        mark.and_then(|mark| mark.worker())
            .is_some_and(|number| self.attached.contains(&number.get()))
    }

    fn belongs(&self, host: &Host, process: &TaggedProcess) -> Belongs {
        let number = match process.mark.present() {
            // The mark is of another run. A run nested in a worker has its own ways to end.
            Some(mark) if mark.run() != self.run => return Belongs::No,
            // Only a tree that says it outlives its VM can have been adopted.
            Some(mark) if self.adopted.is_some() && !mark.outlives() => return Belongs::No,
            Some(mark) => mark.worker(),
            None => None,
        };
        if let Some(number) = number {
            return if self.numbers.contains(&number.get()) { Belongs::Yes } else { Belongs::No };
        }
        match &process.env {
            Carrier::Present(tag) if tag.run == self.run => {
                let ours = OwnerRef::of_env(tag).is_some_and(|owner| {
                    owner.pid == host.me().pid && Some(owner.pid_ns) == host.pid_ns()
                });
                if ours && self.numbers.contains(&tag.worker.get()) {
                    Belongs::Yes
                } else {
                    Belongs::No
                }
            }
            _ if process.mark.present().is_some() => Belongs::Unknown,
            _ => Belongs::No,
        }
    }

    /// Judges a process. Returns `None` if it belongs to none of these workers.
    pub(crate) fn judge(
        &self,
        host: &Host,
        policy: &mut Policy,
        process: &TaggedProcess,
    ) -> Option<Decision> {
        let decide = |verdict, why: &str| {
            Some(Decision { verdict, run: Some(self.run), why: why.to_owned() })
        };
        match self.belongs(host, process) {
            Belongs::No => return None,
            Belongs::Unknown => {
                return decide(Verdict::UnknownWorker, "nothing says which worker's it is");
            }
            Belongs::Yes => {}
        }
        if let Some(refusal) = policy.refusal(process) {
            return decide(Verdict::Refused, &refusal.to_string());
        }
        if process
            .mark
            .present()
            .is_some_and(|mark| mark.outlives() && !self.ends_outliving(mark, host))
        {
            return decide(Verdict::Outlives, "it outlives its VM on purpose");
        }
        if policy.is_under_live_owner(process, &[self.run]) {
            return decide(
                Verdict::LiveRunOwner,
                "it owns a live run, or descends from an owner of one",
            );
        }
        let began = self.adopted.map_or(host.me().start_ticks, |adopted| adopted.start_ticks);
        if process.identity.start_ticks < began && !self.is_attached(process) {
            let than = if self.adopted.is_some() { "its shim" } else { "this VM" };
            return decide(Verdict::PredatesOwner, &format!("it is older than {than}"));
        }
        if let Some(why) = policy.kept_as_unmarked_foreign(process, self.run) {
            return decide(Verdict::ForeignUser, why);
        }
        if let (None, Some(env)) = (process.mark.present(), process.env.present()) {
            if process.shim_of(host.uid()).is_none_or(|shim| shim.args.run != self.run) {
                let unmarked = self.unmarked.contains(&env.worker.get());
                if let Err(why) =
                    is_plausible(host, process, self.run, &MarkLoss::current(host), unmarked)
                {
                    return decide(Verdict::EnvOnly, why);
                }
            }
        }
        decide(Verdict::Dead, "its worker is to end")
    }
}

impl SkipMark for Workers {
    fn skip(&self, mark: &Mark) -> bool {
        self.is_others(mark)
    }
}
