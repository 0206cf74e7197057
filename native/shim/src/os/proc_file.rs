//! `/proc`, held open from the start: a worker that mounts something over it later changes
//! nothing for the shim.

use core::cell::OnceCell;
use core::mem::MaybeUninit;
use leash_tag::Limits;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;
use rustix::process::Pid;

use super::mark_limits;
use super::stat::Stat;
use super::text::{Text, number};

/// A path below `/proc`.
pub(crate) type Path = Text<64>;

/// A `/proc` that shows this process under its own number.
///
/// A `/proc` that was mounted in another pid namespace has other numbers, and a signal sent by
/// them would hit unrelated processes. Such a `/proc` counts as none.
pub(crate) struct Proc {
    root: OwnedFd,
    /// The shim's own `children` file; see [`Proc::hold_children`].
    children: OnceCell<OwnedFd>,
}

impl Proc {
    /// Opens `/proc`, if it is one that shows this process as `own`.
    pub(crate) fn open(own: Pid) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(c"/proc", flags, Mode::empty()).ok()?;
        if rustix::fs::fstatfs(&root).ok()?.f_type != rustix::fs::PROC_SUPER_MAGIC {
            return None;
        }
        let mut buffer = [0u8; 16];
        let len = rustix::fs::readlinkat_raw(&root, c"self", &mut buffer[..]).ok()?;
        let shown = number(buffer.get(..len)?)?;
        (own.as_raw_pid() == shown).then_some(Self { root, children: OnceCell::new() })
    }

    /// Opens the shim's own `children` file for life, since it is needed most when descriptors
    /// are short. A worker that leaves nothing behind never needs it, and it costs as much as the
    /// rest of a start.
    pub(crate) fn hold_children(&self) -> Result<BorrowedFd<'_>, Errno> {
        if let Some(file) = self.children.get() {
            return Ok(file.as_fd());
        }
        // The shim has one thread, so the file of that thread lists every child.
        let file = open_below(&self.root, c"thread-self/children")?;
        Ok(self.children.get_or_init(|| file).as_fd())
    }

    /// Opens a file for reading.
    pub(crate) fn open_file(&self, path: &Path) -> Result<OwnedFd, Errno> {
        open_below(&self.root, path.as_bytes())
    }

    /// Reads a file from its beginning, as far as the buffer goes.
    fn read<'b>(&self, path: &Path, buffer: &'b mut [u8]) -> Result<&'b [u8], Errno> {
        let file = self.open_file(path)?;
        let len = rustix::io::read(&file, &mut *buffer)?;
        Ok(buffer.get(..len).unwrap_or_default())
    }

    /// Calls `visit` with each direct child of this process, zombies included.
    pub(crate) fn each_own_child(&self, visit: &mut dyn FnMut(Pid)) -> Result<(), Errno> {
        each_listed(self.hold_children()?, visit)
    }

    /// Calls `visit` with each child of one thread of a process.
    pub(crate) fn each_child_of(
        &self,
        process: Pid,
        thread: i32,
        visit: &mut dyn FnMut(Pid),
    ) -> Result<(), Errno> {
        let path = path(process, b"/task/").number(thread).add(b"/children");
        each_listed(&self.open_file(&path)?, visit)
    }

    /// Calls `visit` with each thread of a process.
    pub(crate) fn each_thread(
        &self,
        process: Pid,
        visit: &mut dyn FnMut(i32),
    ) -> Result<(), Errno> {
        let directory = self.open_file(&path(process, b"/task"))?;
        each_number_in(&directory, &mut [MaybeUninit::uninit(); 512], visit)
    }

    /// Reads `/proc/<pid>/stat`.
    pub(crate) fn stat(&self, pid: Pid) -> Result<Stat, Errno> {
        self.read_stat(path(pid, b"/stat"))
    }

    /// Returns the same for one thread of a process.
    pub(crate) fn stat_of_thread(&self, process: Pid, thread: i32) -> Result<Stat, Errno> {
        self.read_stat(path(process, b"/task/").number(thread).add(b"/stat"))
    }

    /// Reads a `stat` file.
    fn read_stat(&self, file: Path) -> Result<Stat, Errno> {
        Stat::parse(self.read(&file, &mut [0; 512])?).ok_or(Errno::INVAL)
    }

    /// Returns the limits that carry the mark. `prlimit64` refuses for another uid without
    /// CAP_SYS_RESOURCE, and behind some filters. The file is readable for all users.
    pub(crate) fn locks_limits(&self, pid: Pid) -> Result<Limits, Errno> {
        match mark_limits::read(pid) {
            Err(Errno::PERM | Errno::NOSYS) => {}
            other => return other,
        }
        let file = path(pid, b"/limits");
        Limits::parse_file(self.read(&file, &mut [0; 2048])?).ok_or(Errno::INVAL)
    }

    /// Returns whether this `/proc` hides processes of the same user, such as those that are not
    /// dumpable. Such a `/proc` is mounted with `hidepid`. If root can see pid 1, nothing is
    /// hidden.
    ///
    /// If the table of mounts cannot be read, the answer is yes: that costs only a look at every
    /// number.
    pub(crate) fn hides(&self) -> bool {
        if rustix::process::geteuid().is_root() && self.stat(Pid::INIT).is_ok() {
            return false;
        }
        self.open_file(&Path::new().add(b"self/mountinfo"))
            .and_then(|file| names_hidepid(&file))
            .unwrap_or(true)
    }

    /// Calls `visit` with every number that a process of this namespace can have.
    pub(crate) fn each_number(&self, visit: &mut dyn FnMut(Pid)) {
        let last = self
            .read(&Path::new().add(b"sys/kernel/pid_max"), &mut [0; 16])
            .ok()
            .and_then(number)
            .unwrap_or(PID_MAX_LIMIT);
        (2..=last).filter_map(Pid::from_raw).for_each(visit);
    }

    /// Returns whether all user ids of a process are the shim's own. Ask only while a pidfd holds
    /// the process.
    pub(crate) fn is_own(&self, pid: Pid) -> Result<bool, Errno> {
        // The line is the ninth. Before it only the name has no fixed length, and that is 64
        // bytes at most.
        let own = rustix::process::geteuid().as_raw();
        Ok(has_ids(self.read(&path(pid, b"/status"), &mut [0; 512])?, own))
    }

    /// Returns the command line, cut at the end of the buffer. It is empty for a process that is
    /// ending.
    pub(crate) fn read_cmdline<'b>(
        &self,
        pid: Pid,
        buffer: &'b mut [u8],
    ) -> Result<&'b [u8], Errno> {
        self.read(&path(pid, b"/cmdline"), buffer)
    }

    /// Opens the process table for [`each_process`](Self::each_process). It is opened once,
    /// because it is needed when descriptors are short.
    pub(crate) fn table(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(&self.root, c".", flags, Mode::empty())
    }

    /// Calls `visit` with every process in the order of their numbers.
    ///
    /// Some ten are listed at a time. So a process that has ended when it is looked at was there
    /// a moment before.
    pub(crate) fn each_process(table: &OwnedFd, visit: &mut dyn FnMut(Pid)) -> Result<(), Errno> {
        rustix::fs::seek(table, SeekFrom::Start(0))?;
        each_number_in(table, &mut [MaybeUninit::uninit(); 256], &mut |number| {
            Pid::from_raw(number).into_iter().for_each(&mut *visit);
        })
    }
}

