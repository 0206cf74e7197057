//! A run as the command shows it: in a table, in the tree and as JSON.
//!
//! It has what the report says, the start that only the record knows, and counts of processes.

use crate::render::style::Colour;
use crate::render::table::Cell;
use crate::render::text::verdict;
use leash_core::record::Corrupt;
use leash_core::report::{OwnerReport, RecordPresence, RunReport};
use leash_core::{Lock, OwnerState, Source, Verdict};
use serde::Serialize;

/// A run. The keys are documented in guides/cli.schema.json.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RunView {
    /// The run.
    pub(crate) run_id: String,
    /// The verdict in short.
    pub(crate) status: Status,
    /// The verdict of a sweep on it.
    pub(crate) verdict: Verdict,
    /// The reason for the verdict, in words.
    pub(crate) why: String,
    /// Whether it has a record here.
    pub(crate) record: RecordPresence,
    /// The reason why the record is not believed.
    pub(crate) corrupt: Option<Corrupt>,
    /// The state of the record's lock.
    pub(crate) lock: Option<Lock>,
    /// One owner of those that witnesses name.
    pub(crate) owner: Option<OwnerView>,
    /// The application that the record names.
    pub(crate) app: Option<String>,
    /// The node that the record names.
    pub(crate) node: Option<String>,
    /// ISO 8601, as the VM wrote it.
    pub(crate) since: Option<String>,
    /// The number of processes, shims not counted.
    pub(crate) processes: usize,
    /// The number of shims.
    pub(crate) shims: usize,
}

/// The short form of a verdict: whether the run is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    /// Its VM runs, or the command runs inside of it.
    Alive,
    /// Provably over.
    Dead,
    /// Neither is proven.
    Unknown,
}

/// An owner of a run: a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct OwnerView {
    /// The VM.
    pub(crate) pid: u32,
    /// The start of the VM, in the machine's clock ticks.
    pub(crate) start_ticks: u64,
    /// Whether it lives.
    pub(crate) state: OwnerState,
    /// The witness that names it.
    pub(crate) source: Source,
}

impl Status {
    /// Returns the short form of a verdict on a run.
    pub(crate) fn of(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Live | Verdict::Own | Verdict::OwnOuterRun => Self::Alive,
            Verdict::Dead | Verdict::Stale => Self::Dead,
            _ => Self::Unknown,
        }
    }
}

impl RunView {
    /// Builds a view. `since` comes from the record alone; the caller fills in the counts.
    pub(crate) fn new(report: &RunReport, since: Option<String>) -> Self {
        Self {
            run_id: report.run_id.clone(),
            status: Status::of(report.verdict),
            verdict: report.verdict,
            why: report.why.clone(),
            record: report.record,
            corrupt: report.corrupt,
            lock: report.lock,
            owner: owner(&report.owners),
            app: report.app.clone(),
            node: report.node.clone(),
            since,
            processes: 0,
            shims: 0,
        }
    }

    /// Returns the status as a cell.
    pub(crate) fn status_cell(&self) -> Cell {
        match self.status {
            Status::Alive => Cell::new("alive", Colour::Green),
            Status::Dead if self.verdict == Verdict::Stale => {
                Cell::new("dead (boot)", Colour::Red)
            }
            Status::Dead => Cell::new("DEAD", Colour::Red),
            Status::Unknown => Cell::new(verdict(self.verdict), Colour::Yellow),
        }
    }
}

impl OwnerView {
    /// Returns the pid, for example `4711`, followed by the owner's state if it is not running.
    pub(crate) fn text(self) -> String {
        match self.state {
            OwnerState::Alive => self.pid.to_string(),
            OwnerState::Gone => format!("{} gone", self.pid),
            OwnerState::OtherBoot => format!("{} of another boot", self.pid),
            // The pid belongs to another namespace. Here it means another process or none.
            OwnerState::ForeignNamespace => format!("{} elsewhere", self.pid),
            OwnerState::Unknown => format!("{} ?", self.pid),
        }
    }
}

/// Returns the owner that is alive, else the owner that the strongest source names.
fn owner(owners: &[OwnerReport]) -> Option<OwnerView> {
    // The strongest source comes first in its definition.
    let rank = |owner: &&OwnerReport| (owner.state != OwnerState::Alive, owner.source as u8);
    let found = owners.iter().min_by_key(rank)?;
    let OwnerReport { pid, start_ticks, state, source, .. } = *found;
    Some(OwnerView { pid, start_ticks, state, source })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Returns the report on a run with a record and no owner.
    pub(crate) fn report(verdict: Verdict, why: &str) -> RunReport {
        RunReport {
            run_id: "s59m65f".into(),
            verdict,
            why: why.into(),
            record: RecordPresence::Present,
            corrupt: None,
            lock: Some(Lock::Free),
            app: Some("shop".into()),
            node: Some(String::new()),
            owners: Vec::new(),
        }
    }

    fn named(source: Source, pid: u32, state: OwnerState) -> OwnerReport {
        OwnerReport { source, pid, start_ticks: 5, pid_ns: 6, state }
    }

    #[test]
    fn a_living_owner_is_shown_before_a_recorded_one() {
        let recorded = named(Source::Record, 10, OwnerState::Gone);
        let env = named(Source::Env, 11, OwnerState::Gone);
        let alive = named(Source::Argv, 12, OwnerState::Alive);
        let pid = |owners: &[OwnerReport]| owner(owners).map(|owner| owner.pid);
        assert_eq!(pid(&[env.clone(), recorded.clone()]), Some(10));
        assert_eq!(pid(&[env, recorded, alive]), Some(12));
        assert_eq!(pid(&[]), None);
    }

    #[test]
    fn only_what_is_provably_over_is_dead() {
        assert_eq!(Status::of(Verdict::Live), Status::Alive);
        assert_eq!(
            (Status::of(Verdict::Dead), Status::of(Verdict::Stale)),
            (Status::Dead, Status::Dead)
        );
        for unsure in [Verdict::Disputed, Verdict::UnknownOwner, Verdict::ForeignNamespace] {
            assert_eq!(Status::of(unsure), Status::Unknown);
        }
    }

    #[test]
    fn an_owner_shows_more_than_its_number_only_if_it_is_not_simply_alive() {
        let text = |state| owner(&[named(Source::Env, 7, state)]).unwrap().text();
        assert_eq!(text(OwnerState::Alive), "7");
        assert_eq!(text(OwnerState::Gone), "7 gone");
        assert_eq!(text(OwnerState::ForeignNamespace), "7 elsewhere");
    }
}
