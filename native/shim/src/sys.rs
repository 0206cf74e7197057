//! The system calls for which no safe wrapper exists, and raw access to argv and environ.
//!
//! # Safety
//!
//! The process is single-threaded and has no signal handlers, so nothing here can be entered
//! twice. Every pointer passed to the kernel is to a local that lives across the call.
#![allow(unsafe_code)]

use core::ffi::{CStr, c_char};
use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use rustix::process::Pid;
use syscalls::{Sysno, syscall};

use crate::blocks::{Block, MAX_ARGUMENTS};
use crate::report::Ended;
use leash_tag::Limits;

/// Signal numbers used by name (signal(7), generic Linux).
pub mod signal {
    #![allow(missing_docs)]
    pub const HUP: u8 = 1;
    pub const INT: u8 = 2;
    pub const QUIT: u8 = 3;
    pub const KILL: u8 = 9;
    pub const PIPE: u8 = 13;
    pub const TERM: u8 = 15;
    pub const CHLD: u8 = 17;
    pub const CONT: u8 = 18;
    pub const STOP: u8 = 19;
    pub const TSTP: u8 = 20;
    pub const URG: u8 = 23;
    pub const MAX: u8 = 64;
}

const SIGSET_BYTES: usize = 8;
const SFD_NONBLOCK_CLOEXEC: usize = 0o4000 | 0o2_000_000;
const SIG_SETMASK: usize = 2;
const CLOCK_MONOTONIC: usize = 1;

fn errno(error: syscalls::Errno) -> Errno {
    Errno::from_raw_os_error(error.into_raw())
}

/// The argument vector and environment of this process.
#[derive(Clone, Copy, Debug)]
pub struct Vectors {
    argc: usize,
    argv: *const *const c_char,
    envp: *const *const c_char,
}

impl Vectors {
    /// Takes over the vectors that the kernel put on the stack.
    ///
    /// # Safety
    ///
    /// `argv` has `argc` valid strings and `envp` is null-terminated; both live for ever.
    #[must_use]
    pub unsafe fn new(
        argc: usize,
        argv: *const *const c_char,
        envp: *const *const c_char,
    ) -> Self {
        Self { argc, argv, envp }
    }

    /// Returns the arguments, program name included.
    pub fn args(self) -> impl Iterator<Item = &'static CStr> {
        // SAFETY: in bounds, valid and never freed, by the contract of `new`.
        (0..self.argc).map(move |index| unsafe { CStr::from_ptr(*self.argv.add(index)) })
    }

    /// Overwrites the arguments from an index on with NULs, in `/proc/<pid>/cmdline` too.
    ///
    /// No reference to one of them may be used any more, and no child may be in this memory.
    pub fn wipe(self, first: usize) {
        for index in first..self.argc {
            // SAFETY: below argc; the strings lie in this process's stack segment, writable, and
            // end in NUL.
            unsafe {
                let arg = *self.argv.add(index);
                arg.cast_mut().write_bytes(0, CStr::from_ptr(arg).count_bytes());
            }
        }
    }

    /// Returns the value of an environment variable.
    #[must_use]
    pub fn env(self, name: &[u8]) -> Option<&'static [u8]> {
        let mut at = self.envp;
        loop {
            // SAFETY: `envp` is null-terminated and the loop stops at the null.
            let entry = unsafe { *at };
            if entry.is_null() {
                return None;
            }
            // SAFETY: a valid string that is never freed, by the contract of `new`.
            let entry = unsafe { CStr::from_ptr(entry) }.to_bytes();
            if let Some(value) = entry.strip_prefix(name).and_then(|rest| rest.strip_prefix(b"="))
            {
                return Some(value);
            }
            // SAFETY: not past the null yet.
            at = unsafe { at.add(1) };
        }
    }

    /// Replaces this process by `path`, with the arguments from `first` on. Returns only on
    /// failure.
    ///
    /// `arg0` stands in for the first of them.
    #[must_use]
    pub fn exec(self, path: &CStr, first: usize, arg0: Option<&CStr>) -> Errno {
        // SAFETY: `first < argc`, and the vector is null-terminated behind argc (execve(2)), so
        // the tail is a valid argument vector.
        let argv = unsafe { self.argv.add(first) };
        if let Some(name) = arg0 {
            // SAFETY: the vector lies on this process's own stack segment, writable; one thread.
            unsafe { *argv.cast_mut() = name.as_ptr() };
        }
        // SAFETY: all three are valid, null-terminated and live across the call.
        match unsafe { syscall!(Sysno::execve, path.as_ptr(), argv, self.envp) } {
            Ok(_) => Errno::NOEXEC,
            Err(error) => errno(error),
        }
    }

    /// Replaces this process by `path`, with the arguments of one block. Returns only on failure.
    #[must_use]
    pub fn exec_block(self, path: &CStr, block: Block) -> Errno {
        // The vector goes on behind the block, so a copy is needed that ends in a null.
        let mut argv = [core::ptr::null::<c_char>(); MAX_ARGUMENTS + 1];
        let indices = block.first..self.argc.min(block.first.saturating_add(block.count));
        for (place, index) in argv.iter_mut().take(MAX_ARGUMENTS).zip(indices) {
            // SAFETY: below argc.
            *place = unsafe { *self.argv.add(index) };
        }
        // SAFETY: all three are valid, null-terminated and live across the call.
        match unsafe { syscall!(Sysno::execve, path.as_ptr(), argv.as_ptr(), self.envp) } {
            Ok(_) => Errno::NOEXEC,
            Err(error) => errno(error),
        }
    }
}