/// Calls `visit` with each entry of a directory that is a number. A smaller buffer gives a
/// fresher list.
fn each_number_in(
    directory: &OwnedFd,
    buffer: &mut [MaybeUninit<u8>],
    visit: &mut dyn FnMut(i32),
) -> Result<(), Errno> {
    let mut entries = RawDir::new(directory, buffer);
    while let Some(entry) = entries.next() {
        let entry = match entry {
            Err(Errno::INTR) => continue,
            entry => entry?,
        };
        if let Some(number) = number(entry.file_name().to_bytes()) {
            visit(number);
        }
    }
    Ok(())
}

/// Returns the path of a file of one process.
fn path(pid: Pid, file: &[u8]) -> Path {
    Path::new().number(pid.as_raw_pid()).add(file)
}

/// Opens a file below a directory for reading.
fn open_below(root: &OwnedFd, path: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(root, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// The kernel's own bound of `pid_max` (include/linux/threads.h).
pub(crate) const PID_MAX_LIMIT: i32 = 1 << 22;

/// Returns whether a table of mounts names a level of `hidepid` above the lowest, `0` or `off`.
/// The first character tells them from all others.
fn names_hidepid(file: &OwnedFd) -> Result<bool, Errno> {
    const NAME: &[u8] = b"hidepid=";
    let (mut buffer, mut matched) = ([0u8; 512], 0usize);
    loop {
        let len = match rustix::io::read(file, &mut buffer) {
            Ok(0) => return Ok(false),
            Err(Errno::INTR) => continue,
            other => other?,
        };
        for &byte in buffer.get(..len).unwrap_or_default() {
            matched = match NAME.get(matched) {
                None if !matches!(byte, b'0' | b'o') => return Ok(true),
                Some(&expected) if byte == expected => matched + 1,
                _ => usize::from(byte == b'h'),
            };
        }
    }
}

/// Returns whether the real, effective and saved id of a `status` file are this one. A set-id
/// program has another user's arguments.
pub(crate) fn has_ids(status: &[u8], id: u32) -> bool {
    let line = status.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"Uid:"));
    line.is_some_and(|line| {
        let ids = line.split(|&byte| byte == b'\t').filter(|field| !field.is_empty());
        let mut count = 0;
        let ours = ids.take(3).all(|field| {
            count += 1;
            number(field) == Some(id)
        });
        ours && count == 3
    })
}

