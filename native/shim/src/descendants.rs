//! Everything below this process: a walk that signals without ever meaning somebody else.
//!
//! A direct child that is not reaped keeps its number, so it can be signalled by it. Any other descendant
//! could end and its number be used again between a look and a signal, so it is held by a pidfd: opened by
//! number, then `stat` read by number must name the parent that we hold, and that parent must not have ended
//! meanwhile. By induction from our own children, what the pidfd holds is a descendant.
//!
//! `children` files are exact only for stopped trees (proc(5)) and processes fork meanwhile: callers walk
//! until `waitid` says that nothing is left.

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::RawDir;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions};

use core::mem::MaybeUninit;

use crate::proc_file::{Path, Stat, number};
use crate::sys;

/// Levels of one walk, three descriptors each; what lies deeper is met when those above it are gone and it
/// has become our child.
const MAX_DEPTH: usize = 40;

/// Children of this process when it was started, by whoever exec'ed it: not ours to end.
pub(crate) struct Inherited {
    pids: [i32; 64],
    len: usize,
}

impl Inherited {
    pub(crate) fn find() -> Self {
        let mut found = Self { pids: [0; 64], len: 0 };
        // Without children files there is no cheap way to know, and such a start is rare enough.
        let _ = each_listed(own_pid(), own_pid(), &mut |pid| {
            if let Some(place) = found.pids.get_mut(found.len) {
                *place = pid.as_raw_pid();
                found.len += 1;
            }
        });
        found
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn contains(&self, pid: Pid) -> bool {
        self.pids.get(..self.len).unwrap_or_default().contains(&pid.as_raw_pid())
    }
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_pid()
}

/// Calls `visit` with each direct child that is ours, zombies included, and says whether the kernel lists
/// children at all.
pub(crate) fn each_child(inherited: &Inherited, visit: &mut dyn FnMut(Pid)) -> bool {
    each_listed(own_pid(), own_pid(), &mut |pid| {
        if !inherited.contains(pid) {
            visit(pid);
        }
    })
    .is_ok()
}

/// The same without `/proc`: `waitid` knows our own children by number, and nobody else's.
pub(crate) fn each_child_by_number(visit: &mut dyn FnMut(Pid)) {
    const PID_MAX_LIMIT: i32 = 4_194_304;
    let options = WaitIdOptions::EXITED
        | WaitIdOptions::NOHANG
        | WaitIdOptions::NOWAIT
        | WaitIdOptions::from_bits_retain(WALL);
    for pid in (2..=PID_MAX_LIMIT).filter_map(Pid::from_raw) {
        if rustix::process::waitid(WaitId::Pid(pid), options).is_ok() {
            visit(pid);
        }
    }
}

/// `__WALL`: children too that do not signal their end with SIGCHLD (wait(2)).
pub(crate) const WALL: u32 = 0x4000_0000;

/// One process met on a walk.
pub(crate) struct Met<'a> {
    pub(crate) pid: Pid,
    pub(crate) stat: Stat,
    fd: Option<BorrowedFd<'a>>,
}

impl Met<'_> {
    pub(crate) fn signal(&self, signal: u8) {
        // Gone meanwhile is fine, and what may not be signalled is found alive at the end.
        let _ = match self.fd {
            Some(fd) => sys::pidfd_signal(fd, signal),
            None => sys::kill(self.pid, signal),
        };
    }
}

/// Visits every descendant, children before their parents.
pub(crate) fn walk(inherited: &Inherited, visit: &mut dyn FnMut(&Met<'_>)) -> bool {
    each_child(inherited, &mut |pid| {
        let fd = rustix::process::pidfd_open(pid, PidfdFlags::empty());
        if let Ok(fd) = &fd {
            below(pid, fd.as_fd(), 1, visit);
        }
        match Stat::read(pid) {
            // Our own unreaped child: the number is its own.
            Ok(stat) if stat.ppid == own_pid() => visit(&Met { pid, stat, fd: None }),
            _ => {}
        }
    })
}

fn below(parent: Pid, parent_fd: BorrowedFd<'_>, depth: usize, visit: &mut dyn FnMut(&Met<'_>)) {
    if depth >= MAX_DEPTH {
        return;
    }
    each_thread(parent, &mut |thread| {
        let _ = each_listed(parent.as_raw_pid(), thread, &mut |pid| {
            let Ok(fd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return };
            let Ok(stat) = Stat::read(pid) else { return };
            if stat.ppid != parent.as_raw_pid() || ended(parent_fd) {
                return;
            }
            below(pid, fd.as_fd(), depth + 1, visit);
            visit(&Met { pid, stat, fd: Some(fd.as_fd()) });
        });
    });
}

fn ended(pidfd: BorrowedFd<'_>) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    !matches!(rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&now)), Ok(0))
}

fn each_thread(process: Pid, visit: &mut dyn FnMut(i32)) {
    let Ok(directory) = Path::new(format_args!("/proc/{}/task", process.as_raw_pid())).open() else {
        return;
    };
    let mut buffer = [MaybeUninit::<u8>::uninit(); 512];
    let mut entries = RawDir::new(&directory, &mut buffer);
    while let Some(Ok(entry)) = entries.next() {
        let name = entry.file_name().to_bytes();
        if let Some(thread) = number(name).and_then(|thread| i32::try_from(thread).ok()) {
            visit(thread);
        }
    }
}

/// Reads one thread's children file piece by piece; a number may be cut by the end of a piece.
fn each_listed(process: i32, thread: i32, visit: &mut dyn FnMut(Pid)) -> Result<(), Errno> {
    let file: OwnedFd = Path::new(format_args!("/proc/{process}/task/{thread}/children")).open()?;
    let mut buffer = [0u8; 256];
    let mut pid = 0i32;
    loop {
        let len = rustix::io::read(&file, &mut buffer)?;
        for &byte in buffer.get(..len).unwrap_or_default() {
            if byte.is_ascii_digit() {
                pid = pid.saturating_mul(10).saturating_add(i32::from(byte - b'0'));
            } else if let Some(child) = Pid::from_raw(core::mem::take(&mut pid)) {
                visit(child);
            }
        }
        if len == 0 {
            break;
        }
    }
    if let Some(child) = Pid::from_raw(pid) {
        visit(child);
    }
    Ok(())
}