/// Memory for the child's stack, given back on drop. It is a mapping of its own. A place in the
/// shim's stack would depend on the depth of calls and on the limit on stacks.
#[derive(Debug)]
pub struct ChildStack(*mut core::ffi::c_void);

impl ChildStack {
    /// Twice what a look-up in PATH takes, with all around it. Untouched memory costs nothing.
    const LEN: usize = 3 * 4096;

    /// Bytes below the stack that have no access, enough for any page size. A child that needs
    /// more stack gets SIGSEGV.
    const GUARD: usize = 65536;

    /// Maps the memory.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new() -> Result<Self, Errno> {
        let all = Self::GUARD + Self::LEN;
        // SAFETY: the kernel chooses an address that nothing else has.
        let start = unsafe {
            mmap_anonymous(
                core::ptr::null_mut(),
                all,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::STACK,
            )
        }?;
        let stack = Self(start);
        // SAFETY: inside the mapping, which nothing uses yet.
        unsafe {
            mprotect(
                start.wrapping_byte_add(Self::GUARD),
                Self::LEN,
                MprotectFlags::READ | MprotectFlags::WRITE,
            )
        }?;
        Ok(stack)
    }

    /// Puts the child's work at the upper end, below which the stack begins.
    fn hold<F: FnOnce() -> u8>(&self, work: F) -> *mut F {
        const SPACE: usize = 1024;
        const { assert!(size_of::<F>() <= SPACE && align_of::<F>() <= 16) };
        let top = self.0.wrapping_byte_add(Self::GUARD + Self::LEN);
        let place = top.wrapping_byte_sub(SPACE).cast::<F>();
        // SAFETY: large and aligned enough by the assertion, mapped, and in use by no child.
        unsafe { place.write(work) };
        place
    }
}

impl Drop for ChildStack {
    fn drop(&mut self) {
        // SAFETY: the whole mapping and nothing else; the child has other memory by now, or never
        // was.
        let _ = unsafe { munmap(self.0, Self::GUARD + Self::LEN) };
    }
}

/// A child that has been started.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    /// Present as long as the child may use it.
    stack: Option<ChildStack>,
}

impl Child {
    /// Returns the child's pid, which no other process gets until the child is reaped.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Returns whether the child reached its exec, living or not. Ask only while it is not
    /// reaped. If it did, its stack is given back.
    ///
    /// Exec makes SIGCHLD the signal that tells a process's end (`de_thread` in fs/exec.c),
    /// before it closes a descriptor. Without `__WALL`, waitid(2) sees only children that tell it
    /// by SIGCHLD.
    #[must_use]
    pub fn executed(&mut self) -> bool {
        let executed = waitid(P_PID, self.pid.as_raw_pid(), WEXITED | WNOWAIT) != Waited::NoChild;
        if executed {
            self.stack = None;
        }
        executed
    }
}

/// The memory that a child works in until it executes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// A copy.
    Own,
    /// The shim's memory, of which nothing is copied. The child writes nothing there but its
    /// stack.
    Shared,
}

