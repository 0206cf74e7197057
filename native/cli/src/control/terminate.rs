//! `leash kill --force`: asks the VM of a live run to stop.
//!
//! This is the only signal that this command sends without the core's hunt. It goes to a pidfd,
//! after the record, its lock and the owner's identity agree.

use crate::exit::{Exit, Failure};
use leash_core::{Host, Identity, Lock, OwnerRef, OwnerState, PidFd, Record, RunDir, Signal};
use leash_tag::RunId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::Serialize;
use std::time::{Duration, Instant};

/// The result of the signal to a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct TerminatedVm {
    /// The VM.
    pub(crate) pid: u32,
    /// The signal's name, with `SIG`.
    pub(crate) signal: &'static str,
    /// Whether the VM has ended in time.
    pub(crate) ended: bool,
    /// The time from the signal to its end, or until this command gave up.
    pub(crate) elapsed_ms: u64,
}

/// Sends SIGTERM to a run's owner and waits for its end.
///
/// The owner is only the process that the locked record names, because only this user can write
/// that record. An environment tag can name any process. If a tag counted here, its bearer could
/// choose the process that an operator ends.
pub(crate) fn terminate(
    dir: &RunDir,
    run: RunId,
    patience: Duration,
) -> Result<TerminatedVm, Failure> {
    let host = Host::current()?;
    let record = believed(dir, run)?;
    let refuse = |why: &str| Err(refused(run, why));
    let Some(owner) = OwnerRef::of_record(&record.owner) else {
        return refuse("its record names no owner");
    };
    if owner.state(&host) != OwnerState::Alive {
        return refuse("the owner that its record names does not live");
    }
    if let Some(refusal) = host.refusal(owner.pid) {
        return refuse(&format!("its VM, process {}, is never signalled: {refusal}", owner.pid));
    }
    let identity = Identity { pid: owner.pid, start_ticks: owner.start_ticks, pidfs_inode: None };
    let pidfd = host.open(&identity)?;
    // The pidfd holds the process now. If the record still names it, it is the owner.
    if believed(dir, run)?.owner != record.owner {
        return refuse("its record has changed");
    }
    let began = Instant::now();
    match pidfd.signal(Signal::TERM) {
        Ok(()) => {}
        Err(error) if error.is_gone() => {}
        Err(error) => return Err(error.into()),
    }
    let ended = wait(&pidfd, began, patience);
    let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(TerminatedVm { pid: owner.pid.as_u32(), signal: Signal::TERM.name(), ended, elapsed_ms })
}

/// Returns the record if it names its owner and its lock is held, which says that the owner is at
/// work.
fn believed(dir: &RunDir, run: RunId) -> Result<Record, Failure> {
    let Some(file) = dir.record(run)? else { return Err(refused(run, "it has no record here")) };
    if file.lock != Lock::Held {
        return Err(refused(run, "its record's lock is free"));
    }
    file.record.map_err(|_| refused(run, "its record is not believed"))
}

/// Returns the failure of a run whose VM gets no signal.
fn refused(run: RunId, why: &str) -> Failure {
    Failure::new(Exit::Refused, format!("{run}: {why}; nothing was sent"))
}

/// Returns whether the process ends in time.
fn wait(pidfd: &PidFd, began: Instant, patience: Duration) -> bool {
    loop {
        let left = patience.saturating_sub(began.elapsed());
        let timeout = Timespec::try_from(left).ok();
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], timeout.as_ref()) {
            Err(Errno::INTR) if !left.is_zero() => {}
            _ => return pidfd.is_ended(),
        }
    }
}
