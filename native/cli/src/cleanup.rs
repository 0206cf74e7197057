//! The only place where this command has the core look at processes and end them.
//!
//! The core decides about each process. This module says what the result means for a person and
//! for the exit status.

use crate::exit::{Exit, Failure};
use crate::render::output::complain;
use leash_core::{Cleanup, CleanupKind, CleanupSpec, Incomplete, Ladder, Mode, Report, RunDir};
use std::sync::Arc;
use std::time::Duration;

/// Runs a hunt of the core to its end.
pub(crate) fn run(
    kind: CleanupKind,
    ladder: Ladder,
    deadline: Duration,
    run_dir: Option<Arc<RunDir>>,
) -> Result<Report, Failure> {
    Ok(Cleanup::new(CleanupSpec { kind, ladder, deadline, run_dir, records_unusable: false })?
        .run())
}

/// Returns the kind of a sweep over dead runs, of one application or of all.
pub(crate) fn sweep(app: Option<String>, mode: Mode) -> CleanupKind {
    CleanupKind::Sweep { own_run: None, app, mode }
}

/// Returns in words why the report may lack something.
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

/// Returns the exit status, and prints on stderr why the report may lack something.
///
/// Processes of other users that the kernel hides do not count as missed, because this user could
/// not end them either.
pub(crate) fn exit(report: &Report) -> Exit {
    if let Some(note) = incomplete(report) {
        complain(&note);
    }
    let is_proven = report.incomplete_because.iter().all(|why| *why == Incomplete::Hidepid);
    if report.survivors.is_empty() && is_proven { Exit::Done } else { Exit::Left }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_seen_is_not_called_done_unless_it_is_none_of_this_users() {
        let with = |why| exit(&Report { incomplete_because: vec![why], ..Report::default() });
        assert_eq!(with(Incomplete::Unreadable), Exit::Left);
        assert_eq!(with(Incomplete::Hidepid), Exit::Done);
        assert_eq!(exit(&Report::default()), Exit::Done);
    }
}
