//! A live run's lock on its record.

use crate::os::error::{Error, ErrorKind, Result};
use crate::os::reserve::with_reserve;
use crate::procfs::clock::BootClock;
use crate::procfs::host::Host;
use crate::runs::mark_loss::MarkLoss;
use crate::runs::record::{
    About, Owner, Record, RecordedAttachment, RecordedCommand, RecordedName,
};
use crate::runs::record_file::{file_name, inode, socket_name};
use crate::runs::run_dir::RunDir;
use leash_tag::RunId;
use rand::TryRng as _;
use rand::rngs::SysRng;
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The number of bytes that lines of freed numbers may always take in a record. They may also
/// take as many bytes as the lines of living numbers.
const DEAD_LIMIT: usize = 8 << 10;

/// Generates a new run id from the operating system's random source.
///
/// # Errors
///
/// The failure of that source.
pub fn generate_run_id() -> Result<RunId> {
    // Above the largest multiple of COUNT, the low ids would come more often than the others.
    const FAIR: u64 = u64::MAX - u64::MAX % RunId::COUNT;
    loop {
        let number = SysRng
            .try_next_u64()
            .map_err(|_| Error::new(ErrorKind::Io).about("random source"))?;
        if number < FAIR {
            if let Some(run) = RunId::from_number(number % RunId::COUNT) {
                return Ok(run);
            }
        }
    }
}

impl Owner {
    /// The calling process as an owner.
    ///
    /// # Errors
    ///
    /// `NoProc` if boot id or pid namespace cannot be read.
    pub fn current(host: &Host) -> Result<Self> {
        let no_proc = || Error::new(ErrorKind::NoProc);
        Ok(Self {
            pid: host.me().pid.as_u32(),
            start_ticks: host.me().start_ticks,
            boot_id: host.boot_id().ok_or_else(no_proc)?.to_owned(),
            pid_ns: host.pid_ns().ok_or_else(no_proc)?,
        })
    }
}

/// A record under its name, and the exclusive lock on it.
///
/// The lock is as old as the name, so no process ever sees the record of a starting run unlocked.
/// Dropping this value releases the lock. The record stays until [`RunLock::drop_record`].
#[derive(Debug)]
pub struct RunLock {
    run: RunId,
    path: PathBuf,
    head: Vec<u8>,
    clock: BootClock,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    // `None` once the record was dropped.
    file: Option<File>,
    // The lines after the head, each with its worker, oldest first. If the record is lost, they
    // are written again.
    lines: Vec<(Option<u16>, Vec<u8>)>,
    // The bytes of all these lines, and the bytes written, with lines of freed numbers included.
    living: usize,
    written: usize,
}

impl Held {
    fn new(file: File) -> Self {
        Self { file: Some(file), lines: Vec::new(), living: 0, written: 0 }
    }

    fn add(&mut self, worker: Option<u16>, line: &[u8]) {
        self.lines.push((worker, line.to_vec()));
        self.living += line.len();
        self.written += line.len();
    }

    fn forget(&mut self, workers: &[u16]) {
        let lives = |worker: &Option<u16>| worker.is_none_or(|worker| !workers.contains(&worker));
        self.lines.retain(|(worker, _)| lives(worker));
        self.living = self.lines.iter().map(|(_, line)| line.len()).sum();
    }

    fn is_mostly_dead(&self) -> bool {
        self.written - self.living > DEAD_LIMIT.max(self.living)
    }
}

impl RunLock {
    /// Creates and locks the record of a run.
    ///
    /// # Errors
    ///
    /// `Exists` if that run has a record. Take another id then.
    pub fn create(dir: &RunDir, host: &Host, run: RunId, about: &About) -> Result<Self> {
        let head =
            Record::head_line(run, &Owner::current(host)?, about, &MarkLoss::current(host));
        let file = publish(dir, run, &head, Name::New).map_err(|errno| at(dir, run, errno))?;
        Ok(Self {
            run,
            path: dir.path().to_owned(),
            head,
            clock: host.clock(),
            held: Mutex::new(Held::new(file)),
        })
    }

    /// As [`RunLock::create`] with a generated id. If the id exists already, takes another one.
    ///
    /// # Errors
    ///
    /// As [`RunLock::create`].
    pub fn create_any(dir: &RunDir, host: &Host, about: &About) -> Result<Self> {
        let mut tries = 0;
        loop {
            match Self::create(dir, host, generate_run_id()?, about) {
                Err(error) if error.is_exists() && tries < 16 => tries += 1,
                other => return other,
            }
        }
    }

