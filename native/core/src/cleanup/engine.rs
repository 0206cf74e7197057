//! A cleanup at work: its state, and the order of passes, signals and looks.

use crate::cleanup::report::{Match, Report};
use crate::cleanup::spec::{CleanupKind, CleanupSpec, Mode};
use crate::cleanup::target::{Key, Target, Tree, is_in_charge};
use crate::os::reserve::{is_scarce, reserve_descriptors};
use crate::policy::evidence::{Policy, Requester};
use crate::policy::verdict::{Decision, RunJudgement};
use crate::procfs::host::Host;
use crate::runs::record::RecordedCommand;
use crate::tags::process_reader::Carriers;
use crate::tags::tagged_process::TaggedProcess;
use leash_tag::RunId;
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) const SHIM_GRACE: Duration = Duration::from_secs(1);
pub(crate) const UNHELD_LOOK: Duration = Duration::from_millis(20);
const UNHELD_HARVEST: Duration = Duration::from_millis(5);
// One step makes at most this many passes while each finds new processes, so that a step has an
// end.
const PASSES_A_STEP: u32 = 8;
// On a host where processes end all the time, no pass is ever quiescent. This many passes that
// signal nothing are enough there.
const MAX_BUSY_PASSES: u32 = 20;

#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) host: Arc<Host>,
    pub(crate) policy: Policy,
    pub(crate) spec: CleanupSpec,
    pub(crate) recorded: Vec<(RunId, RecordedCommand)>,
    pub(crate) judgements: HashMap<RunId, (Instant, RunJudgement)>,
    pub(crate) targets: HashMap<Key, Target>,
    pub(crate) others: HashMap<Key, Match>,
    pub(crate) ladders: HashMap<Tree, Instant>,
    // Trees whose processes vanished while they were looked at.
    pub(crate) churning: HashSet<Tree>,
    pub(crate) held: usize,
    pub(crate) began: Instant,
    pub(crate) deadline: Instant,
    pub(crate) kill_at: Instant,
    pub(crate) next_pass: Instant,
    // The time when targets without a descriptor are looked at again.
    next_look: Instant,
    // The runs named in the last pass of all carriers.
    pub(crate) named: Vec<RunId>,
    pub(crate) clean: bool,
    // The number of passes in a row that signalled nothing and saw nothing vanish.
    pub(crate) quiescent_passes: u32,
    pub(crate) busy_passes: u32,
    pub(crate) zombies: u32,
    // Whether every living shim of the runs being ended is a target.
    pub(crate) shims_known: bool,
    pub(crate) report: Report,
}

impl Engine {
    pub(crate) fn new(spec: &CleanupSpec, host: Host, now: Instant) -> Self {
        let host = Arc::new(host);
        let requester = match &spec.kind {
            CleanupKind::Worker(_) | CleanupKind::Process(_) => Requester::default(),
            CleanupKind::Run { own_run, outliving, .. } => {
                Requester { own_run: *own_run, outliving: *outliving, ..Requester::default() }
            }
            CleanupKind::Sweep { own_run, app, .. } => {
                Requester { own_run: *own_run, app: app.clone(), ..Requester::default() }
            }
        };
        let mut policy = Policy::new(Arc::clone(&host), spec.run_dir.clone(), requester);
        policy.records_are_unusable(spec.records_unusable);
        let (deadline, kill_at) = spec.times(now);
        Self {
            host,
            policy,
            spec: spec.clone(),
            recorded: Vec::new(),
            judgements: HashMap::new(),
            targets: HashMap::new(),
            others: HashMap::new(),
            ladders: HashMap::new(),
            churning: HashSet::new(),
            held: 0,
            began: now,
            deadline,
            kill_at,
            next_pass: now,
            next_look: now,
            named: Vec::new(),
            clean: false,
            quiescent_passes: 0,
            busy_passes: 0,
            zombies: 0,
            shims_known: false,
            report: Report::default(),
        }
    }

    /// Makes one step: until when to wait, or the report when all is done.
    pub(crate) fn step(
        &mut self,
        epoll: &OwnedFd,
        now: Instant,
    ) -> ControlFlow<Box<Report>, Instant> {
        let mut now = Instant::now().max(now);
        for _ in 0..PASSES_A_STEP {
            self.take_out_ended();
            self.release_pidfds();
            now = Instant::now().max(now);
            let found_trees = self.quick_pass(epoll, now);
            let pending = self.is_pending();
            let pass_due = now >= self.next_pass || (!pending && !self.clean);
            let is_storm = found_trees && !self.is_quiescent();
            if pass_due && !self.clean && !is_storm {
                let brief = self.first_is_brief() || pending;
                self.full_pass(epoll, if brief { Carriers::MarkOnly } else { Carriers::All });
            }
            if self.report.refused.is_some() {
                return self.finish();
            }
            now = Instant::now().max(now);
            self.advance(now);
            self.take_out_ended();
            let is_over = !self.is_pending() && self.clean && self.is_quiescent();
            if is_over || now >= self.deadline {
                return self.finish();
            }
            if self.is_pending() {
                return ControlFlow::Continue(self.next_time(now).min(self.deadline));
            }
        }
        let pause = if is_scarce() { UNHELD_LOOK } else { Duration::from_millis(1) };
        ControlFlow::Continue(now + pause)
    }

