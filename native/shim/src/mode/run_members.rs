//! The processes that carry the mark of a warden's run: which of them are shims, and which have
//! lost theirs.

use leash_tag::argv::ShimArgs;
use leash_tag::{Mark, RunId, WorkerNumber};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::os::pidfd;
use crate::os::proc_file::Proc;
use crate::tree::mark_scan::{MarkScan, Pass, PidSource};

/// The longest path of a program (PATH_MAX), and the two arguments behind it.
const COMMAND_LINE: usize = 4096 + 64;

/// The marks of the run, for a warden that can look for them.
#[derive(Clone, Copy)]
pub(crate) struct RunMembers<'a> {
    /// The run.
    pub(crate) run: RunId,
    /// The `/proc` of this pid namespace.
    pub(crate) proc: &'a Proc,
    /// The listing of `/proc`.
    pub(crate) table: &'a OwnedFd,
}

impl<'a> RunMembers<'a> {
    /// Returns the scan for processes of the run that do not outlive their VM on purpose.
    fn scan(self) -> MarkScan<'a, impl Fn(Mark) -> bool + use<>> {
        let run = self.run;
        MarkScan {
            proc: self.proc,
            table: self.table,
            wanted: move |mark| mark.run() == run && !mark.outlives(),
        }
    }

    /// Returns whether no living marked process is hidden. A warden without its VM exits only
    /// with proof, and the listing is no proof if `/proc` hides processes.
    pub(crate) fn is_every_process_seen(self) -> bool {
        !self.proc.hides() || self.survey(PidSource::AllPids, &[]).pass.living == 0
    }

    /// Looks for the living processes of the run. Each shim gets the signals, since a stopped
    /// shim would keep its tree for ever.
    pub(crate) fn survey(self, from: PidSource, to_shims: &[u8]) -> Survey {
        let mut found = Survey::default();
        let mut unread = false;
        let mut pass = self.scan().pass(from, &mut |pid, mark, fd| {
            let worker = mark.worker();
            // Most processes of a tree have higher numbers than their shim. They need no closer
            // look then.
            if worker.is_some_and(|worker| found.shims.has(worker)) {
                found.others = found.others.saturating_add(1);
                return;
            }
            match self.role_of(pid, fd.as_fd()) {
                Ok(Role::Shim) => {
                    found.shims.add(worker);
                    pidfd::signal_all(fd.as_fd(), to_shims);
                    found.shim = Some(fd);
                }
                Ok(Role::Other) => found.others = found.others.saturating_add(1),
                Err(Errno::SRCH | Errno::NOENT) => {}
                Err(_) => unread = true,
            }
        });
        pass.hole |= unread;
        found.pass = pass;
        found
    }

    /// Signals all processes whose shim is gone.
    pub(crate) fn signal_without_shim(
        self,
        from: PidSource,
        shims: &Shims,
        number: u8,
    ) -> Signalled {
        let mut signalled = Signalled::default();
        self.scan().pass(from, &mut |pid, mark, fd| {
            if shims.cover(mark.worker())
                || !matches!(self.role_of(pid, fd.as_fd()), Ok(Role::Other))
                || pidfd::has_ended(fd.as_fd())
            {
                return;
            }
            match pidfd::signal(fd.as_fd(), number) {
                Ok(()) => {
                    signalled.sent = signalled.sent.saturating_add(1);
                    signalled.one = Some(fd);
                }
                Err(Errno::SRCH) => {}
                Err(_) => signalled.refused = signalled.refused.saturating_add(1),
            }
        });
        signalled
    }

    /// Returns the role of a marked process. Any process can imitate a shim's arguments, so one
    /// counts as a shim only if all its ids are the warden's.
    ///
    /// A process that `/proc` hides is no shim. All shims run one program as one user, so either
    /// all of them are dumpable and shown, or none is.
    #[inline(never)]
    fn role_of(self, pid: Pid, fd: BorrowedFd<'_>) -> Result<Role, Errno> {
        let mut buffer = [0u8; COMMAND_LINE];
        let line = match self.proc.read_cmdline(pid, &mut buffer) {
            Err(Errno::NOENT | Errno::PERM | Errno::ACCESS)
                if is_dumpable() && !pidfd::has_ended(fd) =>
            {
                return Ok(Role::Other);
            }
            other => other?,
        };
        let Some(shim) = ShimArgs::parse(line).filter(|shim| shim.run == self.run) else {
            return Ok(Role::Other);
        };
        let is_own = self.proc.is_own(pid)?;
        // The pidfd is opened first and seen alive last, so the data read by number belongs to
        // its process.
        if pidfd::has_ended(fd) {
            return Err(Errno::SRCH);
        }
        Ok(match shim {
            _ if !is_own => Role::Other,
            // No warden has a mark of the run.
            ShimArgs { warden: true, .. } => Role::Other,
            _ => Role::Shim,
        })
    }
}