    /// The run.
    #[must_use]
    pub fn run(&self) -> RunId {
        self.run
    }

    /// Records a command that carries the run's id in its arguments. Call it before *each* start
    /// of the command, because the time of the line bounds which processes it can mean.
    ///
    /// # Errors
    ///
    /// The system call's error. The line is then lost, which can cost a cleanup and nothing else.
    pub fn append_command(
        &self,
        worker: Option<u16>,
        flag: &str,
        command: &[Vec<u8>],
    ) -> Result<()> {
        let command = RecordedCommand {
            worker,
            flag: flag.to_owned(),
            command: command.to_vec(),
            at_ticks: Some(self.clock.machine_now()),
        };
        self.append(worker, &command.line())
    }

    /// Records a process that Leash did not start. Call it before the process is attached.
    /// Afterwards the process counts as ours, although it may be older than this owner.
    ///
    /// # Errors
    ///
    /// As [`RunLock::append_command`].
    pub fn append_attachment(&self, attachment: &RecordedAttachment) -> Result<()> {
        self.append(Some(attachment.worker), &attachment.line())
    }

    /// Records a worker whose mark is off. Call it before the worker starts. Only the environment
    /// may tell this worker's processes.
    ///
    /// # Errors
    ///
    /// As [`RunLock::append_command`].
    pub fn append_unmarked(&self, worker: u16) -> Result<()> {
        self.append(Some(worker), &Record::unmarked_line(worker))
    }

    /// Records the directory in which the control groups of workers are. Call it before the first
    /// of them is made.
    ///
    /// # Errors
    ///
    /// As [`RunLock::append_command`].
    pub fn append_groups(&self, directory: &str) -> Result<()> {
        self.append(None, &Record::groups_line(directory))
    }

    /// Records the name and the group of a worker, for those that look from outside.
    ///
    /// # Errors
    ///
    /// The system call's error. What looks then sees the worker's number alone.
    pub fn append_name(&self, named: &RecordedName) -> Result<()> {
        self.append(Some(named.worker), &named.line())
    }

    /// Forgets the lines of these workers, whose numbers are free.
    ///
    /// Once such lines are most of the record, the record is written anew without them. So it
    /// holds what lives, and each start pays for a constant number of bytes.
    ///
    /// # Errors
    ///
    /// As [`RunLock::ensure`]. The lines then stay until a later call.
    pub fn forget(&self, workers: &[u16]) -> Result<()> {
        let mut held = self.held();
        if held.lines.is_empty() {
            return Ok(());
        }
        held.forget(workers);
        if held.file.is_some() && held.is_mostly_dead() {
            self.publish(&RunDir::open(&self.path)?, &mut held, Name::Replace)?;
        }
        Ok(())
    }

    fn publish(&self, dir: &RunDir, held: &mut Held, name: Name) -> Result<()> {
        let lines = held.lines.iter().map(|(_, line)| line.as_slice());
        let text =
            std::iter::once(self.head.as_slice()).chain(lines).collect::<Vec<_>>().concat();
        // The old lock is released only when the new one is in place.
        held.file = Some(publish(dir, self.run, &text, name).map_err(|errno| self.error(errno))?);
        held.written = held.living;
        Ok(())
    }

    fn append(&self, worker: Option<u16>, line: &[u8]) -> Result<()> {
        let mut held = self.held();
        held.add(worker, line);
        let Some(file) = &mut held.file else { return Err(self.error(Errno::BADF)) };
        // This is one write in append mode. A reader sees the line whole or, if it is cut at the
        // end, not at all.
        file.write_all(line).map_err(|error| self.error(errno_of(&error)))
    }

    /// Puts the record back if it was deleted, cut, overwritten, or replaced by a copy that no
    /// process locks.
    ///
    /// Returns whether anything had to be done. Replaces only what stands under this very name.
    ///
    /// # Errors
    ///
    /// As [`RunDir::open`], and the system calls' errors.
    pub fn ensure(&self) -> Result<bool> {
        let mut held = self.held();
        let Some(file) = &held.file else { return Ok(false) };
        let dir = RunDir::open(&self.path)?;
        let ours = rustix::fs::fstat(file).map_err(|errno| self.error(errno))?;
        // If the file is shorter than what was written, it was cut, or a full disk took a line
        // only in part. Of a file overwritten in place, the head counts, because it names the
        // owner.
        let written = self.head.len().saturating_add(held.written);
        let mut head = vec![0; self.head.len()];
        let whole = usize::try_from(ours.st_size).is_ok_and(|size| size >= written)
            && file.read_exact_at(&mut head, 0).is_ok()
            && head == self.head;
        let name = match rustix::fs::statat(&dir, file_name(self.run), AtFlags::SYMLINK_NOFOLLOW)
        {
            Ok(there) if inode(&there) == inode(&ours) && whole => return Ok(false),
            Ok(_) => Name::Replace,
            Err(Errno::NOENT) => Name::New,
            Err(errno) => return Err(self.error(errno)),
        };
        // An inode whose last name is gone cannot get a new one (linkat(2): ENOENT). So the new
        // record is a new file.
        self.publish(&dir, &mut held, name)?;
        Ok(true)
    }

