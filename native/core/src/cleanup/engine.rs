//! The cleanup of tagged processes: the order of passes and signals.
//!
//! The passes, the signals and the end are in files of their own. What they change is in small
//! structs that keep their own order: [`Targets`], [`Ladders`], [`Churn`], [`Judgements`].

use crate::cleanup::churn::Churn;
use crate::cleanup::judgements::Judgements;
use crate::cleanup::ladders::Ladders;
use crate::cleanup::report::Report;
use crate::cleanup::spec::CleanupSpec;
use crate::cleanup::targets::Targets;
use crate::os::reserve::{is_scarce, reserve_descriptors};
use crate::procfs::host::Host;
use crate::runs::record::RecordedCommand;
use crate::tags::process_reader::Carriers;
use leash_tag::RunId;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A target without a descriptor wakes nothing when it ends. So the next step comes in this time.
pub(crate) const UNHELD_LOOK: Duration = Duration::from_millis(20);
// One step makes at most this many passes while each finds new processes, so that a step has an
// end.
const PASSES_A_STEP: u32 = 8;

/// The cleanup of processes that their tags name.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) host: Arc<Host>,
    pub(crate) spec: CleanupSpec,
    pub(crate) judgements: Judgements,
    // The commands that records name.
    pub(crate) recorded: Vec<(RunId, RecordedCommand)>,
    pub(crate) targets: Targets,
    pub(crate) ladders: Ladders,
    pub(crate) churn: Churn,
    pub(crate) began: Instant,
    pub(crate) deadline: Instant,
    pub(crate) kill_at: Instant,
    pub(crate) next_pass: Instant,
    // The runs named in the last pass of all carriers.
    pub(crate) named: Vec<RunId>,
    // Whether the last pass found nothing left to end.
    pub(crate) clean: bool,
    // Whether every living shim of the runs being ended is a target.
    pub(crate) shims_known: bool,
    pub(crate) report: Report,
}

impl Engine {
    /// Prepares a cleanup that begins now.
    pub(crate) fn new(spec: &CleanupSpec, host: Host, now: Instant) -> Self {
        let host = Arc::new(host);
        let (deadline, kill_at) = spec.times(now);
        Self {
            judgements: Judgements::new(&host, spec),
            host,
            recorded: Vec::new(),
            targets: Targets::new(now),
            ladders: Ladders::new(spec.ladder.clone()),
            churn: Churn::default(),
            spec: spec.clone(),
            began: now,
            deadline,
            kill_at,
            next_pass: now,
            named: Vec::new(),
            clean: false,
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
            self.targets.take_out_ended(&self.host);
            self.targets.release_pidfds();
            now = Instant::now().max(now);
            let found_trees = self.quick_pass(epoll, now);
            let pending = self.targets.is_pending();
            let pass_due = now >= self.next_pass || (!pending && !self.clean);
            let is_storm = found_trees && !self.churn.is_quiescent();
            if pass_due && !self.clean && !is_storm {
                // After a shim's death each millisecond counts, and nearly everything is marked.
                let is_first = self.spec.kind.is_for_workers() && self.report.passes == 0;
                let brief = is_first || pending;
                self.full_pass(epoll, if brief { Carriers::MarkOnly } else { Carriers::All });
            }
            if self.report.refused.is_some() {
                return self.finish();
            }
            now = Instant::now().max(now);
            self.advance(now);
            self.targets.take_out_ended(&self.host);
            let pending = self.targets.is_pending();
            let is_over = !pending && self.clean && self.churn.is_quiescent();
            if is_over || now >= self.deadline {
                return self.finish();
            }
            if pending {
                return ControlFlow::Continue(self.next_time(now).min(self.deadline));
            }
        }
        let pause = if is_scarce() { UNHELD_LOOK } else { Duration::from_millis(1) };
        ControlFlow::Continue(now + pause)
    }

    /// Whether no time is left for the ladder, or none is given.
    pub(crate) fn is_last(&self, now: Instant) -> bool {
        now >= self.kill_at || self.spec.kind.is_for_workers()
    }

    /// The time of the next step, if no descriptor wakes the driver before.
    fn next_time(&self, now: Instant) -> Instant {
        let mut next = now + Duration::from_secs(1);
        next = next.min(self.next_pass.max(now + Duration::from_millis(1)));
        for target in self.targets.pending() {
            if target.pidfd.is_none() || target.blocked.is_some() {
                next = next.min(now + UNHELD_LOOK);
            }
            if let Some(end) = self.ladders.next(target.tree, target.stage, now) {
                next = next.min(end);
            }
        }
        if self.kill_at > now { next.min(self.kill_at) } else { next }
    }

    /// Names what is left, and completes the report.
    fn finish(&mut self) -> ControlFlow<Box<Report>, Instant> {
        if is_scarce() {
            reserve_descriptors();
        }
        let (matches, survivors) = self.targets.finish(&self.host);
        (self.report.matches, self.report.survivors) = (matches, survivors);
        self.finalize_report();
        ControlFlow::Break(Box::new(std::mem::take(&mut self.report)))
    }
}
