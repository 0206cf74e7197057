//! Whether a process of a run may be ended.
//!
//! Every run that a carrier names must be dead and in the scope of the request. Then the process
//! is ended unless one of these holds: it is never signalled, outlives its VM on purpose, belongs
//! to a live run inside the dead one, is older than the owner, is another user's without proof,
//! or only a carrier speaks for the run that a stranger can have by accident.

use crate::policy::descent::{is_plausible, is_possible};
use crate::policy::evidence::Policy;
use crate::policy::refusal::Refusal;
use crate::policy::verdict::{Decision, RunJudgement, Verdict};
use crate::tags::tagged_process::TaggedProcess;
use leash_tag::{OwnerTag, RunId};

// A worker begins within moments of the line that records its command. A machine under load may
// need a while.
const RECORDED_START_WITHIN: u64 = 60;

impl Policy {
    /// Judges a process by the rules of the sweep. `runs` gives each run's verdict.
    pub fn judge_process(
        &mut self,
        process: &TaggedProcess,
        mut runs: impl FnMut(&mut Self, RunId) -> RunJudgement,
    ) -> Decision {
        let decide = |verdict, run, why: &str| Decision { verdict, run, why: why.to_owned() };
        let named = process.runs();
        let Some(&first) = named.first() else {
            return decide(Verdict::UnknownOwner, None, "no carrier names a run");
        };
        if let Some(refusal) = self.refusal(process) {
            return decide(Verdict::Refused, Some(first), &refusal.to_string());
        }
        // Every run that any carrier names must be dead. The first run that is not dead decides.
        let mut predates = false;
        for &run in &named {
            let judgement = runs(self, run);
            // A foreign process is no witness, so its run may be unknown. Its user explains the
            // verdict better.
            if judgement.verdict == Verdict::UnknownOwner {
                if let Some(why) = self.kept_as_foreign(process, run) {
                    return decide(Verdict::ForeignUser, Some(run), why);
                }
            }
            if judgement.verdict != Verdict::Dead {
                let verdict = match judgement.verdict {
                    // The only record of this process's run is of another boot, so no witness
                    // names an owner.
                    Verdict::Stale => Verdict::UnknownOwner,
                    other => other,
                };
                return decide(verdict, Some(run), &judgement.why);
            }
            if !self.is_in_scope(run) {
                return decide(
                    Verdict::OutOfScope,
                    Some(run),
                    "it is not this application's run",
                );
            }
            let began = judgement
                .owners
                .iter()
                .map(|owner| owner.1.start_ticks)
                .max()
                .unwrap_or(u64::MAX);
            predates |= process.identity.start_ticks < began && !self.is_attached(process, run);
        }
        self.of_dead_run(process, first, predates)
    }

    /// Whether a process has exactly the mark, soft limit and hard, of a worker that the run's
    /// record lists as attached.
    ///
    /// Only we can write that record. Only the process itself, its user or its parents can have
    /// set the mark. So the process may be older than the owner.
    fn is_attached(&self, process: &TaggedProcess, run: RunId) -> bool {
        let marked = process
            .mark
            .present()
            .filter(|mark| mark.run() == run)
            .and_then(|mark| mark.worker());
        marked.zip(self.believed(run)).is_some_and(|(worker, record)| {
            record.attachments.iter().any(|attachment| attachment.worker == worker.get())
        })
    }

    /// The decision about a process all of whose runs are dead.
    fn of_dead_run(&mut self, process: &TaggedProcess, run: RunId, predates: bool) -> Decision {
        let decide =
            |verdict, why: &str| Decision { verdict, run: Some(run), why: why.to_owned() };
        if !self.requester.outliving && process.mark.present().is_some_and(|mark| mark.outlives())
        {
            return decide(Verdict::Outlives, "it outlives its VM on purpose");
        }
        if self.is_under_live_owner(process, &process.runs()) {
            return decide(
                Verdict::LiveRunOwner,
                "it owns a live run, or descends from an owner of one",
            );
        }
        if predates {
            return decide(Verdict::PredatesOwner, "it is older than its run's owner");
        }
        if let Some(why) = self.kept_as_foreign(process, run) {
            return decide(Verdict::ForeignUser, why);
        }
        let is_warden = || process.shim_of(self.host.uid()).is_some_and(|shim| shim.is_warden);
        let is_recorded = || self.is_of_this_user(process) && self.is_recorded_worker(process);
        if process.mark.present().is_some() || is_recorded() || is_warden() {
            return decide(Verdict::Dead, "its run is dead");
        }
        let Some(env) = process.env.present() else {
            return decide(Verdict::ArgvOnly, "only its command line names the run");
        };
        if let Err(why) = self.descends(process, env) {
            return decide(Verdict::EnvOnly, why);
        }
        decide(Verdict::Dead, "its run is dead")
    }