    /// Removes the record, if it is still ours, and releases the lock. Idempotent.
    ///
    /// # Errors
    ///
    /// The system calls' errors. The lock is released all the same.
    pub fn drop_record(&self) -> Result<()> {
        let Some(file) = self.held().file.take() else { return Ok(()) };
        let ours = rustix::fs::fstat(&file).map_err(|errno| self.error(errno))?;
        let path = self.path.join(file_name(self.run));
        match rustix::fs::lstat(&path) {
            Ok(there) if inode(&there) == inode(&ours) => {
                // The listener on the socket removes it, unless the listener was killed.
                let _ = rustix::fs::unlink(self.path.join(socket_name(self.run)));
                match rustix::fs::unlink(&path) {
                    Ok(()) | Err(Errno::NOENT) => Ok(()),
                    Err(errno) => Err(self.error(errno)),
                }
            }
            // Another file has the name, or no file.
            _ => Ok(()),
        }
    }

    /// Releases the lock and leaves the record, as the death of the VM would. Idempotent.
    pub fn release(&self) {
        self.held().file = None;
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, errno: Errno) -> Error {
        Error::of_file(errno).about(self.path.join(file_name(self.run)).display())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    New,
    Replace,
}

/// Writes a locked file, then gives it its name.
fn publish(
    dir: &RunDir,
    run: RunId,
    text: &[u8],
    name: Name,
) -> std::result::Result<File, Errno> {
    let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let nameless =
        || with_reserve(|| rustix::fs::openat(dir, ".", flags | OFlags::TMPFILE, mode));
    if name == Name::New {
        if let Ok(file) = nameless() {
            fill(&file, text)?;
            // The documented way for a caller without CAP_DAC_READ_SEARCH (open(2), O_TMPFILE).
            let from = format!("/proc/self/fd/{}", file.as_raw_fd());
            match rustix::fs::linkat(CWD, from, dir, file_name(run), AtFlags::SYMLINK_FOLLOW) {
                Ok(()) => return Ok(durable(dir, file)),
                Err(Errno::EXIST) => return Err(Errno::EXIST),
                // There is no /proc, or the file system cannot do this. The temporary name
                // remains.
                Err(_) => {}
            }
        }
    }
    let number = SysRng.try_next_u64().map_err(|_| Errno::IO)?;
    let temporary = format!(".{run}.{number:016x}.tmp");
    let create = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
    let file = with_reserve(|| rustix::fs::openat(dir, &temporary, create, mode))?;
    let named = fill(&file, text).and_then(|()| match name {
        Name::New => rustix::fs::linkat(dir, &temporary, dir, file_name(run), AtFlags::empty()),
        // Renaming our locked file over the impostor leaves no moment without a record. The lock
        // goes with the file.
        Name::Replace => rustix::fs::renameat(dir, &temporary, dir, file_name(run)),
    });
    if name == Name::New || named.is_err() {
        let _ = rustix::fs::unlinkat(dir, &temporary, AtFlags::empty());
    }
    named.map(|()| durable(dir, file))
}

fn fill(file: &OwnedFd, text: &[u8]) -> std::result::Result<(), Errno> {
    // The umask can only take permissions away, and the owner's own must be there.
    rustix::fs::fchmod(file, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive)?;
    let mut rest = text;
    while !rest.is_empty() {
        match rustix::io::write(file, rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    rustix::fs::fsync(file)
}

/// Syncs the directory. If that fails, a power failure can cost the record, but it leaves no
/// process either.
fn durable(dir: &RunDir, file: OwnedFd) -> File {
    let _ = rustix::fs::fsync(dir.as_fd());
    File::from(file)
}

fn at(dir: &RunDir, run: RunId, errno: Errno) -> Error {
    Error::of_file(errno).about(dir.path().join(file_name(run)).display())
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
