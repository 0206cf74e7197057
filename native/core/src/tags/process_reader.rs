//! Reads what processes say about themselves, one process at a time.

use crate::os::pid::Pid;
use crate::os::pidfd::PidFd;
use crate::os::syscalls;
use crate::os::user_ids::Uids;
use crate::procfs::host::Host;
use crate::procfs::identity::Identity;
use crate::procfs::parse::cmdline;
use crate::procfs::root::Read;
use crate::runs::record::RecordedCommand;
use crate::tags::carrier::Carrier;
use crate::tags::shim::{ShimDescription, is_named_shim};
use crate::tags::tagged_process::{Recorded, TaggedProcess};
use leash_tag::argv::{self, ShimArgs};
use leash_tag::{Mark, OwnerTag, RunId};
use rustix::io::Errno;

/// The parts of a process that a look reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carriers {
    /// The mark, and of marked processes the rest. One system call for each unmarked process.
    MarkOnly,
    /// Also command line and environment of unmarked processes. Three files each of the same
    /// user, one of another.
    All,
}

// Stands in place of a command that cannot be read.
const HIDDEN: &str = "(hidden by /proc)";

/// Reads processes one at a time with buffers that it keeps.
#[derive(Debug)]
pub(crate) struct ProcessReader<'a> {
    host: &'a Host,
    recorded: &'a [(RunId, RecordedCommand)],
    small: Vec<u8>,
    cmdline: Vec<u8>,
    environ: Vec<u8>,
}

/// The reason why a process is not in the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Skipped {
    /// The process ended while it was looked at.
    Gone,
    /// The process had ended before and waits to be reaped.
    Zombie,
    /// The process says nothing about any run.
    Untagged,
    /// The process could not be read, and the pass has a hole.
    Failed(Errno),
}

impl<'a> ProcessReader<'a> {
    pub(crate) fn new(host: &'a Host, recorded: &'a [(RunId, RecordedCommand)]) -> Self {
        Self { host, recorded, small: Vec::new(), cmdline: Vec::new(), environ: Vec::new() }
    }

    /// Reads the mark alone.
    pub(crate) fn read_mark(&mut self, pid: Pid) -> Result<Carrier<Mark>, Skipped> {
        match self.host.proc().limits(pid, &mut self.small) {
            Ok(limits) => Ok(Mark::decode(limits).map_or(Carrier::Absent, Carrier::Present)),
            Err(errno) => unreadable(errno),
        }
    }

    /// Reads everything of a process whose mark was just read.
    ///
    /// Reads on in an unmarked process only if `carriers` says so. Of another user's, only the
    /// environment counts: below `su`, a descendant becomes another user and loses its mark.
    pub(crate) fn read_tags(
        &mut self,
        pid: Pid,
        mark: Carrier<Mark>,
        carriers: Carriers,
    ) -> Result<TaggedProcess, Skipped> {
        let hidden = mark.present().copied().filter(|_| self.host.hides_processes());
        match (self.read_shown(pid, mark, carriers), hidden) {
            (Err(Skipped::Gone | Skipped::Failed(Errno::PERM | Errno::ACCESS)), Some(mark)) => {
                self.read_hidden(pid, mark)
            }
            (process, _) => process,
        }
    }

    /// Reads a marked process that `/proc` hides, by its number and descriptor.
    ///
    /// Hiding does not concern two calls. `pidfd_open` goes by number. `prlimit` for another
    /// process needs CAP_SYS_RESOURCE, or that its real, effective and saved ids are all the
    /// caller's real ones (prlimit(2)). It does not check `dumpable`, for which the kernel hides
    /// a process of our own.
    ///
    /// So a mark that was read while a descriptor held the process is this process's. Without
    /// CAP_SYS_RESOURCE, the process is this user's.
    ///
    /// Nothing tells when the process began, and nothing needs it. The age only distinguishes
    /// another process with the same run's id from ours. Here the user and the whole mark are the
    /// same. A process without a known parent is kept if an owner of a live run has its number.
    pub(crate) fn read_hidden(&mut self, pid: Pid, mark: Mark) -> Result<TaggedProcess, Skipped> {
        let pidfd = match PidFd::open_raw(pid) {
            Ok(pidfd) => pidfd,
            // A thread has its process's mark, but is no process.
            Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => return Err(Skipped::Gone),
            Err(errno) => return Err(Skipped::Failed(errno)),
        };
        let limits = syscalls::file_lock_limits(pid).map_err(gone_or)?;
        let uids = pidfd.uids().or_else(|| self.host.uids_of_limits());
        let (parent, inode) = (pidfd.parent(), pidfd.inode());
        if pidfd.is_ended() {
            return Err(Skipped::Zombie);
        }
        if Mark::decode(limits) != Some(mark) {
            return Err(Skipped::Gone);
        }
        Ok(TaggedProcess {
            identity: Identity { pid, start_ticks: Identity::UNKNOWN_START, pidfs_inode: inode },
            parent,
            state: '?',
            uids,
            command: HIDDEN.into(),
            mark: Carrier::Present(mark),
            env: Carrier::Unreadable,
            shim: None,
            recorded: None,
            kernel_thread: false,
        })
    }