/// Starts a child that does `work`, on a stack of its own, with copies of all descriptors
/// (clone(2)). The result of `work` is its exit status.
///
/// In shared memory the child runs while this process goes on. So `work` lies on the child's
/// stack and borrows nothing of this process.
///
/// SIGURG tells the child's end until [`Child::executed`]: a difference that lasts and can be
/// asked for.
///
/// # Errors
///
/// `EAGAIN` at a limit on processes, `ENOMEM`.
pub fn start_child<F: FnOnce() -> u8 + 'static>(memory: Memory, work: F) -> Result<Child, Errno> {
    let stack = ChildStack::new()?;
    let place = stack.hold(work);
    let shared = if memory == Memory::Shared { CLONE_VM } else { 0 };
    // An emulated kernel may know a plain fork only (qemu-user does). Then a child that is killed
    // before its exec counts as started.
    for flags in [usize::from(signal::URG) | shared, usize::from(signal::CHLD)] {
        // SAFETY: the child begins at `begin` with `work` above its stack and never comes back.
        // The process is single-threaded, without libc, thread-local storage or writable statics.
        // So there is no state that a second process in the same memory could disturb.
        // Descriptors and signal dispositions are copies. If there was no child, `work` is as it
        // was written.
        let result =
            unsafe { clone(flags, place.cast(), begin::<F>, place, core::ptr::null_mut()) };
        match i32::try_from(result).map_err(|_| Errno::CHILD)? {
            pid @ 1.. => {
                return Ok(Child {
                    pid: Pid::from_raw(pid).ok_or(Errno::CHILD)?,
                    stack: Some(stack),
                });
            }
            error if Errno::INVAL.raw_os_error() == -error => {}
            error => return Err(Errno::from_raw_os_error(-error)),
        }
    }
    Err(Errno::INVAL)
}

const CLONE_VM: usize = 0x100;
const CLONE_PIDFD: usize = 0x1000;
const CLONE_VFORK: usize = 0x4000;

unsafe extern "C" fn begin<F: FnOnce() -> u8>(work: *mut F) -> ! {
    // SAFETY: written by `ChildStack::hold`, read here once.
    let work = unsafe { work.read() };
    exit(work())
}

/// Starts a child that does `work` on that stack. This process waits, as after vfork(2), until
/// the child executes something or ends. Returns its pid, and its pidfd if clone(2) gives one
/// (Linux 5.2).
///
/// # Errors
///
/// `EAGAIN` at a limit on processes, `ENOMEM`.
pub fn start_program<F: FnOnce() -> u8>(
    stack: &ChildStack,
    work: F,
) -> Result<(Pid, Option<OwnedFd>), Errno> {
    let place = stack.hold(work);
    let told = usize::from(signal::CHLD);
    // An emulated kernel may know a plain fork only (qemu-user does).
    for flags in
        [CLONE_VM | CLONE_VFORK | CLONE_PIDFD | told, CLONE_VM | CLONE_VFORK | told, told]
    {
        let mut pidfd = -1i32;
        // SAFETY: as in `start_child`; what `work` borrows lives, since this process waits, or
        // the child has a copy.
        let result = unsafe { clone(flags, place.cast(), begin::<F>, place, &raw mut pidfd) };
        match i32::try_from(result).map_err(|_| Errno::CHILD)? {
            pid @ 1.. => {
                // SAFETY: a descriptor that the kernel has just returned.
                let pidfd = (pidfd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(pidfd) });
                return Ok((Pid::from_raw(pid).ok_or(Errno::CHILD)?, pidfd));
            }
            error if Errno::INVAL.raw_os_error() == -error => {}
            error => return Err(Errno::from_raw_os_error(-error)),
        }
    }
    Err(Errno::INVAL)
}

/// # Safety
///
/// `stack` is the upper end of unused memory. `begin` does not return and may be called with
/// `work`. `pidfd` is a place for a descriptor if the flags ask for one.
unsafe fn clone<F>(
    flags: usize,
    stack: *mut u8,
    begin: unsafe extern "C" fn(*mut F) -> !,
    work: *mut F,
    pidfd: *mut i32,
) -> isize {
    let result: isize;
    // The registers are named, since the compiler might choose the frame pointer or the link
    // register, which the child clears.
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the child has a stack of its own and leaves this code by a call that does not
    // return. For the parent it is a system call like any other.
    unsafe {
        core::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r9",
            "ud2",
            "2:",
            in("r12") work,
            in("r9") begin,
            inlateout("rax") Sysno::clone as isize => result,
            in("rdi") flags,
            in("rsi") stack,
            in("rdx") pidfd,
            in("r10") 0,
            in("r8") 0,
            out("rcx") _,
            out("r11") _,
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        core::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, #0",
            "mov x30, #0",
            "mov x0, x9",
            "blr x10",
            "brk #1",
            "2:",
            in("x9") work,
            in("x10") begin,
            in("x8") Sysno::clone as isize,
            inlateout("x0") flags => result,
            in("x1") stack,
            in("x2") pidfd,
            in("x3") 0,
            in("x4") 0,
        );
    }
    result
}

