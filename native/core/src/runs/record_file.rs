//! Reads records from the run directory, checks their files, and removes them.

use crate::os::error::{Error, Result};
use crate::os::reserve::with_reserve;
use crate::runs::record::{Corrupt, HEAD_LIMIT, Record, RecordedCommand, SIZE_LIMIT};
use crate::runs::run_dir::RunDir;
use leash_tag::RunId;
use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use serde::Serialize;
use std::io::Read as _;
use std::os::fd::OwnedFd;

/// The state of a record's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lock {
    /// No process holds it.
    Free,
    /// A process holds it. A VM does for its whole life. So does a child that a NIF forked and
    /// that never ran exec.
    Held,
    /// The lock could not be tried.
    Unknown,
}

/// A file named as a record.
#[derive(Clone, Debug)]
pub struct RecordFile {
    /// The run that the file name gives.
    pub run: RunId,
    /// The state of its lock.
    pub lock: Lock,
    /// The contents, if they are believed.
    pub record: std::result::Result<Record, Corrupt>,
    inode: (u64, u64),
}

/// The result of one look into the run directory.
#[derive(Clone, Debug, Default)]
pub struct Records {
    /// Files named as records.
    pub files: Vec<RecordFile>,
    /// Whether every one of them could be opened.
    pub complete: bool,
}

impl Records {
    /// Returns every command that a believed record names.
    pub(crate) fn commands(&self) -> Vec<(RunId, RecordedCommand)> {
        let believed = self.files.iter().filter_map(|file| file.record.as_ref().ok());
        believed
            .flat_map(|record| record.commands.iter().map(|it| (record.run, it.clone())))
            .collect()
    }
}

pub(crate) fn file_name(run: RunId) -> String {
    format!("{run}.json")
}

/// The socket on which that run's VM takes an operator's requests (`lib/leash/control.ex`).
#[must_use]
pub fn socket_name(run: RunId) -> String {
    format!("{run}.sock")
}

pub(crate) fn inode(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

impl RunDir {
    /// Reads every record and the state of each lock. Tries the lock with `LOCK_SH|LOCK_NB`, so
    /// that two testers do not see each other.
    #[must_use]
    pub fn records(&self) -> Records {
        self.files(SIZE_LIMIT)
    }

    /// As [`RunDir::records`], but reads the owners alone, without commands and attachments.
    #[must_use]
    pub fn heads(&self) -> Records {
        self.files(HEAD_LIMIT)
    }

    fn files(&self, limit: u64) -> Records {
        let mut records = Records { files: Vec::new(), complete: true };
        let Ok(runs) = self.runs() else { return Records::default() };
        for run in runs {
            match self.read_record(run, limit) {
                Ok(Some(file)) => records.files.push(file),
                Ok(None) => {}
                Err(_) => records.complete = false,
            }
        }
        records
    }

    /// Reads one run's record; `None` if there is no such file.
    ///
    /// # Errors
    ///
    /// Only if nothing can be said of the file at all, for example without descriptors.
    pub fn record(&self, run: RunId) -> Result<Option<RecordFile>> {
        self.read_record(run, SIZE_LIMIT)
    }

    fn read_record(&self, run: RunId, limit: u64) -> Result<Option<RecordFile>> {
        let name = file_name(run);
        let stat = match rustix::fs::statat(self, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(Error::of_file(errno).about(name)),
        };
        let corrupt =
            |why, lock| Ok(Some(RecordFile { run, lock, record: Err(why), inode: inode(&stat) }));
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::Symlink => return corrupt(Corrupt::Symlink, Lock::Unknown),
            _ => return corrupt(Corrupt::NotAFile, Lock::Unknown),
        }
        let file = match self.open_file(&name) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::ACCESS | Errno::LOOP) => {
                return corrupt(Corrupt::Unreadable, Lock::Unknown);
            }
            Err(errno) => return Err(Error::of_file(errno).about(name)),
        };
        let stat =
            rustix::fs::fstat(&file).map_err(|errno| Error::of_file(errno).about(&name))?;
        let lock = try_lock(&file);
        let record = distrust(&stat).map_or_else(|| read(file, run, limit), Err);
        Ok(Some(RecordFile { run, lock, record, inode: inode(&stat) }))
    }

    /// Removes a dead run's record and the socket beside it. Does nothing if the file is no
    /// longer the one that was read.
    pub(crate) fn remove(&self, file: &RecordFile) -> Result<bool> {
        let name = file_name(file.run);
        match rustix::fs::statat(self, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if inode(&stat) == file.inode => {}
            Ok(_) | Err(Errno::NOENT) => return Ok(false),
            Err(errno) => return Err(Error::of_file(errno).about(name)),
        }
        // The socket goes first. While the record is there, a later sweep comes back for both.
        let _ = rustix::fs::unlinkat(self, socket_name(file.run), AtFlags::empty());
        match rustix::fs::unlinkat(self, &name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(Error::of_file(errno).about(name)),
        }
    }

    fn open_file(&self, name: &str) -> std::result::Result<OwnedFd, Errno> {
        // A fifo or device may have taken the name since. Opening it must not block.
        let flags = OFlags::RDONLY
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::NOCTTY
            | OFlags::CLOEXEC;
        with_reserve(|| rustix::fs::openat(self, name, flags, Mode::empty()))
    }

    fn runs(&self) -> std::result::Result<Vec<RunId>, Errno> {
        let mut runs = Vec::new();
        let entries = with_reserve(|| Dir::read_from(self))?;
        for entry in entries {
            let entry = entry?;
            if let Some(run) =
                entry.file_name().to_bytes().strip_suffix(b".json").and_then(RunId::parse)
            {
                runs.push(run);
            }
        }
        Ok(runs)
    }
}

fn distrust(stat: &Stat) -> Option<Corrupt> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        Some(Corrupt::NotAFile)
    } else if stat.st_uid != rustix::process::geteuid().as_raw() {
        Some(Corrupt::ForeignOwner)
    } else if stat.st_mode & 0o022 != 0 {
        Some(Corrupt::LoosePermissions)
    } else {
        None
    }
}

/// Reads the first `limit` bytes. The head names the owner and is believed, whatever follows it.
fn read(file: OwnedFd, run: RunId, limit: u64) -> std::result::Result<Record, Corrupt> {
    let mut text = Vec::new();
    std::fs::File::from(file)
        .take(limit)
        .read_to_end(&mut text)
        .map_err(|_| Corrupt::Unreadable)?;
    Record::parse(&text, run)
}

/// Tries the lock. It belongs to the open file description, which is ours alone, so closing the
/// file releases it.
fn try_lock(file: &OwnedFd) -> Lock {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => match rustix::fs::flock(file, FlockOperation::Unlock) {
            Ok(()) => Lock::Free,
            Err(_) => Lock::Unknown,
        },
        Err(Errno::WOULDBLOCK) => Lock::Held,
        Err(_) => Lock::Unknown,
    }
}
