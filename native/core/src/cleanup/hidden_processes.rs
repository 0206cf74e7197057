//! Finds the processes of a run that `/proc` hides.
//!
//! `hidepid` hides a process of this very user if the process is not dumpable. Such a process
//! asked for that, or its program may not be read. The kernel still tells its mark by number.
//!
//! Control groups list every process, where their root can be seen. Elsewhere every number is
//! tried. With millions of numbers that takes a second or two, so it is done last, when a pass
//! over the listing found nothing more.

use crate::cleanup::engine::Engine;
use crate::cleanup::spec::CleanupKind;
use crate::os::pid::Pid;
use crate::os::syscalls;
use crate::procfs::cgroup_members::every_process;
use crate::procfs::host::Host;
use crate::tags::carrier::Carrier;
use crate::tags::process_reader::{Carriers, ProcessReader, Skipped};
use crate::tags::scan::{Incomplete, Scan, SkipMark};
use leash_tag::Mark;
use rustix::io::Errno;
use std::collections::HashSet;
use std::time::Instant;

// This many numbers are tried between two looks at the clock, which takes about a millisecond.
const AT_ONCE: usize = 4096;

impl Engine {
    /// Looks for processes that `/proc` hides, at the end of a pass that found nothing more to
    /// end.
    ///
    /// Returns whether it added a process. If it does not try although it matters, it marks the
    /// pass as cut short.
    pub(crate) fn add_hidden(&mut self, result: &mut Scan, found: usize) -> bool {
        if !self.host.hides_processes() || !self.may_matter() {
            return false;
        }
        if found > 0 {
            result.miss(Incomplete::Fleeting);
            return false;
        }
        let before = result.tagged.len();
        add_hidden(&self.host, self.spec.kind.skip(), result, || Instant::now() >= self.deadline);
        result.tagged.len() > before
    }

    /// Whether a hidden process could be one to end, or a reason to keep a record.
    fn may_matter(&mut self) -> bool {
        match self.spec.kind {
            CleanupKind::Worker(_) => true,
            CleanupKind::Process(_) => false,
            CleanupKind::Run { run, .. } => {
                self.report.refused.is_none() && self.judgements.is_over(run)
            }
            CleanupKind::Sweep { .. } => {
                let runs = self.judgements.policy.runs();
                runs.into_iter().any(|run| self.judgements.is_over(run))
            }
        }
    }
}

/// Tries every number that a process can have, and adds the marked processes that a pass over the
/// listing did not show.
///
/// Removes [`Incomplete::Hidepid`] in two cases: the kernel told the mark of every number, or the
/// other numbers are proven to be others'.
///
/// [`Incomplete::Hidepid`] stays if another user's process may have descended from ours, because
/// only `/proc` tells that mark. Even then, the pass saw every process of this user.
fn add_hidden(
    host: &Host,
    skip: Option<&dyn SkipMark>,
    result: &mut Scan,
    mut is_late: impl FnMut() -> bool,
) {
    if host.proc().is_image() {
        return;
    }
    // A filter that forbids the call forbids it for free numbers, too.
    if syscalls::file_lock_limits(host.me().pid).is_err() {
        return result.miss(Incomplete::Unreadable);
    }
    let known: HashSet<Pid> = result.tagged.iter().map(|process| process.identity.pid).collect();
    let mut reader = ProcessReader::new(host, &[]);
    let mut is_denied = false;
    let numbers: Box<dyn Iterator<Item = Pid>> = match every_process() {
        Some(pids) => Box::new(pids.into_iter().filter(|pid| pid.as_u32() > 1)),
        None => Box::new((2..=host.pid_max()).filter_map(Pid::from_u32)),
    };
    for (tried, pid) in numbers.enumerate() {
        if tried % AT_ONCE == 0 && is_late() {
            return result.miss(Incomplete::Fleeting);
        }
        let mark = match syscalls::file_lock_limits(pid) {
            Ok(limits) => match Mark::decode(limits) {
                Some(mark) => mark,
                None => continue,
            },
            Err(Errno::SRCH) => continue,
            Err(Errno::PERM) => {
                is_denied = true;
                continue;
            }
            Err(errno) => {
                result.failed(host, errno);
                return result.miss(Incomplete::Unreadable);
            }
        };
        if known.contains(&pid) || skip.is_some_and(|skip| skip.skip(&mark)) {
            continue;
        }
        // `/proc` may show a process that began after the listing. A thread is no match.
        let looked = reader.read_hidden(pid, mark).and_then(|hidden| {
            match reader.read_tags(pid, Carrier::Present(mark), Carriers::MarkOnly) {
                Err(Skipped::Untagged) => Ok(hidden),
                process => process,
            }
        });
        match looked {
            Ok(process) => {
                result.unreadable += usize::from(process.env.is_unreadable());
                result.tagged.push(process);
            }
            Err(Skipped::Gone | Skipped::Zombie | Skipped::Untagged) => {}
            Err(Skipped::Failed(errno)) => {
                result.failed(host, errno);
                result.miss(Incomplete::Unreadable);
            }
        }
    }
    // If our ids never change, a process with other ids did not descend from us.
    if !is_denied || host.keeps_ids() {
        result.incomplete.retain(|why| *why != Incomplete::Hidepid);
    }
}
