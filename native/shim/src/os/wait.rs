//! The children of this process, as waitid(2) knows them.
//!
//! rustix's waitid does not say which child it found.
#![allow(unsafe_code)]

use rustix::io::Errno;
use rustix::process::Pid;
use syscalls::{Sysno, syscall};

use super::errno;
use super::exit_status::ExitStatus;
use super::proc_file::PID_MAX_LIMIT;

/// The answer of waitid(2), without waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// A child has ended.
    Ended(Pid, ExitStatus),
    /// The children in question live.
    NotYet,
    /// There is no such child: the kernel's proof.
    NoChild,
}

// linux/wait.h
const P_ALL: usize = 0;
const P_PID: usize = 1;
const WNOHANG: usize = 1;
const WSTOPPED: usize = 2;
const WEXITED: usize = 4;
const WCONTINUED: usize = 8;
const WNOWAIT: usize = 0x0100_0000;
/// Includes children that do not tell their end by SIGCHLD.
const WALL: usize = 0x4000_0000;

/// Calls waitid(2) without waiting.
fn waitid(kind: usize, number: i32, options: usize) -> Result<Waited, Errno> {
    // struct siginfo on 64-bit Linux: si_code at 8, si_pid at 16, si_status at 24, and 128 bytes
    // in all.
    let mut info = [0i32; 32];
    let options = WNOHANG | options;
    loop {
        // SAFETY: the array is as large and aligned as struct siginfo and lives across the call.
        match unsafe { syscall!(Sysno::waitid, kind, number, info.as_mut_ptr(), options, 0) } {
            Err(syscalls::Errno::EINTR) => {}
            Err(syscalls::Errno::ECHILD) => return Ok(Waited::NoChild),
            Err(refused) => return Err(errno(refused)),
            Ok(_) => break,
        }
    }
    let [_, _, code, _, pid, _, status, ..] = info;
    Ok(match Pid::from_raw(pid) {
        Some(pid) => Waited::Ended(pid, ExitStatus::from_siginfo(code, status)),
        None => Waited::NotYet,
    })
}

/// Asks for any child. A refused call counts as an answer that there is none.
fn wait_any(options: usize) -> Waited {
    waitid(P_ALL, 0, WALL | options).unwrap_or(Waited::NoChild)
}

/// Asks for one child, in the same way.
fn wait_one(pid: Pid, options: usize) -> Waited {
    waitid(P_PID, pid.as_raw_pid(), options).unwrap_or(Waited::NoChild)
}

/// Returns whether there are children. It is called before there is a worker.
///
/// # Errors
///
/// The error of waitid(2) if it is refused, for example by a filter of system calls. Then the end
/// of a worker could not be noticed.
pub(crate) fn has_children() -> Result<bool, Errno> {
    waitid(P_ALL, 0, WALL | WEXITED | WNOWAIT).map(|waited| waited != Waited::NoChild)
}

/// Looks for any child that has ended, without reaping it.
pub(crate) fn peek_any() -> Waited {
    wait_any(WEXITED | WNOWAIT)
}

/// Returns whether no child lives. There may be some that have ended and are not reaped.
///
/// waitid(2) is asked for a change of state here, and not for an end. If all children have ended,
/// the kernel answers that there is none, as those change no more (`wait_consider_child` in
/// kernel/exit.c). A process counts as living if its first thread has ended before the others.
pub(crate) fn none_lives() -> bool {
    wait_any(WSTOPPED | WCONTINUED | WNOWAIT) == Waited::NoChild
}

/// Looks at one child without reaping it.
pub(crate) fn peek(pid: Pid) -> Waited {
    wait_one(pid, WALL | WEXITED | WNOWAIT)
}

/// Returns whether the process is a child that tells its end by SIGCHLD, as after an exec.
pub(crate) fn tells_by_sigchld(pid: Pid) -> bool {
    wait_one(pid, WEXITED | WNOWAIT) != Waited::NoChild
}

/// Returns whether one child has stopped and is still stopped. Each stop is told once.
pub(crate) fn has_stopped(pid: Pid) -> bool {
    matches!(wait_one(pid, WALL | WSTOPPED), Waited::Ended(..))
}

/// Reaps one child if it has ended. Returns whether it did.
pub(crate) fn reap(pid: Pid) -> bool {
    matches!(wait_one(pid, WALL | WEXITED), Waited::Ended(..))
}

/// Visits the children of this process without `/proc`. `waitid` knows them by number, and no
/// other processes. It takes about half a second.
pub(crate) fn each_child_by_number(visit: &mut dyn FnMut(Pid)) {
    for pid in (2..=PID_MAX_LIMIT).filter_map(Pid::from_raw) {
        if peek(pid) != Waited::NoChild {
            visit(pid);
        }
    }
}