/// Ends the process (exit_group(2)).
pub fn exit(status: u8) -> ! {
    loop {
        // SAFETY: ends the process; no pointer involved.
        let _ = unsafe { syscall!(Sysno::exit_group, usize::from(status)) };
    }
}

/// Sets this process's signal mask: bit n-1 blocks signal n. SIGKILL and SIGSTOP stay
/// deliverable.
pub fn set_signal_mask(mask: u64) {
    // SAFETY: the mask lives across the call and has the size given.
    let _ =
        unsafe { syscall!(Sysno::rt_sigprocmask, SIG_SETMASK, &raw const mask, 0, SIGSET_BYTES) };
}

/// The signals that nohup(1) and a shell's `&` turn off for the programs that they start.
const TURNED_OFF: [u8; 3] = [signal::HUP, signal::INT, signal::QUIT];

/// Returns whether the signal is HUP, INT or QUIT and is ignored. Then the starter of this
/// program turned it off.
#[must_use]
pub fn is_turned_off(signal: u8) -> bool {
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
#[must_use]
pub fn turned_off() -> u64 {
    TURNED_OFF
        .iter()
        .filter(|&&signal| is_turned_off(signal))
        .fold(0, |mask, &signal| mask | bit(signal))
}

/// Returns the bit of a signal in a signal mask.
#[must_use]
pub fn bit(signal: u8) -> u64 {
    1 << (signal - 1)
}

/// Stops this process as Ctrl-Z does, until it gets SIGCONT. In a process group that no shell
/// looks after (an orphaned one) it does nothing, since nothing would send CONT there.
pub fn stop_for_the_shell() {
    const SIG_BLOCK: usize = 0;
    const SIG_UNBLOCK: usize = 1;
    let mask = bit(signal::TSTP);
    let _ = kill(rustix::process::getpid(), signal::TSTP);
    for how in [SIG_UNBLOCK, SIG_BLOCK] {
        // SAFETY: the mask lives across the call and has the size given.
        let _ = unsafe { syscall!(Sysno::rt_sigprocmask, how, &raw const mask, 0, SIGSET_BYTES) };
    }
}

/// Gives a signal its default disposition.
pub fn default_disposition(signal: u8) {
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
pub fn signal_fd(mask: u64) -> Result<OwnedFd, Errno> {
    // SAFETY: the mask lives across the call and has the size given.
    let fd = unsafe {
        syscall!(
            Sysno::signalfd4,
            usize::MAX,
            &raw const mask,
            SIGSET_BYTES,
            SFD_NONBLOCK_CLOEXEC
        )
    }
    .map_err(errno)?;
    // SAFETY: a descriptor that the kernel has just returned and nothing else uses.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(-1)) })
}

/// Closes every descriptor of a range (close_range(2), Linux 5.9).
pub fn close_range(first: u32, last: u32) {
    /// The bound before Linux 5.9, which closes one by one. No starter passes descriptors beyond
    /// it to a program.
    const ONE_BY_ONE: u32 = 65_536;
    if first > last {
        return;
    }
    // SAFETY: only numbers; descriptors that this process owns as values are opened later.
    if unsafe { syscall!(Sysno::close_range, first, last, 0) }.is_err() {
        for fd in first..=last.min(ONE_BY_ONE) {
            // SAFETY: as above; EBADF is fine.
            let _ = unsafe { syscall!(Sysno::close, fd) };
        }
    }
}

const RLIMIT_LOCKS: usize = 10;

/// Returns `RLIMIT_LOCKS` of a process.
///
/// # Errors
///
/// `EPERM` for another user's process without CAP_SYS_RESOURCE, `ESRCH`.
pub fn locks_limits(pid: Pid) -> Result<Limits, Errno> {
    let mut limits = [0u64; 2];
    // SAFETY: the array is as large as struct rlimit64 and lives across the call.
    unsafe { syscall!(Sysno::prlimit64, pid.as_raw_pid(), RLIMIT_LOCKS, 0, limits.as_mut_ptr()) }
        .map_err(errno)?;
    let [soft, hard] = limits;
    Ok(Limits { soft, hard })
}

/// Sets `RLIMIT_LOCKS` of a process. Returns its value at that moment.
///
/// # Errors
///
/// `EPERM` for another user's process, or to raise a hard limit, without CAP_SYS_RESOURCE;
/// `ESRCH`.
pub fn swap_locks_limits(pid: Pid, limits: Limits) -> Result<Limits, Errno> {
    let (new, mut old) = ([limits.soft, limits.hard], [0u64; 2]);
    // SAFETY: both arrays are as large as struct rlimit64 and live across the call.
    unsafe {
        syscall!(Sysno::prlimit64, pid.as_raw_pid(), RLIMIT_LOCKS, new.as_ptr(), old.as_mut_ptr())
    }
    .map_err(errno)?;
    let [soft, hard] = old;
    Ok(Limits { soft, hard })
}

/// The answer of waitid(2), without waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// A child has ended.
    Ended(Pid, Ended),
    /// The children in question live.
    NotYet,
    /// There is no such child: the kernel's proof.
    NoChild,
}

const P_ALL: usize = 0;
const P_PID: usize = 1;
const WNOHANG: usize = 1;
const WEXITED: usize = 4;
const WNOWAIT: usize = 0x0100_0000;
/// Includes children that do not tell their end by SIGCHLD.
const WALL: usize = 0x4000_0000;

const WSTOPPED: usize = 2;

/// Stopped or continued.
const WSTATE: usize = 2 | 8;

fn waitid(kind: usize, number: i32, options: usize) -> Waited {
    // struct siginfo on 64-bit Linux: si_code at 8, si_pid at 16, si_status at 24, and 128 bytes
    // in all.
    let mut info = [0i32; 32];
    let options = WNOHANG | options;
    loop {
        // SAFETY: the array is as large and aligned as struct siginfo and lives across the call.
        match unsafe { syscall!(Sysno::waitid, kind, number, info.as_mut_ptr(), options, 0) } {
            Err(syscalls::Errno::EINTR) => {}
            Err(_) => return Waited::NoChild,
            Ok(_) => break,
        }
    }
    let [_, _, code, _, pid, _, status, ..] = info;
    match Pid::from_raw(pid) {
        Some(pid) => Waited::Ended(pid, Ended::from_siginfo(code, status)),
        None => Waited::NotYet,
    }
}

/// Returns whether there are children. It is called before there is a worker.
///
/// # Errors
///
/// The error of waitid(2) if it is refused, for example by a filter of system calls. Then the end
/// of a worker could not be noticed.
pub fn has_children() -> Result<bool, Errno> {
    // SAFETY: no memory is passed, and nothing is reaped.
    match unsafe { syscall!(Sysno::waitid, P_ALL, 0, 0, WNOHANG | WALL | WEXITED | WNOWAIT, 0) } {
        Ok(_) | Err(syscalls::Errno::EINTR) => Ok(true),
        Err(syscalls::Errno::ECHILD) => Ok(false),
        Err(refused) => Err(errno(refused)),
    }
}

/// Looks for any child that has ended, without reaping it.
#[must_use]
pub fn peek_any() -> Waited {
    waitid(P_ALL, 0, WALL | WEXITED | WNOWAIT)
}

/// Returns whether no child lives. There may be some that have ended and are not reaped.
///
/// waitid(2) is asked for a change of state here, and not for an end. If all children have ended,
/// the kernel answers that there is none, as those change no more (`wait_consider_child` in
/// kernel/exit.c). A process counts as living if its first thread has ended before the others.
#[must_use]
pub fn none_lives() -> bool {
    matches!(waitid(P_ALL, 0, WALL | WSTATE | WNOWAIT), Waited::NoChild)
}

/// Looks at one child without reaping it.
#[must_use]
pub fn peek(pid: Pid) -> Waited {
    waitid(P_PID, pid.as_raw_pid(), WALL | WEXITED | WNOWAIT)
}

/// Returns whether one child has stopped and is still stopped. Each stop is told once.
#[must_use]
pub fn has_stopped(pid: Pid) -> bool {
    matches!(waitid(P_PID, pid.as_raw_pid(), WALL | WSTOPPED), Waited::Ended(..))
}

/// Reaps one child if it has ended.
#[must_use]
pub fn reap(pid: Pid) -> Waited {
    waitid(P_PID, pid.as_raw_pid(), WALL | WEXITED)
}

/// Visits the children of this process without `/proc`. `waitid` knows them by number, and no
/// other processes. It takes about half a second.
pub fn each_child_by_number(visit: &mut dyn FnMut(Pid)) {
    const PID_MAX_LIMIT: i32 = 4_194_304;
    for pid in (2..=PID_MAX_LIMIT).filter_map(Pid::from_raw) {
        if !matches!(peek(pid), Waited::NoChild) {
            visit(pid);
        }
    }
}

/// Returns the milliseconds of CLOCK_MONOTONIC.
#[must_use]
pub fn now_ms() -> u64 {
    let mut time = [0i64; 2];
    // SAFETY: the array is as large as struct timespec on 64-bit Linux.
    let _ = unsafe { syscall!(Sysno::clock_gettime, CLOCK_MONOTONIC, time.as_mut_ptr()) };
    let [seconds, nanoseconds] = time;
    u64::try_from(seconds).unwrap_or(0) * 1000
        + u64::try_from(nanoseconds).unwrap_or(0) / 1_000_000
}

/// Signals one process (kill(2)); `Pid` has neither zero nor negative numbers.
///
/// # Errors
///
/// `ESRCH`, `EPERM`.
pub fn kill(pid: Pid, signal: u8) -> Result<(), Errno> {
    // SAFETY: only numbers.
    unsafe { syscall!(Sysno::kill, pid.as_raw_pid(), usize::from(signal)) }.map_err(errno)?;
    Ok(())
}

/// Signals the process group whose leader is `leader` (kill(2)).
///
/// # Errors
///
/// `ESRCH`, `EPERM`.
pub fn kill_group(leader: Pid, signal: u8) -> Result<(), Errno> {
    if leader.is_init() {
        return Err(Errno::PERM);
    }
    // SAFETY: only numbers.
    unsafe { syscall!(Sysno::kill, -leader.as_raw_pid(), usize::from(signal)) }.map_err(errno)?;
    Ok(())
}

/// Signals the process of a pidfd (pidfd_send_signal(2)).
///
/// # Errors
///
/// `ESRCH`, `EPERM`.
pub fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: u8) -> Result<(), Errno> {
    // SAFETY: numbers and a null siginfo.
    unsafe { syscall!(Sysno::pidfd_send_signal, pidfd.as_raw_fd(), usize::from(signal), 0, 0) }
        .map_err(errno)?;
    Ok(())
}

