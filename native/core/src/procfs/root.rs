//! The place of `/proc`, and bounded reads below it.

use crate::os::pid::Pid;
use crate::os::pidfd::PidFd;
use crate::os::reserve::with_reserve;
use crate::os::syscalls;
use crate::os::user_ids::Uids;
use crate::procfs::parse::status;
use leash_tag::{Limits, parse_number};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fmt::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A mounted `/proc`, or a directory that looks like one.
///
/// The root holds the directory's descriptor. So reading below it takes one descriptor at a time,
/// and a mount over `/proc` changes nothing half way.
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

/// The status of a number, as `pidfd_open` tells it.
#[derive(Debug)]
pub(crate) enum PidStatus {
    /// No process or thread has the number: ESRCH.
    Free,
    /// A process; without a descriptor in an image.
    Process(Option<PidFd>),
    /// A thread that leads no process.
    Thread,
    /// A process or a thread that cannot be held, because pidfds are refused here.
    Unheld,
    /// Nothing is known, because the call failed in another way.
    Unknown,
}

/// Whether a read took the whole file or cut it.
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
    /// The error of `open` if nothing is mounted there.
    pub fn open() -> Result<Self, std::io::Error> {
        Ok(Self::open_as(Path::new("/proc"), Kind::Kernel)?)
    }

    /// Opens a directory that looks like `/proc`, for tests. Nothing found through it can be
    /// signalled.
    ///
    /// Its entries decide which processes exist. A file `hidden` may list more numbers, one a
    /// line, that exist but show nothing, as under `hidepid`. Marks come from the `limits` files.
    ///
    /// # Errors
    ///
    /// The error of `open`.
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

    /// The path of the root.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn is_image(&self) -> bool {
        self.kind == Kind::Image
    }

    /// Opens a fresh description of the directory. Reading entries moves an offset, which two
    /// readers must not share.
    pub(crate) fn listing(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        with_reserve(|| rustix::fs::openat(&self.dir, ".", flags, Mode::empty()))
    }

    /// Empties `buffer`, then reads at most `limit` bytes of a file below the root into it.
    pub(crate) fn read(
        &self,
        path: &str,
        limit: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<Read, Errno> {
        buffer.clear();
        // NONBLOCK changes nothing in the kernel's /proc, and keeps an open in an image from
        // blocking.
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

    /// The owner of `<pid>`'s directory: its effective user, or root if the process is not
    /// dumpable (proc(5)).
    pub(crate) fn directory_uid(&self, pid: Pid) -> Result<u32, Errno> {
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::statat(&self.dir, path_of(pid, "").trim_end_matches('/'), flags)
            .map(|stat| stat.st_uid)
    }

    /// The target of a namespace link such as `<pid>/ns/time`.
    pub(crate) fn link(&self, path: &str) -> Result<Vec<u8>, Errno> {
        rustix::fs::readlinkat(&self.dir, path, Vec::new()).map(std::ffi::CString::into_bytes)
    }

    /// The inode behind a namespace link.
    pub(crate) fn namespace(&self, path: &str) -> Result<u64, Errno> {
        let link = self.link(path)?;
        let number =
            link.iter().position(|&byte| byte == b'[').and_then(|open| link.get(open + 1..));
        number.and_then(|text| parse_number(text.strip_suffix(b"]")?)).ok_or(Errno::INVAL)
    }

    pub(crate) fn pid_status(&self, pid: Pid) -> PidStatus {
        match self.kind {
            Kind::Kernel => match PidFd::open_raw(pid) {
                Ok(pidfd) => PidStatus::Process(Some(pidfd)),
                Err(Errno::SRCH) => PidStatus::Free,
                // EINVAL, since Linux 6.15 ENOENT (pidfd_open(2)).
                Err(Errno::INVAL | Errno::NOENT) => PidStatus::Thread,
                Err(Errno::NOSYS | Errno::PERM) => without_pidfd(pid),
                Err(_) => PidStatus::Unknown,
            },
            Kind::Image => self.image_pid_status(pid),
        }
    }

    fn image_pid_status(&self, pid: Pid) -> PidStatus {
        if self.directory_uid(pid).is_ok() {
            return PidStatus::Process(None);
        }
        let mut hidden = Vec::new();
        let listed = self.read("hidden", 1 << 16, &mut hidden).is_ok()
            && hidden.split(|&byte| byte == b'\n').any(|line| Pid::parse(line) == Some(pid));
        if listed { PidStatus::Process(None) } else { PidStatus::Free }
    }

    /// Reads the limits that carry a mark. Makes one system call, or reads the file if that call
    /// is not permitted or not there.
    pub(crate) fn limits(&self, pid: Pid, buffer: &mut Vec<u8>) -> Result<Limits, Errno> {
        if self.kind == Kind::Kernel {
            match syscalls::file_lock_limits(pid) {
                Err(Errno::PERM | Errno::NOSYS) => {}
                other => return other,
            }
        }
        self.read_of(pid, "limits", 8192, buffer)?;
        // A process that is just ending leaves an empty file.
        Limits::parse_file(buffer).ok_or(if buffer.is_empty() {
            Errno::SRCH
        } else {
            Errno::INVAL
        })
    }

    /// The user ids; `None` if the file does not say.
    ///
    /// They come from a pidfd, which takes a third of the time that the file takes. If the pidfd
    /// does not tell them, they come from the file.
    pub(crate) fn uids(&self, pid: Pid, buffer: &mut Vec<u8>) -> Result<Option<Uids>, Errno> {
        // The reserve is for signals, so this descriptor must not come from it.
        if self.kind == Kind::Kernel {
            if let Some(uids) = PidFd::open_unreserved(pid).and_then(|pidfd| pidfd.uids()) {
                return Ok(Some(uids));
            }
        }
        self.read_of(pid, "status", 8192, buffer)?;
        Ok(status::uids(buffer))
    }
}

impl AsFd for ProcRoot {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// Returns the status of a number on a kernel before 5.3, or under a filter that refuses pidfds.
///
/// Signal 0, which has no effect on a process, tells whether a number is taken (kill(2)). It does
/// so even if `/proc` does not show the process.
fn without_pidfd(pid: Pid) -> PidStatus {
    let Some(raw) = pid.raw() else { return PidStatus::Unknown };
    match rustix::process::test_kill_process(raw) {
        Err(Errno::SRCH) => PidStatus::Free,
        Ok(()) | Err(Errno::PERM) => PidStatus::Unheld,
        Err(_) => PidStatus::Unknown,
    }
}

fn path_of(pid: Pid, file: &str) -> String {
    let mut path = String::with_capacity(24);
    // Writing to a String cannot fail.
    let _ = write!(path, "{pid}/{file}");
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn file_and_system_call_tell_the_same_limits() {
        let text = std::fs::read("/proc/self/limits").unwrap();
        let told = syscalls::file_lock_limits(Pid::current()).unwrap();
        assert_eq!(Limits::parse_file(&text), Some(told));
    }

    proptest! {
        #[test]
        fn each_pair_of_limits_in_a_file_is_read_back(soft: u64, hard: u64) {
            let text = format!("Max file locks            {soft:<20} {hard:<20} locks\n");
            prop_assert_eq!(Limits::parse_file(text.as_bytes()), Some(Limits { soft, hard }));
        }
    }
}
