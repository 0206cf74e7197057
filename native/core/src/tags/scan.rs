//! One pass over the process table.

use crate::os::pid::Pid;
use crate::procfs::host::Host;
use crate::procfs::listing::{LISTING, each_process};
use crate::runs::record::RecordedCommand;
use crate::tags::carrier::Carrier;
use crate::tags::process_reader::{Carriers, ProcessReader, Skipped};
use crate::tags::tagged_process::TaggedProcess;
use leash_tag::{Mark, RunId};
use rustix::io::Errno;
use serde::Serialize;
use std::ops::ControlFlow;

/// The reason why a pass may have missed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Incomplete {
    /// `/proc` is missing or shows another pid namespace.
    NoProc,
    /// `/proc` hides other users' processes (`hidepid`), and one of them may have descended from
    /// ours.
    ///
    /// If a cleanup gives only this reason, it saw every process of this user. It saw the hidden
    /// ones by number.
    Hidepid,
    /// No descriptor was left in the middle of the pass.
    DescriptorsExhausted,
    /// A process or the listing could not be read.
    Unreadable,
    /// The run directory or a record in it could not be read.
    Records,
    /// Processes come and go faster than they are read, and the pass was cut short.
    Fleeting,
    /// Boot id or pid namespace are not known (`subset=pid`). The pass saw every process, but
    /// cannot tell whether a run's owner lives.
    NoIdentity,
}

/// The scope of a pass.
#[derive(Clone, Copy, Debug)]
pub struct ScanOptions<'a> {
    /// Marked processes only, or every carrier.
    pub carriers: Carriers,
    /// Commands that records name.
    pub recorded: &'a [(RunId, RecordedCommand)],
    /// Decides which marks need no further look, such as those of other workers of the own run.
    pub skip: Option<&'a dyn SkipMark>,
}

/// Tells whether a marked process can be passed over unread.
pub trait SkipMark: std::fmt::Debug {
    /// Whether to pass over a process with this mark.
    fn skip(&self, mark: &Mark) -> bool;
}

/// The result of a pass.
#[derive(Debug, Default)]
pub struct Scan {
    /// The tagged processes, without zombies.
    pub tagged: Vec<TaggedProcess>,
    /// The number of processes.
    pub processes: usize,
    /// The number of processes, tagged or not, whose environment could not be read.
    pub unreadable: usize,
    /// Processes that are not this user's, or do not let this user read them, and name no run.
    /// Descendants that have become another user can be among them. Only a pass of all carriers
    /// lists them.
    pub untagged: Vec<Pid>,
    /// The marks of processes that ended while they were looked at. Their tree forks faster than
    /// it is read.
    pub vanished: Vec<Mark>,
    /// The reasons why something may be missing; empty for a complete pass.
    pub incomplete: Vec<Incomplete>,
}

impl Scan {
    /// Whether nothing can be missing.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.incomplete.is_empty()
    }

    /// Notes that something may be missing.
    pub(crate) fn miss(&mut self, reason: Incomplete) {
        if !self.incomplete.contains(&reason) {
            self.incomplete.push(reason);
        }
    }

    /// Notes that something could not be read.
    pub(crate) fn failed(&mut self, host: &Host, errno: Errno) {
        self.miss(match errno {
            Errno::MFILE | Errno::NFILE => Incomplete::DescriptorsExhausted,
            // With hidepid=1, hidden processes are listed.
            Errno::PERM | Errno::ACCESS if host.hides_processes() => Incomplete::Hidepid,
            _ => Incomplete::Unreadable,
        });
    }
}

impl ScanOptions<'_> {
    /// Every carrier, no records.
    pub const ALL: ScanOptions<'static> =
        ScanOptions { carriers: Carriers::All, recorded: &[], skip: None };
    /// Marked processes only.
    pub const MARKED: ScanOptions<'static> =
        ScanOptions { carriers: Carriers::MarkOnly, recorded: &[], skip: None };
}

/// Looks at every process once.
///
/// Passes over a process that ends in the middle. A process that cannot be read makes the pass
/// incomplete.
#[must_use]
pub fn scan(host: &Host, options: &ScanOptions<'_>) -> Scan {
    scan_until(host, options, |_| false)
}

/// As [`scan`], but cut short as soon as `enough` returns `true`.
///
/// `enough` is asked about the mark of each process that vanished or is a zombie (`true`). Now
/// and then it is asked with `None`.
///
/// New processes have higher numbers, and a listing goes upwards. Behind a tree that forks
/// without a pause, a pass would run until the numbers wrap.
pub(crate) fn scan_until(
    host: &Host,
    options: &ScanOptions<'_>,
    mut enough: impl FnMut(Option<(&Mark, bool)>) -> bool,
) -> Scan {
    let mut result = Scan::default();
    if host.hides_processes() {
        result.miss(Incomplete::Hidepid);
    }
    let mut reader = ProcessReader::new(host, options.recorded);
    let listing = each_process(host, LISTING, |pid| {
        result.processes += 1;
        if result.processes % 256 == 0 && enough(None) {
            result.miss(Incomplete::Fleeting);
            return ControlFlow::Break(());
        }
        let mark = match reader.read_mark(pid) {
            Ok(mark) => mark,
            Err(Skipped::Failed(errno)) => {
                result.failed(host, errno);
                return ControlFlow::Continue(());
            }
            Err(_) => return ControlFlow::Continue(()),
        };
        if let (Some(mark), Some(skip)) = (mark.present(), options.skip) {
            if skip.skip(mark) {
                return ControlFlow::Continue(());
            }
        }
        match reader.read_tags(pid, mark, options.carriers) {
            Ok(process) => {
                result.unreadable += usize::from(process.env.is_unreadable());
                result.tagged.push(process);
            }
            Err(why @ (Skipped::Gone | Skipped::Zombie)) => {
                let is_zombie = why == Skipped::Zombie;
                if let Some(mark) = mark.present() {
                    if !is_zombie {
                        result.vanished.push(*mark);
                    }
                    if enough(Some((mark, is_zombie))) {
                        result.miss(Incomplete::Fleeting);
                        return ControlFlow::Break(());
                    }
                }
            }
            Err(Skipped::Untagged) => {
                if options.carriers == Carriers::All
                    && host.proc().directory_uid(pid).is_ok_and(|uid| uid != host.uid())
                {
                    result.untagged.push(pid);
                }
            }
            Err(Skipped::Failed(errno)) => result.failed(host, errno),
        }
        ControlFlow::Continue(())
    });
    if let Err(errno) = listing {
        result.failed(host, errno);
    }
    result
}

/// Counts the processes and the marked ones. This is the floor that a pass is measured against.
///
/// Opens a file only for a process whose limits prlimit(2) does not permit to read.
///
/// # Errors
///
/// The error of listing `/proc`.
pub fn count_marked(host: &Host) -> Result<(usize, usize), crate::os::error::Error> {
    let mut reader = ProcessReader::new(host, &[]);
    let (mut processes, mut marked) = (0, 0);
    each_process(host, LISTING, |pid| {
        processes += 1;
        if let Ok(Carrier::Present(_)) = reader.read_mark(pid) {
            marked += 1;
        }
        ControlFlow::Continue(())
    })
    .map_err(crate::os::error::Error::of_file)?;
    Ok((processes, marked))
}
