//! `leash ps`: the processes of workers, as a table or as JSON.
//!
//! It looks once and sends nothing. What the result may lack is said on stderr, so that programs
//! can read stdout.

use crate::args::PsArgs;
use crate::exit::{Exit, Failure};
use crate::process_view::ProcessView;
use crate::render::output::{print_json, print_lines};
use crate::render::processes;
use crate::render::style::Style;
use crate::run_dir_location::RunDirLocation;
use crate::snapshot::Snapshot;
use serde::Serialize;

/// The document of `--json`.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    snapshot: &'a Snapshot,
    processes: Vec<&'a ProcessView>,
}

/// Lists processes once.
pub(crate) fn run(location: &RunDirLocation, args: &PsArgs) -> Result<Exit, Failure> {
    let snapshot = Snapshot::take(location, args.all)?;
    let processes = snapshot.shown(args.shims);
    if args.json {
        print_json(&location.path, Document { snapshot: &snapshot, processes })?;
    } else {
        print_lines(&processes::table(&processes, Style::of_stdout()))?;
    }
    snapshot.complain();
    Ok(Exit::Done)
}