/// Calls setgroups(2), setresgid(2) and setresuid(2), each if asked for. The order matters:
/// without the rights of the old uid, the others fail.
///
/// # Errors
///
/// `EPERM` without the capabilities, `EINVAL`.
pub fn become_user(
    groups: Option<&[u32]>,
    gid: Option<u32>,
    uid: Option<u32>,
) -> Result<(), Errno> {
    if let Some(groups) = groups {
        // SAFETY: pointer and length of one slice.
        unsafe { syscall!(Sysno::setgroups, groups.len(), groups.as_ptr()) }.map_err(errno)?;
    }
    if let Some(gid) = gid {
        // SAFETY: only numbers.
        unsafe { syscall!(Sysno::setresgid, gid, gid, gid) }.map_err(errno)?;
    }
    if let Some(uid) = uid {
        // SAFETY: only numbers.
        unsafe { syscall!(Sysno::setresuid, uid, uid, uid) }.map_err(errno)?;
    }
    Ok(())
}

/// Sets SIGKILL as the death signal (PR_SET_PDEATHSIG).
///
/// # Errors
///
/// None that the kernel documents for a valid signal.
pub fn die_with_parent() -> Result<(), Errno> {
    const PR_SET_PDEATHSIG: usize = 1;
    // SAFETY: only numbers.
    unsafe { syscall!(Sysno::prctl, PR_SET_PDEATHSIG, usize::from(signal::KILL), 0, 0, 0) }
        .map_err(errno)?;
    Ok(())
}

