//! Where `/proc` is, and bounded reads below it.

use crate::Pid;
use crate::parse::status::Uids;
use crate::pidfd::PidFd;
use crate::reserve::with_reserve;
use leash_tag::Limits;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fmt::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A mounted `/proc`, or a directory that looks like one.
///
/// The directory's descriptor is held, so that reading below it takes one descriptor at a time and
/// a mount over `/proc` changes nothing half way.
#[derive(Debug)]
pub struct ProcRoot {
    dir: OwnedFd,
    path: PathBuf,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Kernel,
    Image,
}

/// Whether somebody has a number, as `pidfd_open` tells it.
#[derive(Debug)]
pub(crate) enum Holder {
    /// ESRCH.
    Nobody,
    /// A process; no descriptor in an image.
    Process(Option<PidFd>),
    /// A thread that leads no process.
    Thread,
    /// A process or a thread, which cannot be held: pidfds are refused here.
    Unheld,
    /// The call failed otherwise: nothing is known.
    Unknown,
}

/// A whole or cut file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Whole,
    Cut,
}

impl ProcRoot {
    /// Opens the kernel's `/proc`.
    ///
    /// # Errors
    ///
    /// Whatever `open` says where nothing is mounted there.
    pub fn open() -> Result<Self, std::io::Error> {
        Ok(Self::open_as(Path::new("/proc"), Kind::Kernel)?)
    }

    /// Opens a directory that looks like `/proc`, for tests: nothing found through it can be signalled.
    ///
    /// Who exists is decided by its entries; the numbers in a file `hidden`, one a line, exist too but show nothing,
    /// as under `hidepid`. Marks come from the `limits` files.
    ///
    /// # Errors
    ///
    /// Whatever `open` says.
    pub fn image(path: &Path) -> Result<Self, std::io::Error> {
        Ok(Self::open_as(path, Kind::Image)?)
    }

