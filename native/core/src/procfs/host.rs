//! Identity and place of this process: the basis of every judgement.

use crate::os::error::{Error, ErrorKind, Result};
use crate::os::pid::Pid;
use crate::os::pidfd::PidFd;
use crate::os::user_ids::Uids;
use crate::procfs::clock::BootClock;
use crate::procfs::identity::Identity;
use crate::procfs::parse::stat::Stat;
use crate::procfs::parse::{mounts, status};
use crate::procfs::root::ProcRoot;
use crate::procfs::text::words;
use leash_tag::{BootTag, parse_number};
use rustix::io::Errno;
use std::path::Path;
use std::sync::OnceLock;

const DEPTH: usize = 256;

/// This process, its ancestors, its boot and its namespaces.
///
/// Most callers ask about one process. So what only a judgement of runs needs is read on the
/// first request.
#[derive(Debug)]
pub struct Host {
    proc: ProcRoot,
    me: Identity,
    parent: Option<Pid>,
    clock: BootClock,
    uid: u32,
    ancestors: OnceLock<Vec<Pid>>,
    boot_id: OnceLock<Option<String>>,
    pid_ns: OnceLock<Option<u64>>,
    hides: OnceLock<bool>,
}

impl Host {
    /// Reads the host anew.
    ///
    /// # Errors
    ///
    /// `NoProc` if `/proc` is not mounted or shows another pid namespace. Its numbers then are
    /// not ours to judge.
    pub fn current() -> Result<Self> {
        let proc = ProcRoot::open().map_err(|_| Error::new(ErrorKind::NoProc).about("/proc"))?;
        Self::of(proc, Pid::current(), rustix::process::geteuid().as_raw())
    }

    /// Returns a host described by a directory that looks like `/proc`, for tests. `me` must have
    /// a `stat` there.
    ///
    /// # Errors
    ///
    /// `NoProc` if the directory or that file is missing.
    pub fn image(path: &Path, me: Pid, uid: u32) -> Result<Self> {
        let proc = ProcRoot::image(path)
            .map_err(|_| Error::new(ErrorKind::NoProc).about(path.display()))?;
        Self::of(proc, me, uid)
    }

    fn of(proc: ProcRoot, me: Pid, uid: u32) -> Result<Self> {
        let no_proc = || Error::new(ErrorKind::NoProc).about(proc.path().display());
        // In another namespace's /proc, our number is another process. Its `self` does not lead
        // to our number.
        if proc.link("self").ok().as_deref().and_then(Pid::parse) != Some(me) {
            return Err(no_proc());
        }
        let mut text = Vec::new();
        let _ = proc.read("self/timens_offsets", 4096, &mut text);
        let clock = BootClock::new(&text, rustix::param::clock_ticks_per_second());
        let stat = read_stat(&proc, me, &mut text).ok_or_else(no_proc)?;
        let inode =
            if proc.is_image() { None } else { PidFd::open(me).ok().and_then(|fd| fd.inode()) };
        let identity = Identity {
            pid: me,
            start_ticks: clock.to_machine(stat.start_ticks),
            pidfs_inode: inode,
        };
        Ok(Self {
            proc,
            me: identity,
            parent: stat.parent,
            clock,
            uid,
            ancestors: OnceLock::new(),
            boot_id: OnceLock::new(),
            pid_ns: OnceLock::new(),
            hides: OnceLock::new(),
        })
    }

    /// The root of `/proc`.
    #[must_use]
    pub fn proc(&self) -> &ProcRoot {
        &self.proc
    }

    /// This process.
    #[must_use]
    pub fn me(&self) -> Identity {
        self.me
    }

    /// The parent, grandparent and so on, as far as this namespace shows them.
    #[must_use]
    pub fn ancestors(&self) -> &[Pid] {
        self.ancestors.get_or_init(|| self.read_ancestors())
    }

    /// `/proc/sys/kernel/random/boot_id`.
    #[must_use]
    pub fn boot_id(&self) -> Option<&str> {
        let read = || {
            let mut text = Vec::new();
            self.proc.read("sys/kernel/random/boot_id", 64, &mut text).ok()?;
            String::from_utf8(text.trim_ascii().to_vec())
                .ok()
                .filter(|id| BootTag::of_boot_id(id.as_bytes()).is_some())
        };
        self.boot_id.get_or_init(read).as_deref()
    }

    /// The first eight digits of the boot id.
    #[must_use]
    pub fn boot(&self) -> Option<BootTag> {
        self.boot_id().and_then(|id| BootTag::of_boot_id(id.as_bytes()))
    }

    /// The inode of this process's pid namespace.
    #[must_use]
    pub fn pid_ns(&self) -> Option<u64> {
        *self.pid_ns.get_or_init(|| self.proc.namespace("self/ns/pid").ok())
    }

    /// The shift of start times read here against the machine's.
    #[must_use]
    pub fn clock(&self) -> BootClock {
        self.clock
    }

