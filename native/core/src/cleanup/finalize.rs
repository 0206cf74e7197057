//! The end of a sweep: reports on the runs, and removes records that nothing needs any more. The
//! empty control groups of a run go with its record.

use crate::cleanup::engine::Engine;
use crate::cleanup::report::{RunReport, millis};
use crate::cleanup::spec::{CleanupKind, Mode};
use crate::policy::verdict::Verdict;
use crate::runs::record_file::RecordFile;
use crate::runs::worker_group::remove_empty_groups;
use crate::tags::scan::Incomplete;
use leash_tag::RunId;
use std::path::Path;

impl Engine {
    /// Reports on each run, and removes the records that nothing needs any more.
    pub(crate) fn finalize_report(&mut self) {
        if !self.spec.kind.is_for_workers() {
            for run in self.judgements.policy.runs() {
                self.close_run(run);
            }
        }
        self.report.elapsed_ms = millis(self.began.elapsed());
    }

    /// Reports on a run, and removes its record if nothing needs it any more.
    fn close_run(&mut self, run: RunId) {
        if let CleanupKind::Run { run: only, .. } = self.spec.kind {
            if only != run {
                return;
            }
        }
        let judgement = self.judgements.run(run);
        let file = self.judgements.policy.record(run).cloned();
        self.report.runs.push(RunReport::new(&judgement, file.as_ref()));
        let (Some(file), Some(dir)) = (file, &self.spec.run_dir) else { return };
        if !self.may_drop(run, judgement.verdict, &file) {
            return;
        }
        let directory = file.record.as_ref().ok().and_then(|record| record.groups.as_deref());
        if directory.is_some_and(|path| !remove_empty_groups(Path::new(path), run)) {
            return;
        }
        // A record that cannot be removed does no harm, because the next sweep tries again.
        if dir.remove(&file).unwrap_or(false) {
            self.report.records_dropped.push(run.to_string());
        }
    }

    /// Whether a run's record may go. The run is dead or of another boot, nothing of it is left,
    /// and the pass was complete as far as this user can see.
    fn may_drop(&self, run: RunId, verdict: Verdict, file: &RecordFile) -> bool {
        let ends = match &self.spec.kind {
            CleanupKind::Sweep { mode, .. } => *mode == Mode::End,
            CleanupKind::Run { .. } => true,
            CleanupKind::Worker(_) | CleanupKind::Process(_) => false,
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
            && self.judgements.policy.is_in_scope(run)
    }

    /// Whether the last pass saw all that this user can see.
    ///
    /// If `/proc` hides other users' processes, no pass is complete, and a record would stay for
    /// ever. But only this user reads the record, and this user could not end those hidden
    /// processes. Hidden processes of this user were looked for by number.
    fn is_seen_through(&self) -> bool {
        self.report.complete || self.report.incomplete_because == [Incomplete::Hidepid]
    }
}
