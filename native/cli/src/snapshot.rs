//! Everything at one moment: the findings of a sweep, without a signal.
//!
//! What a sweep would end and what this command shows never differ, because both come from the
//! same report. A process that ended since is left out.

use crate::cleanup::{self, incomplete};
use crate::exit::{Exit, Failure};
use crate::process_stats::{self, ProcessStats};
use crate::process_view::ProcessView;
use crate::render::output::complain;
use crate::render::text::harmless;
use crate::run_dir_location::RunDirLocation;
use crate::run_view::RunView;
use leash_core::report::{Match, RecordPresence, RunReport};
use leash_core::{Host, Incomplete, Ladder, Mode, Record, RunDir};
use leash_tag::RunId;
use serde::Serialize;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// The limit of a look. A pass takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// The runs, and the processes of runs. Serialized, it says whether it may lack something.
#[derive(Debug, Serialize)]
pub(crate) struct Snapshot {
    /// Sorted by run id.
    #[serde(skip)]
    pub(crate) runs: Vec<RunView>,
    /// Sorted by run, worker and pid.
    #[serde(skip)]
    pub(crate) processes: Vec<ProcessView>,
    /// Whether no process can have been missed.
    pub(crate) complete: bool,
    /// The reasons why one can.
    pub(crate) incomplete_because: Vec<Incomplete>,
    /// Notes to print beside the result.
    #[serde(skip)]
    pub(crate) notes: Vec<String>,
}

impl Snapshot {
    /// Looks once. Sends no signal, and leaves out this process.
    ///
    /// `all` includes the processes of other users. A worker that runs as another
    /// user belongs to the runs of this user in any case.
    pub(crate) fn take(location: &RunDirLocation, all: bool) -> Result<Self, Failure> {
        let (dir, note) = location.open_to_look()?;
        let kind = cleanup::sweep(None, Mode::Report);
        let report = cleanup::run(kind, Ladder::default(), PATIENCE, dir.clone())?;
        let host = Host::current()?;
        if report.incomplete_because.contains(&Incomplete::NoProc) {
            return Err(Failure::new(Exit::Unusable, incomplete(&report).unwrap_or_default()));
        }
        let mut names = HashMap::new();
        let view = |run: &RunReport| {
            let record = record(dir.as_ref(), &run.run_id);
            let since = record.as_ref().map(|record| record.about.started_at.clone());
            // The last line of a number counts.
            for named in record.into_iter().flat_map(|record| record.names) {
                names.insert((run.run_id.clone(), named.worker), named);
            }
            RunView::new(run, since.filter(|text| !text.is_empty()))
        };
        let mut runs: Vec<_> = report.runs.iter().map(view).collect();
        let known: HashMap<_, _> = runs.iter().map(|run| (run.run_id.as_str(), run)).collect();
        let me = host.me().pid.as_u32();
        let view = |found: &Match| {
            let run = found.run_id.as_deref().and_then(|run| known.get(run));
            let is_recorded = run.is_some_and(|run| run.record == RecordPresence::Present);
            let is_asked = all || is_recorded || found.uid == Some(host.uid());
            // A process that ended since the sweep saw it is left out. If `/proc` hides a
            // process, there is nothing to read.
            let stats = match found.start_ticks {
                _ if found.pid == me || !is_asked => return None,
                Some(start_ticks) => process_stats::read(&host, found.pid, start_ticks)?,
                None => ProcessStats::default(),
            };
            Some(ProcessView::new(found, stats, run.and_then(|run| run.owner)))
        };
        let mut processes: Vec<_> = report.matches.iter().filter_map(view).collect();
        for process in &mut processes {
            let key = process.run_id.clone().zip(process.worker);
            if let Some(named) = key.and_then(|key| names.get(&key)) {
                process.name = named.name.as_deref().map(harmless);
                process.group = named.group.as_deref().map(harmless);
            }
        }
        processes.sort_by(|a, b| {
            (&a.run_id, a.worker, !a.shim, a.pid).cmp(&(&b.run_id, b.worker, !b.shim, b.pid))
        });
        for run in &mut runs {
            let own = processes.iter().filter(|process| process.is_of(&run.run_id));
            let (shims, others): (Vec<_>, Vec<_>) = own.partition(|process| process.shim);
            (run.shims, run.processes) = (shims.len(), others.len());
        }
        runs.retain(|run| {
            all || run.record != RecordPresence::Absent || run.shims + run.processes > 0
        });
        Ok(Self {
            runs,
            processes,
            complete: report.complete,
            notes: note.into_iter().chain(incomplete(&report)).collect(),
            incomplete_because: report.incomplete_because,
        })
    }

    /// Returns the processes to show: all of them, but shims only on request.
    pub(crate) fn shown(&self, shims: bool) -> Vec<&ProcessView> {
        self.processes.iter().filter(|process| shims || !process.shim).collect()
    }

    /// Prints the notes on stderr.
    pub(crate) fn complain(&self) {
        for note in &self.notes {
            complain(note);
        }
    }
}

/// Returns the record of a run, for what only it says.
fn record(dir: Option<&Arc<RunDir>>, run: &str) -> Option<Record> {
    dir?.record(RunId::parse(run.as_bytes())?).ok()??.record.ok()
}
