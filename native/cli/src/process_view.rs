//! A process as the command shows it.

use crate::paint::Colour;
use crate::run_view::{OwnerView, Status};
use crate::table::Cell;
use crate::text::verdict;
use crate::vitals::Vitals;
use leash_core::Verdict;
use leash_core::report::Match;
use serde::Serialize;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct ProcessView {
    pub(crate) run_id: Option<String>,
    pub(crate) worker: Option<u16>,
    pub(crate) pid: u32,
    pub(crate) ppid: Option<u32>,
    pub(crate) start_ticks: Option<u64>,
    pub(crate) uid: Option<u32>,
    pub(crate) state: char,
    pub(crate) age_ms: u64,
    pub(crate) rss_bytes: Option<u64>,
    pub(crate) command: String,
    pub(crate) shim: bool,
    /// True if that shim is the run's warden.
    pub(crate) warden: bool,
    pub(crate) carriers: Vec<&'static str>,
    /// The verdict of a sweep on it.
    pub(crate) verdict: Verdict,
    pub(crate) why: String,
    pub(crate) owner: Option<OwnerView>,
}

impl ProcessView {
    pub(crate) fn new(found: &Match, vitals: Vitals, owner: Option<OwnerView>) -> Self {
        Self {
            run_id: found.run_id.clone(),
            worker: found.worker,
            pid: found.pid,
            ppid: vitals.ppid,
            start_ticks: found.start_ticks,
            uid: found.uid,
            state: found.state,
            age_ms: vitals.age_ms,
            rss_bytes: vitals.rss_bytes,
            command: found.command.clone(),
            shim: found.shim,
            warden: found.warden,
            carriers: found.carriers.clone(),
            verdict: found.verdict,
            why: found.why.clone(),
            owner,
        }
    }

    pub(crate) fn status_cell(&self) -> Cell {
        status_cell(self.verdict)
    }
}

/// Colours the verdict: red if a sweep would end the process, green if its run is alive, and
/// yellow otherwise.
pub(crate) fn status_cell(of: Verdict) -> Cell {
    let (text, colour) = match (of, Status::of(of)) {
        (Verdict::Dead, _) => ("DEAD".to_owned(), Colour::Red),
        (_, Status::Alive) => (verdict(of), Colour::Green),
        _ => (verdict(of), Colour::Yellow),
    };
    Cell { text, colour }
}