    /// The clock by which a process counts; `None` if that is not known.
    pub(crate) fn clock_of(&self, pid: Pid) -> Option<BootClock> {
        let theirs = self.proc.link(&format!("{pid}/ns/time"));
        match (theirs, self.proc.link("self/ns/time")) {
            (Ok(theirs), Ok(ours)) if theirs == ours => Some(self.clock),
            (Ok(theirs), Ok(_)) => {
                // `timens_offsets` is of the namespace that the *children* of a process enter
                // (time_namespaces(7)). So it counts only if that namespace is the process's own.
                // A misread owner would be taken for dead, so no shift is ever guessed.
                let children = self.proc.link(&format!("{pid}/ns/time_for_children"));
                let mut text = Vec::new();
                let read = self.proc.read_of(pid, "timens_offsets", 4096, &mut text);
                (children == Ok(theirs) && read.is_ok())
                    .then(|| BootClock::parse(&text, self.clock.ticks(1)))
                    .flatten()
            }
            // Before Linux 5.6, all processes had one clock.
            (Err(Errno::NOENT), Err(Errno::NOENT)) => Some(self.clock),
            _ => None,
        }
    }

    /// The effective user id.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Whether `/proc` hides other users' processes from us.
    #[must_use]
    pub fn hides_processes(&self) -> bool {
        *self.hides.get_or_init(|| hides_processes(&self.proc, self.uid))
    }

    /// The number that this namespace gave out last (proc_loadavg(5)).
    pub(crate) fn last_pid(&self) -> Option<u32> {
        let mut text = Vec::new();
        self.proc.read("loadavg", 256, &mut text).ok()?;
        parse_number(words(&text).nth(4)?)
    }

    /// The highest number that a process can have. If `/proc` does not tell it, the kernel's own
    /// bound (PID_MAX_LIMIT).
    pub(crate) fn pid_max(&self) -> u32 {
        let mut text = Vec::new();
        let told = self.proc.read("sys/kernel/pid_max", 32, &mut text).ok();
        told.and_then(|_| parse_number(text.trim_ascii())).unwrap_or(1 << 22)
    }

    /// The user ids of a process whose limits prlimit(2) tells. Without CAP_SYS_RESOURCE they are
    /// ours.
    ///
    /// With that capability, prlimit(2) tells the limits of every process, so the result is
    /// `None`. (The user that made a user namespace has the capability in there. All processes in
    /// there are its own, too.)
    pub(crate) fn uids_of_limits(&self) -> Option<Uids> {
        let mut text = Vec::new();
        self.proc.read("self/status", 8192, &mut text).ok()?;
        let ours = status::uids(&text)?.real;
        let is_bound = status::has_sys_resource(&text, b"CapEff:") == Some(false);
        is_bound.then_some(Uids { real: ours, effective: ours, saved: ours })
    }

    /// Whether this process and every process that it ever starts keep their user and group.
    pub(crate) fn keeps_ids(&self) -> bool {
        let mut text = Vec::new();
        self.proc.read("self/status", 8192, &mut text).is_ok() && status::keeps_ids(&text)
    }

    /// Reads a process's stat file and converts its start to the machine's clock.
    pub(crate) fn stat(
        &self,
        pid: Pid,
        buffer: &mut Vec<u8>,
    ) -> std::result::Result<Stat, rustix::io::Errno> {
        self.proc.read_of(pid, "stat", 8192, buffer)?;
        let mut stat = Stat::parse(buffer).ok_or(rustix::io::Errno::INVAL)?;
        stat.start_ticks = self.clock.to_machine(stat.start_ticks);
        Ok(stat)
    }

    fn read_ancestors(&self) -> Vec<Pid> {
        let mut found = Vec::new();
        let mut buffer = Vec::new();
        let mut next = self.parent;
        while let Some(pid) = next {
            if found.len() >= DEPTH || found.contains(&pid) {
                break;
            }
            found.push(pid);
            next = self.parent_of(pid, &mut buffer);
        }
        found
    }

    /// The parent of a process, as far as this namespace shows it. If `/proc` hides the process,
    /// its descriptor tells the parent.
    pub(crate) fn parent_of(&self, pid: Pid, buffer: &mut Vec<u8>) -> Option<Pid> {
        match read_stat(&self.proc, pid, buffer) {
            Some(stat) => stat.parent,
            None if self.proc.is_image() => None,
            None => PidFd::open(pid).ok()?.parent(),
        }
    }
}

fn read_stat(proc: &ProcRoot, pid: Pid, buffer: &mut Vec<u8>) -> Option<Stat> {
    proc.read_of(pid, "stat", 8192, buffer).ok()?;
    Stat::parse(buffer)
}

fn hides_processes(proc: &ProcRoot, uid: u32) -> bool {
    let mut text = Vec::new();
    let mount_point = proc.path().as_os_str().as_encoded_bytes();
    let mounted_so = proc.read("self/mountinfo", 1 << 20, &mut text).is_ok()
        && mounts::hides_processes(&text, mount_point) == Some(true);
    // `/proc` shows every process to a root with ptrace rights. Pid 1 shows whether that is so.
    let init_is_shown = || read_stat(proc, init(), &mut Vec::new()).is_some();
    mounted_so && !(uid == 0 && init_is_shown())
}

fn init() -> Pid {
    Pid::new(1).unwrap_or_else(Pid::current)
}
