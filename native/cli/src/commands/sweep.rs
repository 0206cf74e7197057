//! `leash sweep`: ends what dead runs left, as every start of Leash does.
//!
//! Runs that are alive, or may be, are left alone. `--dry-run` sends nothing.

use crate::args::SweepArgs;
use crate::cleanup;
use crate::exit::{Exit, Failure};
use crate::render::output::{print_json, print_lines};
use crate::render::report;
use crate::render::style::Style;
use crate::run_dir_location::RunDirLocation;
use leash_core::{Mode, Report};
use serde::Serialize;

/// The document of `--json`.
#[derive(Serialize)]
struct Document<'a> {
    dry_run: bool,
    report: &'a Report,
}

/// Ends what dead runs left, or says what it would end.
pub(crate) fn run(location: &RunDirLocation, args: SweepArgs) -> Result<Exit, Failure> {
    let dir = location.open()?;
    let dry_run = args.dry_run;
    let mode = if dry_run { Mode::Report } else { Mode::End };
    let kind = cleanup::sweep(args.app, mode);
    let report = cleanup::run(kind, args.hard.stop, args.hard.deadline, Some(dir))?;
    if args.json {
        print_json(&location.path, Document { dry_run, report: &report })?;
    } else {
        let mut lines = report::table(&report, dry_run, Style::of_stdout());
        lines.push(report::summary(&report, dry_run));
        print_lines(&lines)?;
    }
    Ok(cleanup::exit(&report))
}
