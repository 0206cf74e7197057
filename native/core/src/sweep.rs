//! The end of a sweep: which records may go, and the report's lists.

use crate::hunt::{HuntKind, Mode};
use crate::report::{Report, RunReport};
use crate::scan::Incomplete;
use crate::verdict::Verdict;
use crate::work::Work;
use leash_tag::RunId;

impl Work {
    /// Drops the records that nothing needs any more and fills in the report.
    pub(crate) fn close_books(&mut self) {
        if matches!(self.spec.kind, HuntKind::Run { .. } | HuntKind::Sweep { .. }) {
            for run in self.judge.runs() {
                self.close_run(run);
            }
        }
        let Report { matches, survivors, .. } = &mut self.report;
        *matches = std::mem::take(&mut self.others).into_values().collect();
        matches.sort_by_key(|found| (found.pid, found.start_ticks));
        survivors.sort_by_key(|survivor| (survivor.pid, survivor.start_ticks));
    }

    fn close_run(&mut self, run: RunId) {
        if let HuntKind::Run { run: only, .. } = self.spec.kind
            && only != run
        {
            return;
        }
        let judgement = self.judgement(run);
        let file = self.judge.record(run).cloned();
        self.report.runs.push(RunReport::new(&judgement, file.as_ref()));
        let (Some(file), Some(dir)) = (file, &self.spec.run_dir) else { return };
        if !self.may_drop(run, judgement.verdict, &file) {
            return;
        }
        // A record that cannot be removed is no harm: the next sweep tries again.
        if dir.remove(&file).unwrap_or(false) {
            self.report.records_dropped.push(run.to_string());
        }
    }

    /// Dead or of another boot, nothing of it left, and the pass that says so complete, as far as this user can see.
    fn may_drop(&self, run: RunId, verdict: Verdict, file: &crate::RecordFile) -> bool {
        let ends = match &self.spec.kind {
            HuntKind::Sweep { mode, .. } => *mode == Mode::End,
            HuntKind::Run { .. } => true,
            HuntKind::Worker(_) | HuntKind::Process(_) => false,
        };
        ends && file.record.is_ok()
            && matches!(verdict, Verdict::Dead | Verdict::Stale)
            && self.report.refused.is_none()
            && self.is_seen_through()
            && !self.named.contains(&run)
            && self
                .report
                .survivors
                .iter()
                .all(|survivor| survivor.run_id != Some(run.to_string()))
            && self.judge.is_in_scope(run)
    }

    /// Where `/proc` hides others from us, a record would stay for every start and for ever: only this user reads it, and
    /// what is hidden could not be ended by this user. What is hidden and is this user's was looked for by number.
    fn is_seen_through(&self) -> bool {
        self.report.complete || self.report.incomplete_because == [Incomplete::Hidepid]
    }
}
