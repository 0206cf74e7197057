//! A process as the command shows it: in a table, in the tree and as JSON.
//!
//! It has what the report says, and what [`process_stats`](crate::process_stats) reads beside it.

use crate::process_stats::ProcessStats;
use crate::render::style::Colour;
use crate::render::table::Cell;
use crate::render::text::verdict;
use crate::run_view::{OwnerView, Status};
use leash_core::Verdict;
use leash_core::report::Match;
use serde::Serialize;

/// A process of a run. The keys are documented in guides/cli.schema.json.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ProcessView {
    /// The run that it belongs to, or claims to.
    pub(crate) run_id: Option<String>,
    /// The number of its worker in that run.
    pub(crate) worker: Option<u16>,
    /// The worker's registered name, as the record has it.
    pub(crate) name: Option<String>,
    /// The worker's group, as the record has it.
    pub(crate) group: Option<String>,
    /// The process.
    pub(crate) pid: u32,
    /// Its parent.
    pub(crate) ppid: Option<u32>,
    /// In the machine's clock ticks; `None` if `/proc` hides it.
    pub(crate) start_ticks: Option<u64>,
    /// The real user.
    pub(crate) uid: Option<u32>,
    /// The state letter of `/proc/<pid>/stat`.
    pub(crate) state: char,
    /// The time since its start.
    pub(crate) age_ms: u64,
    /// The CPU time of it and of the children that it waited for.
    pub(crate) cpu_ms: Option<u64>,
    /// The memory in RAM.
    pub(crate) rss_bytes: Option<u64>,
    /// The command line, or the name in brackets.
    pub(crate) command: String,
    /// True if it is a shim.
    pub(crate) shim: bool,
    /// True if that shim is the run's warden.
    pub(crate) warden: bool,
    /// The carriers that name the run.
    pub(crate) carriers: Vec<&'static str>,
    /// The verdict of a sweep on it.
    pub(crate) verdict: Verdict,
    /// The reason for the verdict, in words.
    pub(crate) why: String,
    /// The owner of its run.
    pub(crate) owner: Option<OwnerView>,
}

impl ProcessView {
    /// Builds a view of a match. `stats` were read after the match was found.
    pub(crate) fn new(found: &Match, stats: ProcessStats, owner: Option<OwnerView>) -> Self {
        Self {
            run_id: found.run_id.clone(),
            worker: found.worker,
            name: None,
            group: None,
            pid: found.pid,
            ppid: stats.ppid,
            start_ticks: found.start_ticks,
            uid: found.uid,
            state: found.state,
            age_ms: stats.age_ms,
            cpu_ms: stats.cpu_ms,
            rss_bytes: stats.rss_bytes,
            command: found.command.clone(),
            shim: found.shim,
            warden: found.warden,
            carriers: found.carriers.clone(),
            verdict: found.verdict,
            why: found.why.clone(),
            owner,
        }
    }

    /// Returns what an operator calls its worker: the name, else the group.
    pub(crate) fn title(&self) -> Option<&str> {
        self.name.as_deref().or(self.group.as_deref())
    }

    /// Returns whether it belongs to a run.
    pub(crate) fn is_of(&self, run_id: &str) -> bool {
        self.run_id.as_deref() == Some(run_id)
    }

    /// Returns the verdict as a cell: red if a sweep would end the process, green if its run is
    /// alive, and yellow otherwise.
    pub(crate) fn status_cell(&self) -> Cell {
        match (self.verdict, Status::of(self.verdict)) {
            (Verdict::Dead, _) => Cell::new("DEAD", Colour::Red),
            (_, Status::Alive) => Cell::new(verdict(self.verdict), Colour::Green),
            _ => Cell::new(verdict(self.verdict), Colour::Yellow),
        }
    }

    /// Returns a worker's process of a live run, for tests.
    #[cfg(test)]
    pub(crate) fn example(pid: u32, ppid: u32, command: &str) -> Self {
        Self {
            run_id: Some("s59m65f".into()),
            worker: Some(3),
            name: None,
            group: None,
            pid,
            ppid: Some(ppid),
            start_ticks: Some(9),
            uid: Some(0),
            state: 'S',
            age_ms: 5000,
            cpu_ms: Some(40),
            rss_bytes: Some(2048),
            command: command.into(),
            shim: false,
            warden: false,
            carriers: vec!["mark", "env"],
            verdict: Verdict::Live,
            why: "its owner lives".into(),
            owner: None,
        }
    }
}