/// Makes this process a subreaper (PR_SET_CHILD_SUBREAPER).
///
/// # Errors
///
/// `EINVAL` before Linux 3.4.
pub fn become_subreaper() -> Result<(), Errno> {
    const PR_SET_CHILD_SUBREAPER: usize = 36;
    // SAFETY: only numbers.
    unsafe { syscall!(Sysno::prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }.map_err(errno)?;
    Ok(())
}

/// Borrows an inherited descriptor (0 to 2, leash, report), which stays open for the whole life
/// of this process.
#[must_use]
pub fn borrow(fd: i32) -> BorrowedFd<'static> {
    // SAFETY: nothing in this program closes these. If one was not open to begin with, every use
    // of it is EBADF, which poll(2) gives as POLLNVAL: a leash that is let go.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Keeps a descriptor open for the whole life of this process.
#[must_use]
pub fn keep(fd: OwnedFd) -> BorrowedFd<'static> {
    use rustix::fd::IntoRawFd;
    borrow(fd.into_raw_fd())
}

/// Sleeps for this many milliseconds, or less if a signal comes.
pub fn pause_ms(ms: u64) {
    let time = [
        i64::try_from(ms / 1000).unwrap_or(0),
        i64::try_from(ms % 1000).unwrap_or(0) * 1_000_000,
    ];
    // SAFETY: the array is as large as struct timespec on 64-bit Linux.
    let _ = unsafe { syscall!(Sysno::nanosleep, time.as_ptr(), 0) };
}

