//! The directory of run records. It must belong to this user alone, else Leash refuses it.

use crate::os::error::{Error, ErrorKind, Result};
use crate::os::reserve::with_reserve;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// An open run directory.
#[derive(Debug)]
pub struct RunDir {
    dir: OwnedFd,
    path: PathBuf,
}

impl RunDir {
    /// Opens the directory. Creates its last component with mode 0700.
    ///
    /// # Errors
    ///
    /// `Symlink`, `NotADirectory`, `ForeignOwner` or `LoosePermissions` if that is what is wrong
    /// with the directory. Any other error is the system call's. The path is the subject of each.
    pub fn open(path: &Path) -> Result<Self> {
        let here = |error: Error| error.about(path.display());
        match rustix::fs::mkdir(path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            // A read-only file system fails before it checks whether the directory is there.
            Err(errno) => {
                if rustix::fs::lstat(path).is_err() {
                    return Err(here(Error::of_file(errno)));
                }
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = with_reserve(|| rustix::fs::open(path, flags, Mode::empty()))
            .map_err(|errno| here(why_not(path, errno)))?;
        // From here on, the checks are on the descriptor, because the name may change hands.
        let stat = rustix::fs::fstat(&dir).map_err(|errno| here(Error::of_file(errno)))?;
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(here(Error::new(ErrorKind::ForeignOwner)));
        }
        if stat.st_mode & 0o077 != 0 {
            return Err(here(Error::new(ErrorKind::LoosePermissions)));
        }
        Ok(Self { dir, path: path.to_owned() })
    }

    /// The path of the directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn why_not(path: &Path, errno: Errno) -> Error {
    match (errno, rustix::fs::lstat(path).map(|stat| FileType::from_raw_mode(stat.st_mode))) {
        (Errno::LOOP | Errno::NOTDIR, Ok(FileType::Symlink)) => Error::new(ErrorKind::Symlink),
        (Errno::NOTDIR, Ok(_)) => Error::new(ErrorKind::NotADirectory),
        _ => Error::of_file(errno),
    }
}

impl AsFd for RunDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}