    /// Gives descriptors back if the table is full. The targets are found again by number and
    /// identity.
    fn release_pidfds(&mut self) {
        if is_scarce() && self.held > 0 {
            self.held = 0;
            for target in self.targets.values_mut() {
                target.pidfd = None;
            }
        }
    }

    pub(crate) fn is_report(&self) -> bool {
        matches!(self.spec.kind, CleanupKind::Sweep { mode: Mode::Report, .. })
    }

    /// Whether the first pass reads marks only. After a shim's death each millisecond counts, and
    /// nearly everything is marked.
    fn first_is_brief(&self) -> bool {
        matches!(self.spec.kind, CleanupKind::Worker(_)) && self.report.passes == 0
    }

    pub(crate) fn is_pending(&self) -> bool {
        self.targets.values().any(|target| !target.is_given_up())
    }

    /// Whether passes may be believed to be complete.
    ///
    /// A process that forks and exits without a pause is gone from a listing before its turn
    /// comes. So a single pass that finds none proves nothing. Two passes in a row must see no
    /// such process vanish.
    pub(crate) fn is_quiescent(&self) -> bool {
        self.churning.is_empty()
            || self.quiescent_passes >= 2
            || self.busy_passes >= MAX_BUSY_PASSES
    }

    pub(crate) fn decide(&mut self, process: &TaggedProcess) -> Option<Decision> {
        match &self.spec.kind {
            CleanupKind::Worker(workers) => workers.judge(&self.host, &mut self.policy, process),
            CleanupKind::Run { run, .. } if !process.runs().contains(run) => None,
            CleanupKind::Run { .. } | CleanupKind::Sweep { .. } => {
                let judgements = &mut self.judgements;
                Some(
                    self.policy.judge_process(process, |policy, run| {
                        remembered(judgements, policy, run)
                    }),
                )
            }
            CleanupKind::Process(_) => None,
        }
    }

    pub(crate) fn judgement(&mut self, run: RunId) -> RunJudgement {
        remembered(&mut self.judgements, &mut self.policy, run)
    }

    /// Takes out the targets that have ended.
    ///
    /// The end of each descriptor wakes the driver. Each target without a descriptor costs a
    /// look. Looking at all of them at every wake-up was most of the cost of killing a large
    /// tree.
    fn take_out_ended(&mut self) {
        let host = &self.host;
        let now = Instant::now();
        let looks = now >= self.next_look;
        if looks {
            self.next_look = now + UNHELD_HARVEST;
        }
        let mut ended = Vec::new();
        for (key, target) in &self.targets {
            let over = match &target.pidfd {
                Some(pidfd) => pidfd.is_ended(),
                None => looks && host.is_over(&target.identity()),
            };
            if over {
                ended.push(*key);
            }
        }
        if ended.is_empty() {
            return;
        }
        let in_charge = self.trees_in_charge();
        for key in ended {
            self.end(key, &in_charge);
        }
    }

    /// Takes out a target that has ended, by the kernel's word.
    pub(crate) fn end(&mut self, key: Key, in_charge: &HashSet<Tree>) {
        let Some(target) = self.targets.remove(&key) else { return };
        self.held -= usize::from(target.pidfd.is_some() && self.held > 0);
        let in_charge = is_in_charge(in_charge, &target);
        self.others.insert(key, target.ended(in_charge));
    }

    /// Takes out a target that is not to be ended after all.
    pub(crate) fn forget(&mut self, key: Key) {
        if let Some(target) = self.targets.remove(&key) {
            self.held -= usize::from(target.pidfd.is_some() && self.held > 0);
        }
    }

    /// Returns the trees that living shims are at work on.
    pub(crate) fn trees_in_charge(&self) -> HashSet<Tree> {
        self.targets
            .values()
            .filter(|shim| shim.is_shim_in_charge())
            .map(|shim| shim.tree)
            .collect()
    }

    fn next_time(&self, now: Instant) -> Instant {
        let mut next = now + Duration::from_secs(1);
        next = next.min(self.next_pass.max(now + Duration::from_millis(1)));
        for target in self.targets.values().filter(|target| !target.is_given_up()) {
            if target.pidfd.is_none() || target.blocked.is_some() {
                next = next.min(now + UNHELD_LOOK);
            }
            let began = self.ladders.get(&target.tree).copied().unwrap_or(now);
            next =
                target.stage.next(&self.spec.ladder, began, now).map_or(next, |at| next.min(at));
        }
        if self.kill_at > now { next.min(self.kill_at) } else { next }
    }

    /// Names each target that may still live as a survivor, and completes the report.
    fn finish(&mut self) -> ControlFlow<Box<Report>, Instant> {
        // Without this look, a process that has ended would be listed as a survivor.
        self.next_look = Instant::now();
        self.take_out_ended();
        if is_scarce() {
            reserve_descriptors();
        }
        for (key, target) in std::mem::take(&mut self.targets) {
            let (found, survivor) = target.survived(&self.host);
            self.report.survivors.push(survivor);
            self.others.insert(key, found);
        }
        self.finalize_report();
        ControlFlow::Break(Box::new(std::mem::take(&mut self.report)))
    }
}

pub(crate) fn remembered(
    judgements: &mut HashMap<RunId, (Instant, RunJudgement)>,
    policy: &mut Policy,
    run: RunId,
) -> RunJudgement {
    judgements.entry(run).or_insert_with(|| (Instant::now(), policy.judge_run(run))).1.clone()
}