/// A list of children's pids, in memory of its own that costs only the part in use.
#[derive(Debug)]
pub struct Numbers {
    first: *mut i32,
    len: usize,
}

impl Numbers {
    /// Twice the number of worker numbers, since children that have ended are in the list until
    /// they are reaped.
    const MAX: usize = 65_536;

    /// Maps the memory.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new() -> Result<Self, Errno> {
        let (access, flags) =
            (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: the kernel chooses an address that nothing else has.
        let first = unsafe {
            mmap_anonymous(core::ptr::null_mut(), Self::MAX * size_of::<i32>(), access, flags)
        }?;
        Ok(Self { first: first.cast(), len: 0 })
    }

    /// Returns the pids in the list.
    #[must_use]
    pub fn all(&self) -> &[i32] {
        // SAFETY: mapped, never longer than MAX, written up to `len` or zero as the kernel gave
        // it.
        unsafe { core::slice::from_raw_parts(self.first, self.len) }
    }

    /// Returns whether a child is in the list.
    #[must_use]
    pub fn has(&self, pid: Pid) -> bool {
        self.all().contains(&pid.as_raw_pid())
    }

    /// Adds a child. Returns `false` if there is no room.
    pub fn add(&mut self, pid: Pid) -> bool {
        if self.len == Self::MAX {
            return false;
        }
        // SAFETY: below MAX, mapped, and used by this value alone.
        unsafe { self.first.add(self.len).write(pid.as_raw_pid()) };
        self.len += 1;
        true
    }

    /// Drops the pids that came last, down to this length.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Removes a child. Returns whether it was in the list.
    pub fn remove(&mut self, pid: Pid) -> bool {
        let Some(index) = self.all().iter().position(|number| *number == pid.as_raw_pid()) else {
            return false;
        };
        self.len -= 1;
        // SAFETY: both below the length of before.
        unsafe { self.first.add(index).write(self.first.add(self.len).read()) };
        true
    }
}

/// Arguments and variables of a program, as execve(2) takes them.
#[derive(Debug)]
pub struct Texts<'a> {
    vector: *const *const c_char,
    arguments: usize,
    /// The memory that has to be unmapped after use.
    mapping: Option<Mapping>,
    arena: core::marker::PhantomData<&'a Arena>,
}

/// A mapping that is unmapped on drop.
#[derive(Debug)]
struct Mapping {
    place: *mut core::ffi::c_void,
    len: usize,
}

impl Mapping {
    fn new(len: usize, flags: MapFlags) -> Result<Self, Errno> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses an address that nothing else has.
        let place = unsafe {
            mmap_anonymous(core::ptr::null_mut(), len, access, MapFlags::PRIVATE | flags)
        }?;
        Ok(Self { place, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the whole mapping and nothing else.
        let _ = unsafe { munmap(self.place, self.len) };
    }
}

/// Room for the texts of one program at a time, which costs only the part in use.
#[derive(Debug)]
pub struct Arena(Mapping);

impl Arena {
    /// The most strings.
    const STRINGS: usize = 2_046;

    /// Bytes of pointers, with the nulls behind the two vectors.
    const VECTOR: usize = (Self::STRINGS + 2) * size_of::<usize>();

    /// The most bytes of text.
    const TEXT: usize = 32 * 1024;

    /// Maps the memory.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new() -> Result<Self, Errno> {
        Mapping::new(Self::VECTOR + Self::TEXT, MapFlags::NORESERVE).map(Self)
    }

    /// Returns the place for the text.
    pub fn text(&mut self) -> &mut [u8] {
        // SAFETY: inside the mapping, zero or written, and used by this value alone.
        unsafe {
            core::slice::from_raw_parts_mut(
                self.0.place.cast::<u8>().add(Self::VECTOR),
                Self::TEXT,
            )
        }
    }