/// Reads a `children` file from its beginning, piece by piece. The end of a piece may cut a
/// number.
///
/// The kernel continues by position. So for each child that is reaped during the read, the list
/// skips one.
fn each_listed(file: impl AsFd, visit: &mut dyn FnMut(Pid)) -> Result<(), Errno> {
    let mut buffer = [0u8; 512];
    let mut pid = 0i32;
    let mut offset = 0u64;
    loop {
        let len = match rustix::io::pread(&file, &mut buffer[..], offset) {
            Ok(0) => break,
            Err(Errno::INTR) => continue,
            other => other?,
        };
        offset = offset.saturating_add(len as u64);
        for &byte in buffer.get(..len).unwrap_or_default() {
            if byte.is_ascii_digit() {
                pid = pid.saturating_mul(10).saturating_add(i32::from(byte - b'0'));
            } else if let Some(child) = Pid::from_raw(core::mem::take(&mut pid)) {
                visit(child);
            }
        }
    }
    if let Some(child) = Pid::from_raw(pid) {
        visit(child);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn all_three_ids_count() {
        let status =
            |ids: &str| std::format!("Name:\tx\nUmask:\t0022\nUid:\t{ids}\nGid:\t0\t0\t0\t0\n");
        assert!(has_ids(status("7\t7\t7\t7").as_bytes(), 7));
        for ids in ["7\t7\t8\t7", "7\t0\t7\t7", "0\t7\t7\t7", "7\t7", "", "77\t7\t7\t7"] {
            assert!(!has_ids(status(ids).as_bytes(), 7), "{ids}");
        }
        assert!(!has_ids(b"", 0));
    }

    #[test]
    fn a_mount_that_hides_is_found_wherever_it_stands() {
        let hides = |text: &str| {
            let (reader, writer) = rustix::pipe::pipe().unwrap();
            rustix::io::write(&writer, text.as_bytes()).unwrap();
            drop(writer);
            names_hidepid(&reader).unwrap()
        };
        for before in 480..530 {
            let at = |option: &str| hides(&std::format!("{}{option}", "x".repeat(before)));
            assert!(at("hidepid=invisible\n") && at("hidepid=2"), "{before}");
            assert!(!at("hidepid=0\n") && !at("hidepid=off") && !at("hidepi"), "{before}");
        }
    }

    #[test]
    fn reads_this_process_and_its_children() {
        let proc = Proc::open(rustix::process::getpid());
        // Test threads are not the main thread, so its own children file would be the wrong one.
        let Some(proc) = proc else { return };
        let own = rustix::process::getpid();
        let stat = proc.stat(own).unwrap();
        assert!(stat.lives());
        assert_eq!(Some(stat.ppid), rustix::process::getppid().map(Pid::as_raw_pid));

        let mut child = std::process::Command::new("sleep").arg("20").spawn().unwrap();
        let mut seen = Vec::new();
        for entry in std::fs::read_dir("/proc/self/task").unwrap() {
            let thread = entry.unwrap().file_name().into_string().unwrap().parse().unwrap();
            let _ = proc.each_child_of(own, thread, &mut |pid| seen.push(pid.as_raw_pid()));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(seen.contains(&i32::try_from(child.id()).unwrap()));
    }
}
