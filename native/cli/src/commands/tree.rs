//! `leash tree`: runs, their shims and the processes below them, drawn as a tree.

use crate::args::TreeArgs;
use crate::exit::{Exit, Failure};
use crate::render::output::print_lines;
use crate::render::style::Style;
use crate::render::tree;
use crate::run_dir_location::RunDirLocation;
use crate::snapshot::Snapshot;

/// Draws runs with their processes once.
pub(crate) fn run(location: &RunDirLocation, args: &TreeArgs) -> Result<Exit, Failure> {
    let mut snapshot = Snapshot::take(location, args.all)?;
    snapshot.complain();
    if let Some(run) = args.run_id {
        let run = run.to_string();
        snapshot.runs.retain(|other| other.run_id == run);
        if snapshot.runs.is_empty() {
            return Err(Failure::new(Exit::Left, format!("{run}: no such run")));
        }
    }
    print_lines(&tree::lines(&snapshot, Style::of_stdout()))?;
    Ok(Exit::Done)
}
