//! The only place where this command starts hunts of the core.

use crate::exit::Failure;
use leash_core::{Cleanup, CleanupKind, CleanupSpec, Incomplete, Ladder, Report, RunDir};
use std::sync::Arc;
use std::time::Duration;

pub(crate) fn hunt(
    kind: CleanupKind,
    ladder: Ladder,
    deadline: Duration,
    run_dir: Option<Arc<RunDir>>,
) -> Result<Report, Failure> {
    Ok(Cleanup::new(CleanupSpec { kind, ladder, deadline, run_dir, records_unusable: false })?
        .run())
}

/// Returns in words why the hunt may have missed something.
pub(crate) fn incomplete(report: &Report) -> Option<String> {
    let why = report.incomplete_because.iter().map(|why| match why {
        Incomplete::NoProc => "/proc is missing or shows another pid namespace",
        Incomplete::Hidepid => "/proc hides other users' processes",
        Incomplete::DescriptorsExhausted => "no file descriptor was left",
        Incomplete::Unreadable => "a process could not be read",
        Incomplete::Records => "the run directory could not be read",
        Incomplete::Fleeting => "processes come and go faster than they are read",
        Incomplete::NoIdentity => "/proc does not name boot and pid namespace",
        _ => "an unknown reason",
    });
    let why: Vec<_> = why.collect();
    (!why.is_empty()).then(|| format!("something may have been missed: {}", why.join(", ")))
}

/// Returns whether "nothing is left" is proven. Processes of other users that the kernel hides do
/// not count, because this user could not end them either.
pub(crate) fn is_proven(report: &Report) -> bool {
    report.incomplete_because.iter().all(|why| *why == Incomplete::Hidepid)
}