/// Returns whether this process is dumpable, and so every shim of the same program.
fn is_dumpable() -> bool {
    matches!(
        rustix::process::dumpable_behavior(),
        Ok(rustix::process::DumpableBehavior::Dumpable)
    )
}

/// The role of a process of the run.
enum Role {
    /// It ends its own tree.
    Shim,
    /// It is of the tree of a shim, which may be gone.
    Other,
}

/// The result of a look.
#[derive(Default)]
pub(crate) struct Survey {
    /// The workers whose shims live.
    pub(crate) shims: Shims,
    /// One of these shims.
    pub(crate) shim: Option<OwnedFd>,
    /// The number of processes that are no shims.
    pub(crate) others: u32,
    /// The pass itself.
    pub(crate) pass: Pass,
}

/// The result of a pass that signals.
#[derive(Default)]
pub(crate) struct Signalled {
    /// The number of processes that got the signal.
    pub(crate) sent: u32,
    /// One of the processes that got the signal.
    pub(crate) one: Option<OwnedFd>,
    /// The number of processes that may not be signalled.
    pub(crate) refused: u32,
}

/// The workers that have a living shim.
pub(crate) struct Shims {
    numbers: [u64; Self::WORDS],
    /// The number of shims, those without a worker number included.
    pub(crate) len: u32,
}

impl Default for Shims {
    fn default() -> Self {
        Self { numbers: [0; Self::WORDS], len: 0 }
    }
}

impl Shims {
    /// The number of words that hold a bit for each worker number.
    const WORDS: usize = (WorkerNumber::MAX as usize + 1).div_ceil(64);

    /// Returns a worker's word, and its bit in that.
    fn place(worker: WorkerNumber) -> (usize, u64) {
        let number = usize::from(worker.get());
        (number / 64, 1 << (number % 64))
    }

    /// Adds a shim. One that was started by hand may have no worker number.
    fn add(&mut self, worker: Option<WorkerNumber>) {
        self.len = self.len.saturating_add(1);
        let Some((word, bit)) = worker.map(Self::place) else { return };
        if let Some(numbers) = self.numbers.get_mut(word) {
            *numbers |= bit;
        }
    }

    /// Returns whether a worker's shim lives.
    fn has(&self, worker: WorkerNumber) -> bool {
        let (word, bit) = Self::place(worker);
        self.numbers.get(word).is_some_and(|numbers| numbers & bit != 0)
    }

    /// Returns whether a process may belong to the tree of a living shim. A process that lost its
    /// number may belong to any.
    fn cover(&self, worker: Option<WorkerNumber>) -> bool {
        worker.map_or(self.len > 0, |worker| self.has(worker))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(number: u16) -> Option<WorkerNumber> {
        Some(WorkerNumber::new(number).unwrap())
    }

    #[test]
    fn a_shim_covers_its_own_tree_and_processes_that_lost_their_number() {
        let mut shims = Shims::default();
        assert!(!shims.cover(None) && !shims.cover(number(64)));
        shims.add(number(64));
        for (worker, covered) in
            [(1, false), (63, false), (64, true), (65, false), (WorkerNumber::MAX, false)]
        {
            assert_eq!(shims.cover(number(worker)), covered, "{worker}");
        }
        assert!(shims.cover(None));
        shims.add(number(WorkerNumber::MAX));
        assert!(shims.cover(number(WorkerNumber::MAX)));
    }

    #[test]
    fn a_shim_without_a_number_covers_no_process_that_has_one() {
        let mut shims = Shims::default();
        shims.add(None);
        assert!(shims.cover(None) && !shims.cover(number(1)));
    }
}
