//! One look at everything: the findings of a sweep, without a signal.

use crate::exit::{Exit, Failure};
use crate::hunting::{hunt, incomplete};
use crate::output::complain;
use crate::place::Place;
use crate::process_view::ProcessView;
use crate::run_view::RunView;
use crate::vitals::{self, Vitals};
use leash_core::report::RecordPresence;
use leash_core::{CleanupKind, Host, Incomplete, Ladder, Mode, RunDir};
use leash_tag::RunId;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

// A pass takes milliseconds. This limit is for a machine that hardly makes progress.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Look {
    pub(crate) runs: Vec<RunView>,
    /// Sorted by run, worker and pid.
    pub(crate) processes: Vec<ProcessView>,
    pub(crate) complete: bool,
    pub(crate) incomplete_because: Vec<Incomplete>,
    /// Notes to print beside the result.
    pub(crate) notes: Vec<String>,
}

impl Look {
    /// Looks once. `all` includes the processes of other users. A worker that runs as another
    /// user belongs to the runs of this user in any case.
    pub(crate) fn now(place: &Place, all: bool) -> Result<Self, Failure> {
        let (dir, note) = place.open_to_look()?;
        let kind = CleanupKind::Sweep { own_run: None, app: None, mode: Mode::Report };
        let report = hunt(kind, Ladder::default(), PATIENCE, dir.clone())?;
        let host = Host::current()?;
        if report.incomplete_because.contains(&Incomplete::NoProc) {
            return Err(Failure::new(Exit::Unusable, incomplete(&report).unwrap_or_default()));
        }
        let mut runs: Vec<_> = report
            .runs
            .iter()
            .map(|run| RunView::new(run, since(dir.as_ref(), &run.run_id)))
            .collect();
        let recorded: HashSet<_> = runs
            .iter()
            .filter(|run| run.record == RecordPresence::Present)
            .map(|run| run.run_id.clone())
            .collect();
        let owners: HashMap<_, _> =
            runs.iter().map(|run| (run.run_id.clone(), run.owner)).collect();
        let me = host.me().pid.as_u32();
        let of_run =
            |run: &Option<String>| run.as_ref().is_some_and(|run| recorded.contains(run));
        let mut processes: Vec<_> = report
            .matches
            .iter()
            .filter(|found| found.pid != me)
            .filter(|found| all || found.uid == Some(host.uid()) || of_run(&found.run_id))
            .filter_map(|found| {
                // A process that ended since the hunt saw it is left out. If `/proc` hides a
                // process, there is nothing to read.
                let vitals = match found.start_ticks {
                    Some(start_ticks) => vitals::read(&host, found.pid, start_ticks)?,
                    None => Vitals::default(),
                };
                let owner = found.run_id.as_ref().and_then(|run| *owners.get(run)?);
                Some(ProcessView::new(found, vitals, owner))
            })
            .collect();
        processes.sort_by(|a, b| {
            (&a.run_id, a.worker, !a.shim, a.pid).cmp(&(&b.run_id, b.worker, !b.shim, b.pid))
        });
        for run in &mut runs {
            let own =
                processes.iter().filter(|process| process.run_id.as_ref() == Some(&run.run_id));
            (run.shims, run.processes) =
                own.fold((0, 0), |(s, p), one| if one.shim { (s + 1, p) } else { (s, p + 1) });
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

    pub(crate) fn complain(&self) {
        for note in &self.notes {
            complain(note);
        }
    }
}

fn since(dir: Option<&Arc<RunDir>>, run: &str) -> Option<String> {
    let run = RunId::parse(run.as_bytes())?;
    let record = dir?.record(run).ok()??.record.ok()?;
    Some(record.about.started_at).filter(|text| !text.is_empty())
}
