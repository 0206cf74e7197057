//! The one way from here to the core's hunts.

use crate::exit::Failure;
use leash_core::{Hunt, HuntKind, HuntSpec, Incomplete, Ladder, Report, RunDir};
use std::sync::Arc;
use std::time::Duration;

pub(crate) fn hunt(
    kind: HuntKind,
    ladder: Ladder,
    deadline: Duration,
    run_dir: Option<Arc<RunDir>>,
) -> Result<Report, Failure> {
    Ok(Hunt::new(HuntSpec { kind, ladder, deadline, run_dir, records_unusable: false })?.run())
}

/// Why something may have been missed, in words.
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

/// Whether that keeps "nothing is left" from being proven. Other users' processes that the kernel hides could not be ended
/// by this user either.
pub(crate) fn is_proven(report: &Report) -> bool {
    report.incomplete_because.iter().all(|why| *why == Incomplete::Hidepid)
}