    fn read_shown(
        &mut self,
        pid: Pid,
        mark: Carrier<Mark>,
        carriers: Carriers,
    ) -> Result<TaggedProcess, Skipped> {
        let marked = mark.present().is_some();
        if !marked {
            if carriers == Carriers::MarkOnly && !mark.is_unreadable() {
                return Err(Skipped::Untagged);
            }
            // Root owns the directory of a process that is not dumpable, whatever its user.
            let uid = self.host.proc().directory_uid(pid).map_err(gone_or)?;
            let is_anothers = uid != self.host.uid() && uid != 0;
            if is_anothers && self.read_env(pid)?.present().is_none() {
                return Err(Skipped::Untagged);
            }
        }
        let line =
            self.host.proc().read_of(pid, "cmdline", cmdline::READ_LIMIT, &mut self.cmdline);
        let whole_line = match line {
            Ok(read) => read == Read::Whole,
            Err(errno) => unreadable::<()>(errno).map(|_| false)?,
        };
        if !marked && self.cmdline.is_empty() && self.is_thread_or_zombie(pid)? {
            return Err(Skipped::Untagged);
        }
        // There may be thousands of marked zombies, so they are sorted out before the rest is
        // read. A zombie has no memory left that could hold a command line. A process with a
        // command line is checked once, at the end.
        if marked && self.cmdline.is_empty() && self.is_zombie(pid)? {
            return Err(Skipped::Zombie);
        }
        let args = ShimArgs::parse(&self.cmdline);
        let recorded = if whole_line { self.recorded_run() } else { None };
        let env = self.read_env(pid)?;
        if !marked && args.is_none() && recorded.is_none() && env.present().is_none() {
            return Err(Skipped::Untagged);
        }
        let stat = self.host.stat(pid, &mut self.small).map_err(gone_or)?;
        if self.host.has_ended(pid, stat.state) {
            return Err(Skipped::Zombie);
        }
        let command = cmdline::shown(&self.cmdline, &stat.comm);
        let shim = args.and_then(|_| ShimDescription::parse(self.host, pid, &self.cmdline));
        let uids = self.read_uids(pid)?;
        Ok(TaggedProcess {
            identity: Identity { pid, start_ticks: stat.start_ticks, pidfs_inode: None },
            parent: stat.parent,
            state: stat.state,
            uids,
            command,
            mark,
            env,
            shim,
            recorded,
            kernel_thread: stat.kernel_thread,
        })
    }

    /// Whether a process is a kernel thread or a zombie. A process without a command line nearly
    /// always is, and a zombie's environment would be read in vain.
    fn is_thread_or_zombie(&mut self, pid: Pid) -> Result<bool, Skipped> {
        let stat = self.host.stat(pid, &mut self.small).map_err(gone_or)?;
        Ok(stat.kernel_thread || self.host.has_ended(pid, stat.state))
    }

    fn is_zombie(&mut self, pid: Pid) -> Result<bool, Skipped> {
        let stat = self.host.stat(pid, &mut self.small).map_err(gone_or)?;
        Ok(self.host.has_ended(pid, stat.state))
    }

    /// Reads what decides about a marked process, and nothing for a report. Used when each moment
    /// lets the process fork again.
    pub(crate) fn read_without_cmdline(
        &mut self,
        pid: Pid,
        mark: Carrier<Mark>,
    ) -> Result<TaggedProcess, Skipped> {
        let stat = self.host.stat(pid, &mut self.small).map_err(gone_or)?;
        if self.host.has_ended(pid, stat.state) {
            return Err(Skipped::Zombie);
        }
        if is_named_shim(&stat.comm) {
            return self.read_tags(pid, mark, Carriers::MarkOnly);
        }
        let env = self.read_env(pid)?;
        let uid = self.host.proc().directory_uid(pid).map_err(gone_or)?;
        // The directory shows the effective user, or root if the process is not dumpable. A
        // set-id program of ours is ours by its real id, which only the file tells.
        let ours = uid == self.host.uid() && uid != 0;
        let uids = if ours {
            Some(Uids { real: uid, effective: uid, saved: uid })
        } else {
            self.read_uids(pid)?
        };
        Ok(TaggedProcess {
            identity: Identity { pid, start_ticks: stat.start_ticks, pidfs_inode: None },
            parent: stat.parent,
            state: stat.state,
            uids,
            command: cmdline::shown(b"", &stat.comm),
            mark,
            env,
            shim: None,
            recorded: None,
            kernel_thread: stat.kernel_thread,
        })
    }

    /// Reads one process anew, for the moment before a signal. Hold its pidfd before calling.
    pub(crate) fn read_all(&mut self, pid: Pid) -> Result<TaggedProcess, Skipped> {
        let mark = self.read_mark(pid)?;
        self.read_tags(pid, mark, Carriers::All)
    }