    /// Returns the first bytes of the text as strings.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the number of strings differs from that, or if there is no argument; `E2BIG`
    /// if there is no room for them.
    pub fn texts(
        &mut self,
        bytes: usize,
        arguments: usize,
        variables: usize,
    ) -> Result<Texts<'_>, Errno> {
        if arguments.saturating_add(variables) > Self::STRINGS {
            return Err(Errno::TOOBIG);
        }
        let vector = self.0.place.cast::<*const c_char>();
        let text = self.text().get(..bytes).ok_or(Errno::TOOBIG)?;
        // SAFETY: the vector has room for them and the two nulls.
        unsafe { index(vector, text, arguments, variables) }?;
        Ok(Texts { vector, arguments, mapping: None, arena: core::marker::PhantomData })
    }
}

/// Writes a pointer to each string, and a null behind the arguments and behind the variables.
///
/// # Safety
///
/// `vector` has room for all of them.
unsafe fn index(
    vector: *mut *const c_char,
    text: &[u8],
    arguments: usize,
    variables: usize,
) -> Result<(), Errno> {
    let (mut count, mut rest) = (0usize, text);
    while let Some(end) = rest.iter().position(|&byte| byte == 0) {
        if count == arguments + variables {
            return Err(Errno::INVAL);
        }
        let index = if count < arguments { count } else { count + 1 };
        // SAFETY: one of those places.
        unsafe { vector.add(index).write(rest.as_ptr().cast()) };
        count += 1;
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    // SAFETY: as above.
    unsafe {
        vector.add(arguments).write(core::ptr::null());
        vector.add(arguments + variables + 1).write(core::ptr::null());
    }
    let all = count == arguments + variables && rest.is_empty() && arguments > 0;
    if all { Ok(()) } else { Err(Errno::INVAL) }
}

impl Texts<'_> {
    /// Reads the texts from the beginning of a file.
    ///
    /// # Errors
    ///
    /// `E2BIG` above 16 MiB, which the kernel accepts for no program. `EINVAL` if the number of
    /// strings differs from that, or if there is no argument. `ENOMEM`; the errors of reading.
    pub fn read(file: BorrowedFd<'_>, arguments: usize, variables: usize) -> Result<Self, Errno> {
        const MOST: usize = 16 << 20;
        let bytes =
            usize::try_from(rustix::fs::fstat(file)?.st_size).map_err(|_| Errno::INVAL)?;
        let pointers = arguments.saturating_add(variables).saturating_add(2);
        let strings = pointers.saturating_mul(size_of::<usize>());
        let len = strings.saturating_add(bytes);
        if len > MOST {
            return Err(Errno::TOOBIG);
        }
        let mapping = Mapping::new(len, MapFlags::empty())?;
        // SAFETY: inside the mapping, zero or written by the kernel, and used by this value
        // alone.
        let text = unsafe {
            core::slice::from_raw_parts_mut(mapping.place.cast::<u8>().add(strings), bytes)
        };
        let mut have = 0usize;
        while have < bytes {
            match rustix::io::pread(file, text.get_mut(have..).unwrap_or_default(), have as u64) {
                Ok(0) => return Err(Errno::INVAL),
                Ok(len) => have += len,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        let vector = mapping.place.cast::<*const c_char>();
        // SAFETY: `pointers` of them lie before the text.
        unsafe { index(vector, text, arguments, variables) }?;
        Ok(Self { vector, arguments, mapping: Some(mapping), arena: core::marker::PhantomData })
    }

    /// Replaces this process by the program that the first argument names. Returns only on
    /// failure.
    #[must_use]
    pub fn exec(&self) -> Errno {
        let _ = &self.mapping;
        // SAFETY: both vectors end in a null and their strings in a NUL, by `index`, and live
        // across the call.
        match unsafe {
            syscall!(
                Sysno::execve,
                *self.vector,
                self.vector,
                self.vector.add(self.arguments + 1)
            )
        } {
            Ok(_) => Errno::NOEXEC,
            Err(error) => errno(error),
        }
    }
}

/// Copies a descriptor to a number, open or not, so that exec leaves it open (dup3(2)).
///
/// # Errors
///
/// `EBADF`, `EINVAL` where they are the same.
pub fn copy_to(fd: BorrowedFd<'_>, number: i32) -> Result<(), Errno> {
    // SAFETY: only numbers; what is closed there is a placeholder that nothing uses.
    unsafe { syscall!(Sysno::dup3, fd.as_raw_fd(), number, 0) }.map_err(errno)?;
    Ok(())
}
