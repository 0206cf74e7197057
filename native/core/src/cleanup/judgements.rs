//! The policy, and its judgements of runs as long as they hold.

use crate::cleanup::spec::{CleanupKind, CleanupSpec};
use crate::os::error::Result;
use crate::policy::evidence::{Policy, Requester};
use crate::policy::verdict::{Decision, RunJudgement, Verdict};
use crate::procfs::host::Host;
use crate::tags::scan::Scan;
use crate::tags::tagged_process::TaggedProcess;
use leash_tag::RunId;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

// A dead run does not come back to life by itself. Only new witnesses change the verdict, and
// those come with passes.
const HOLDS: Duration = Duration::from_millis(5);

/// Judges runs, each once between two passes, and processes by them.
#[derive(Debug)]
pub(crate) struct Judgements {
    host: Arc<Host>,
    pub(crate) policy: Policy,
    of_runs: HashMap<RunId, (Instant, RunJudgement)>,
}

impl Judgements {
    /// Judges for the VM and within the scope that a spec names.
    pub(crate) fn new(host: &Arc<Host>, spec: &CleanupSpec) -> Self {
        let requester = match &spec.kind {
            CleanupKind::Worker(_) | CleanupKind::Process(_) => Requester::default(),
            CleanupKind::Run { own_run, outliving, .. } => {
                Requester { own_run: *own_run, outliving: *outliving, ..Requester::default() }
            }
            CleanupKind::Sweep { own_run, app, .. } => {
                Requester { own_run: *own_run, app: app.clone(), ..Requester::default() }
            }
        };
        let mut policy = Policy::new(Arc::clone(host), spec.run_dir.clone(), requester);
        policy.records_are_unusable(spec.records_unusable);
        Self { host: Arc::clone(host), policy, of_runs: HashMap::new() }
    }

    /// Judges every run anew from here on.
    pub(crate) fn forget(&mut self) {
        self.of_runs.clear();
    }

    /// Judges every run anew, and reads parents and owners anew.
    pub(crate) fn forget_pass(&mut self) {
        self.policy.forget_pass();
        self.forget();
    }

    /// Takes in the result of a pass.
    pub(crate) fn observe(&mut self, scan: &Scan) {
        self.policy.observe_scan(scan);
        self.forget();
    }

    /// The judgement of a run.
    pub(crate) fn run(&mut self, run: RunId) -> RunJudgement {
        of_run(&mut self.of_runs, &self.policy, run)
    }

    /// Whether nothing of a run needs its record any more, as far as its owner is concerned.
    pub(crate) fn is_over(&mut self, run: RunId) -> bool {
        self.policy.is_in_scope(run)
            && matches!(self.run(run).verdict, Verdict::Dead | Verdict::Stale)
    }

    /// The dead runs that this cleanup is about.
    pub(crate) fn dead_runs(&mut self, kind: &CleanupKind) -> Vec<RunId> {
        let mut runs = match kind {
            CleanupKind::Worker(_) | CleanupKind::Process(_) => Vec::new(),
            CleanupKind::Run { run, .. } => vec![*run],
            CleanupKind::Sweep { .. } => self.policy.runs(),
        };
        runs.retain(|&run| {
            self.policy.is_in_scope(run) && self.run(run).verdict == Verdict::Dead
        });
        runs
    }

    /// The decision about a process; `None` if the cleanup does not concern it.
    pub(crate) fn process(
        &mut self,
        kind: &CleanupKind,
        process: &TaggedProcess,
    ) -> Option<Decision> {
        match kind {
            CleanupKind::Worker(workers) => workers.judge(&self.host, &mut self.policy, process),
            CleanupKind::Run { run, .. } if !process.runs().contains(run) => None,
            CleanupKind::Run { .. } | CleanupKind::Sweep { .. } => {
                let of_runs = &mut self.of_runs;
                let judge = |policy: &mut Policy, run| of_run(of_runs, policy, run);
                Some(self.policy.judge_process(process, judge))
            }
            CleanupKind::Process(_) => None,
        }
    }

    /// As [`Judgements::process`], for the moment before a signal: reads each record again that
    /// was not read just now.
    ///
    /// # Errors
    ///
    /// If nothing can be said of a record. Then nothing may be signalled.
    pub(crate) fn process_again(
        &mut self,
        kind: &CleanupKind,
        process: &TaggedProcess,
        now: Instant,
    ) -> Result<Option<Decision>> {
        if !kind.is_for_workers() {
            for run in process.runs() {
                let holds = |known: &(Instant, _)| now.duration_since(known.0) <= HOLDS;
                if !self.of_runs.get(&run).is_some_and(holds) {
                    self.of_runs.remove(&run);
                    self.policy.refresh(run)?;
                }
            }
        }
        Ok(self.process(kind, process))
    }
}

fn of_run(
    of_runs: &mut HashMap<RunId, (Instant, RunJudgement)>,
    policy: &Policy,
    run: RunId,
) -> RunJudgement {
    of_runs.entry(run).or_insert_with(|| (Instant::now(), policy.judge_run(run))).1.clone()
}
