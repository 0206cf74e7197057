//! Signals: mask, dispositions, the descriptor that reads them, and sending them.
#![allow(unsafe_code)]

use leash_tag::signal;
use rustix::fd::{FromRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use syscalls::{Sysno, syscall};

use super::errno;

/// The size of the kernel's signal set.
const SIGSET_BYTES: usize = 8;
const SIG_BLOCK: usize = 0;
const SIG_UNBLOCK: usize = 1;
const SIG_SETMASK: usize = 2;

/// The signals that nohup(1) and a shell's `&` turn off for the programs that they start.
const TURNED_OFF: [u8; 3] = [signal::HUP, signal::INT, signal::QUIT];

/// Returns the bit of a signal in a signal mask.
pub(crate) fn bit(signal: u8) -> u64 {
    1 << (signal - 1)
}

/// Sets this process's signal mask: bit n-1 blocks signal n. SIGKILL and SIGSTOP stay
/// deliverable.
pub(crate) fn set_mask(mask: u64) {
    change_mask(SIG_SETMASK, mask);
}

/// Changes the signal mask (rt_sigprocmask(2)).
fn change_mask(how: usize, mask: u64) {
    // SAFETY: the mask lives across the call and has the size given.
    let _ = unsafe { syscall!(Sysno::rt_sigprocmask, how, &raw const mask, 0, SIGSET_BYTES) };
}

/// Stops this process as Ctrl-Z does, until it gets SIGCONT. In a process group that no shell
/// looks after (an orphaned one) it does nothing, since nothing would send CONT there.
pub(crate) fn stop_for_the_shell() {
    let _ = kill(rustix::process::getpid(), signal::TSTP);
    change_mask(SIG_UNBLOCK, bit(signal::TSTP));
    change_mask(SIG_BLOCK, bit(signal::TSTP));
}

/// Returns whether the signal is HUP, INT or QUIT and is ignored. Then the starter of this
/// program turned it off.
pub(crate) fn is_turned_off(signal: u8) -> bool {
    const SIG_IGN: u64 = 1;
    if !TURNED_OFF.contains(&signal) {
        return false;
    }
    let mut action = [0u64; 4];
    // SAFETY: the struct is as large as the kernel's on x86-64 and aarch64, and nothing is set.
    let result = unsafe {
        syscall!(Sysno::rt_sigaction, usize::from(signal), 0, action.as_mut_ptr(), SIGSET_BYTES)
    };
    result.is_ok() && action[0] == SIG_IGN
}

/// Returns the ignored ones of HUP, INT and QUIT as a signal mask.
pub(crate) fn turned_off() -> u64 {
    TURNED_OFF.into_iter().filter(|&signal| is_turned_off(signal)).map(bit).sum()
}

/// Gives a signal its default disposition.
pub(crate) fn default_disposition(signal: u8) {
    // struct kernel_sigaction: handler, flags, restorer, mask; all zero is SIG_DFL.
    let action = [0u64; 4];
    // SAFETY: no handler is installed, so no code can be run by it; the struct is as large as the
    // kernel's on x86-64 and aarch64. SIGKILL and SIGSTOP give EINVAL.
    let _ = unsafe {
        syscall!(Sysno::rt_sigaction, usize::from(signal), action.as_ptr(), 0, SIGSET_BYTES)
    };
}

/// Returns a descriptor that becomes readable when a signal of `mask` is pending (signalfd(2)).
///
/// # Errors
///
/// `EMFILE`, `ENFILE`, `ENOMEM`.
pub(crate) fn signal_fd(mask: u64) -> Result<OwnedFd, Errno> {
    const SFD_NONBLOCK_CLOEXEC: usize = 0o4000 | 0o2_000_000;
    let (new, mask) = (usize::MAX, &raw const mask);
    // SAFETY: the mask lives across the call and has the size given.
    let fd = unsafe { syscall!(Sysno::signalfd4, new, mask, SIGSET_BYTES, SFD_NONBLOCK_CLOEXEC) }
        .map_err(errno)?;
    // SAFETY: a descriptor that the kernel has just returned and nothing else uses.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(-1)) })
}

/// A signal that was read.
#[derive(Clone, Copy, Default)]
pub(crate) struct Pending {
    /// The signal's number.
    pub(crate) number: u8,
    /// `si_code`: how the signal was sent.
    pub(crate) code: i32,
    /// The sender's pid.
    pub(crate) sender: u32,
}

impl Pending {
    /// Returns whether the kernel sent the signal by itself, as for a key of the terminal.
    pub(crate) fn is_from_kernel(self) -> bool {
        const SI_KERNEL: i32 = 0x80;
        self.code == SI_KERNEL
    }
}

/// The most reads of pending signals in one go. A flood of signals must not keep the shim from
/// the rest.
const READS: usize = 4;

/// The number of signals that one read takes.
const AT_ONCE: usize = 4;

/// Takes pending signals from a descriptor that [`signal_fd`] gave.
pub(crate) fn take(fd: &OwnedFd) -> impl Iterator<Item = Pending> + use<> {
    let (mut taken, mut count) = ([Pending::default(); READS * AT_ONCE], 0);
    let mut buffer = [0u8; 128 * AT_ONCE];
    for _ in 0..READS {
        let Ok(len @ 1..) = rustix::io::read(fd, &mut buffer) else { break };
        for info in buffer.get(..len).unwrap_or_default().chunks_exact(128) {
            // struct signalfd_siginfo: ssi_signo at 0, ssi_code at 8, ssi_pid at 12
            // (signalfd(2)).
            let field = |at: usize| info.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            if let (Some(&number), Some(code), Some(sender), Some(place)) =
                (info.first(), field(8), field(12), taken.get_mut(count))
            {
                let (code, sender) = (i32::from_ne_bytes(code), u32::from_ne_bytes(sender));
                *place = Pending { number, code, sender };
                count += 1;
            }
        }
        if len < buffer.len() {
            break;
        }
    }
    taken.into_iter().take(count)
}

/// Returns a signal as rustix takes it.
pub(crate) fn to_send(number: u8) -> Result<Signal, Errno> {
    if !(1..=signal::MAX).contains(&number) {
        return Err(Errno::INVAL);
    }
    // SAFETY: a signal's number. No libc is here that keeps some of them for itself.
    Ok(unsafe { Signal::from_raw_unchecked(i32::from(number)) })
}

/// Signals one process (kill(2)).
///
/// # Errors
///
/// `ESRCH`, `EPERM`.
pub(crate) fn kill(pid: Pid, signal: u8) -> Result<(), Errno> {
    rustix::process::kill_process(pid, to_send(signal)?)
}

/// Signals the process group whose leader is `leader` (kill(2)).
///
/// # Errors
///
/// `ESRCH`, `EPERM`.
pub(crate) fn kill_group(leader: Pid, signal: u8) -> Result<(), Errno> {
    // Minus one would be every process.
    if leader.is_init() {
        return Err(Errno::PERM);
    }
    rustix::process::kill_process_group(leader, to_send(signal)?)
}