    fn open_as(path: &Path, kind: Kind) -> Result<Self, Errno> {
        let dir = with_reserve(|| {
            rustix::fs::open(
                path,
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )
        })?;
        Ok(Self { dir, path: path.to_owned(), kind })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn is_image(&self) -> bool {
        self.kind == Kind::Image
    }

    /// A fresh description of the directory: reading entries moves an offset, which two readers must not share.
    pub(crate) fn listing(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        with_reserve(|| rustix::fs::openat(&self.dir, ".", flags, Mode::empty()))
    }

    /// Reads at most `limit` bytes of a file below the root into `buffer`, which it empties first.
    pub(crate) fn read(
        &self,
        path: &str,
        limit: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<Read, Errno> {
        buffer.clear();
        // NOFOLLOW and NONBLOCK change nothing in the kernel's /proc and keep an image from leading elsewhere.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = with_reserve(|| rustix::fs::openat(&self.dir, path, flags, Mode::empty()))?;
        loop {
            if buffer.len() >= limit {
                return Ok(Read::Cut);
            }
            let want =
                (limit - buffer.len()).min(if buffer.is_empty() { 4096 } else { 32 * 1024 });
            buffer.reserve(want);
            let before = buffer.len();
            match rustix::io::read(&file, rustix::buffer::spare_capacity(buffer)) {
                Ok(0) => return Ok(Read::Whole),
                Ok(_) if buffer.len() > limit => {
                    buffer.truncate(limit);
                    return Ok(Read::Cut);
                }
                Ok(_) => debug_assert!(buffer.len() > before),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Reads `<pid>/<file>`.
    pub(crate) fn read_of(
        &self,
        pid: Pid,
        file: &str,
        limit: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<Read, Errno> {
        self.read(&path_of(pid, file), limit, buffer)
    }

    /// The owner of `<pid>`'s directory: its effective user, or root where it is not dumpable (proc(5)).
    pub(crate) fn directory_uid(&self, pid: Pid) -> Result<u32, Errno> {
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::statat(&self.dir, path_of(pid, "").trim_end_matches('/'), flags)
            .map(|stat| stat.st_uid)
    }

    /// What a namespace link such as `<pid>/ns/time` names.
    pub(crate) fn link(&self, path: &str) -> Result<Vec<u8>, Errno> {
        rustix::fs::readlinkat(&self.dir, path, Vec::new()).map(std::ffi::CString::into_bytes)
    }

    /// The inode behind a namespace link.
    pub(crate) fn namespace(&self, path: &str) -> Result<u64, Errno> {
        let link = self.link(path)?;
        let number =
            link.iter().position(|&byte| byte == b'[').and_then(|open| link.get(open + 1..));
        number
            .and_then(|text| crate::parse::decimal(text.strip_suffix(b"]")?))
            .ok_or(Errno::INVAL)
    }

    pub(crate) fn holder(&self, pid: Pid) -> Holder {
        match self.kind {
            Kind::Kernel => match PidFd::open_raw(pid) {
                Ok(pidfd) => Holder::Process(Some(pidfd)),
                Err(Errno::SRCH) => Holder::Nobody,
                // EINVAL, since Linux 6.15 ENOENT (pidfd_open(2)).
                Err(Errno::INVAL | Errno::NOENT) => Holder::Thread,
                Err(Errno::NOSYS | Errno::PERM) => without_pidfd(pid),
                Err(_) => Holder::Unknown,
            },
            Kind::Image => self.image_holder(pid),
        }
    }

    fn image_holder(&self, pid: Pid) -> Holder {
        if self.directory_uid(pid).is_ok() {
            return Holder::Process(None);
        }
        let mut hidden = Vec::new();
        let listed = self.read("hidden", 1 << 16, &mut hidden).is_ok()
            && hidden.split(|&byte| byte == b'\n').any(|line| Pid::parse(line) == Some(pid));
        if listed { Holder::Process(None) } else { Holder::Nobody }
    }

    /// The limits that carry a mark: one system call, or the file where that is not permitted or not there.
    pub(crate) fn limits(&self, pid: Pid, buffer: &mut Vec<u8>) -> Result<Limits, Errno> {
        if self.kind == Kind::Kernel {
            match crate::sys::file_lock_limits(pid) {
                Err(Errno::PERM | Errno::NOSYS) => {}
                other => return other,
            }
        }
        self.read_of(pid, "limits", 8192, buffer)?;
        // An empty file is what a process that is just ending leaves.
        crate::parse::limits::file_locks(buffer).ok_or(if buffer.is_empty() {
            Errno::SRCH
        } else {
            Errno::INVAL
        })
    }

    /// The user ids, `None` where the file does not say: from a pidfd, in a third of the time that the file takes, or the file where
    /// that knows nothing.
    pub(crate) fn uids(&self, pid: Pid, buffer: &mut Vec<u8>) -> Result<Option<Uids>, Errno> {
        // Not out of the reserve: that is for signals.
        if self.kind == Kind::Kernel
            && let Some(uids) = PidFd::open_unreserved(pid).and_then(|pidfd| pidfd.uids())
        {
            return Ok(Some(uids));
        }
        self.read_of(pid, "status", 8192, buffer)?;
        Ok(crate::parse::status::uids(buffer))
    }
}

impl AsFd for ProcRoot {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// A kernel before 5.3, or a filter: signal 0, which reaches nobody, says whether a number is taken (kill(2)). It does not ask
/// whether `/proc` shows him.
fn without_pidfd(pid: Pid) -> Holder {
    let Some(raw) = pid.raw() else { return Holder::Unknown };
    match rustix::process::test_kill_process(raw) {
        Err(Errno::SRCH) => Holder::Nobody,
        Ok(()) | Err(Errno::PERM) => Holder::Unheld,
        Err(_) => Holder::Unknown,
    }
}

fn path_of(pid: Pid, file: &str) -> String {
    let mut path = String::with_capacity(24);
    // Writing to a String cannot fail.
    let _ = write!(path, "{pid}/{file}");
    path
}