    /// Whether a process of a dead run that has its environment tag and no mark descends from
    /// that run.
    fn descends(&self, process: &TaggedProcess, env: &OwnerTag) -> Result<(), &'static str> {
        if process.shim_of(self.host.uid()).is_some_and(|shim| shim.args.run == env.run) {
            return Ok(());
        }
        let Some(record) = self.believed(env.run) else {
            return Err("only its environment names the run, which has no record here");
        };
        let unmarked = record.unmarked.contains(&env.worker.get());
        is_plausible(&self.host, process, env.run, &record.mark_loss, unmarked)
    }

    /// Whether a process without any carrier may descend from a dead run. It is never ended for
    /// that, only named.
    pub(crate) fn may_have_lost(&self, process: &TaggedProcess, run: RunId) -> bool {
        self.believed(run).is_some_and(|record| {
            process.identity.start_ticks >= record.owner.start_ticks
                && self.refusal(process).is_none()
                && is_possible(&self.host, process.identity.pid, run, &record.mark_loss)
        })
    }

    /// Returns why a process of another user is kept. Returns `None` for our own, and if all
    /// conditions hold.
    fn kept_as_foreign(&self, process: &TaggedProcess, run: RunId) -> Option<&'static str> {
        self.kept_as_unmarked_foreign(process, run).or_else(|| {
            let is_ours = self.is_of_this_user(process) || self.believed(run).is_some();
            (!is_ours).then_some("it is another user's and the run has no record here")
        })
    }

    /// Whether this user started the process, and the process has no other user's rights.
    fn is_of_this_user(&self, process: &TaggedProcess) -> bool {
        process
            .uids
            .is_some_and(|uids| uids.real == self.host.uid() && uids.effective == uids.real)
    }

    /// As `kept_as_foreign`, for a run that is known as ours without a record. It is the asking
    /// VM's, or the VM held the tree's shim.
    pub(crate) fn kept_as_unmarked_foreign(
        &self,
        process: &TaggedProcess,
        run: RunId,
    ) -> Option<&'static str> {
        if process.uids.is_none() {
            return Some("whose it is cannot be read");
        }
        // What resets a mark also changes the user (`su`). So without a mark, the environment may
        // speak for another user's process as well, if the process descends from the run.
        let is_named = match process.mark.present() {
            Some(mark) => mark.run() == run,
            None => process.env.present().is_some_and(|env| env.run == run),
        };
        (!is_named && !self.is_of_this_user(process))
            .then_some("it is another user's and its hard mark does not name the run")
    }

    /// Whether the record names the command line of this process, and the process began within
    /// moments of the line.
    fn is_recorded_worker(&self, process: &TaggedProcess) -> bool {
        let clock = self.host.clock();
        process.recorded.is_some_and(|recorded| {
            recorded.at_ticks.is_some_and(|at| {
                let started = process.identity.start_ticks;
                started.saturating_add(1) >= at
                    && started <= at.saturating_add(clock.ticks(RECORDED_START_WITHIN))
            })
        })
    }

    /// The reason why a process is never signalled, as far as the evidence tells.
    pub(crate) fn refusal(&self, process: &TaggedProcess) -> Option<Refusal> {
        let thread = || process.kernel_thread.then_some(Refusal::KernelThread);
        self.host.refusal_of_user_process(process.identity.pid).or_else(thread)
    }
}