    /// Reads a process that need not be tagged at all, with what its environment says.
    pub(crate) fn read_untagged_env(&mut self, pid: Pid) -> Result<TaggedProcess, Skipped> {
        let env = self.read_env(pid)?;
        Ok(TaggedProcess { env, ..self.read_untagged(pid)? })
    }

    /// Reads a process that need not be tagged at all.
    pub(crate) fn read_untagged(&mut self, pid: Pid) -> Result<TaggedProcess, Skipped> {
        let _ = self.host.proc().read_of(pid, "cmdline", cmdline::READ_LIMIT, &mut self.cmdline);
        let stat = self.host.stat(pid, &mut self.small).map_err(gone_or)?;
        if self.host.has_ended(pid, stat.state) {
            return Err(Skipped::Zombie);
        }
        Ok(TaggedProcess {
            identity: Identity { pid, start_ticks: stat.start_ticks, pidfs_inode: None },
            parent: stat.parent,
            state: stat.state,
            command: cmdline::shown(&self.cmdline, &stat.comm),
            uids: self.read_uids(pid)?,
            mark: Carrier::Absent,
            env: Carrier::Absent,
            shim: None,
            recorded: None,
            kernel_thread: stat.kernel_thread,
        })
    }

    /// Reads identity and mark alone, with two system calls and a file.
    ///
    /// That is enough for a process that was judged by its mark and is being killed, because each
    /// moment lets it fork again.
    pub(crate) fn read_mark_and_start(
        &mut self,
        pid: Pid,
    ) -> Result<(Identity, Carrier<Mark>), Skipped> {
        let mark = self.read_mark(pid)?;
        let hidden = mark.present().copied().filter(|_| self.host.hides_processes());
        let stat = match (self.host.stat(pid, &mut self.small).map_err(gone_or), hidden) {
            (Ok(stat), _) => stat,
            (Err(Skipped::Gone | Skipped::Failed(Errno::PERM | Errno::ACCESS)), Some(found)) => {
                return self.read_hidden(pid, found).map(|process| (process.identity, mark));
            }
            (Err(skipped), _) => return Err(skipped),
        };
        if self.host.has_ended(pid, stat.state) {
            return Err(Skipped::Zombie);
        }
        Ok((Identity { pid, start_ticks: stat.start_ticks, pidfs_inode: None }, mark))
    }

    fn read_uids(&mut self, pid: Pid) -> Result<Option<Uids>, Skipped> {
        self.host
            .proc()
            .uids(pid, &mut self.small)
            .or_else(|errno| unreadable::<()>(errno).map(|_| None))
    }

    fn recorded_run(&self) -> Option<Recorded> {
        let mut matching = self.recorded.iter().filter(|(run, recorded)| {
            cmdline::equals(&self.cmdline, &recorded.command)
                && argv::flag_value(argv::args(&self.cmdline).skip(1), recorded.flag.as_bytes())
                    == Some(*run)
        });
        // Several records may match. The youngest line speaks for the youngest process.
        let (run, recorded) = matching.next_back()?;
        Some(Recorded { run: *run, worker: recorded.worker, at_ticks: recorded.at_ticks })
    }

    /// Reads the environment tag. An exec at work shows an empty block for a moment.
    fn read_env(&mut self, pid: Pid) -> Result<Carrier<OwnerTag>, Skipped> {
        for _ in 0..3 {
            match self.host.proc().read_of(pid, "environ", cmdline::READ_LIMIT, &mut self.environ)
            {
                Ok(read) if !self.environ.is_empty() => {
                    return Ok(Carrier::of_environ(&self.environ, read == Read::Cut));
                }
                Ok(_) => match self.host.stat(pid, &mut self.small) {
                    // The process has a place for an environment and nothing in it: `env -i`.
                    Ok(stat) if stat.env_start != 0 => return Ok(Carrier::Absent),
                    Ok(_) => {}
                    Err(errno) => return Err(gone_or(errno)),
                },
                // A leader that ended before its threads gives this error too. A later check
                // tells whether the process is gone altogether.
                Err(Errno::SRCH | Errno::NOENT) => return Ok(Carrier::Unreadable),
                Err(errno) => return unreadable(errno),
            }
        }
        Ok(Carrier::Unreadable)
    }
}

fn gone_or(errno: Errno) -> Skipped {
    match errno {
        Errno::SRCH | Errno::NOENT => Skipped::Gone,
        other => Skipped::Failed(other),
    }
}

/// Maps EACCES and EPERM to the third value beside tagged and untagged. Any other error is a hole
/// in the pass.
fn unreadable<T>(errno: Errno) -> Result<Carrier<T>, Skipped> {
    match errno {
        Errno::ACCESS | Errno::PERM => Ok(Carrier::Unreadable),
        other => Err(gone_or(other)),
    }
}
