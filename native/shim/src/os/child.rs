//! Starting a child: clone(2) or clone3(2) with a stack of its own, or fork(2).
#![allow(unsafe_code)]

use leash_tag::signal;
use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mprotect};
use rustix::process::Pid;
use syscalls::{Sysno, syscall};

use super::errno;
use super::mapping::Mapping;
use super::process::exit;
use super::wait;

/// Memory for the child's stack. It is a mapping of its own. A place in the shim's stack would
/// depend on the depth of calls and on the limit on stacks.
pub(crate) struct ChildStack(Mapping);

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
    pub(crate) fn new() -> Result<Self, Errno> {
        let all = Self::GUARD + Self::LEN;
        let memory = Mapping::with_access(all, ProtFlags::empty(), MapFlags::STACK)?;
        let access = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: inside the mapping, which nothing uses yet.
        unsafe { mprotect(memory.at(Self::GUARD), Self::LEN, access) }?;
        Ok(Self(memory))
    }

    /// Returns the lower end.
    fn lowest(&self) -> *mut u8 {
        self.0.at(Self::GUARD)
    }

    /// Puts the child's work at the upper end, below which the stack begins.
    fn hold<F: FnOnce() -> u8>(&self, work: F) -> *mut F {
        const SPACE: usize = 1024;
        const { assert!(size_of::<F>() <= SPACE && align_of::<F>() <= 16) };
        let place = self.0.at::<F>(Self::GUARD + Self::LEN - SPACE);
        // SAFETY: large and aligned enough by the assertion, mapped, and in use by no child.
        unsafe { place.write(work) };
        place
    }
}

/// A child that has been started.
pub(crate) struct Child {
    pid: Pid,
    /// Present as long as the child may use it.
    stack: Option<ChildStack>,
}

impl Child {
    /// Returns the child's pid, which no other process gets until the child is reaped.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Returns whether the child reached its exec, living or not. Ask only while it is not
    /// reaped. If it did, its stack is given back.
    ///
    /// Exec makes SIGCHLD the signal that tells a process's end (`de_thread` in fs/exec.c),
    /// before it closes a descriptor. Without `__WALL`, waitid(2) sees only children that tell it
    /// by SIGCHLD.
    pub(crate) fn executed(&mut self) -> bool {
        let executed = wait::tells_by_sigchld(self.pid);
        if executed {
            self.stack = None;
        }
        executed
    }
}

/// The memory that a child works in until it executes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    /// A copy.
    Own,
    /// The shim's memory, of which nothing is copied. The child writes nothing there but its
    /// stack.
    Shared,
}

impl Memory {
    fn flags(self) -> usize {
        if self == Self::Shared { CLONE_VM } else { 0 }
    }
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
pub(crate) fn start_child<F: FnOnce() -> u8 + 'static>(
    memory: Memory,
    work: F,
) -> Result<Child, Errno> {
    let stack = ChildStack::new()?;
    // With a plain fork, a child that is killed before its exec counts as started.
    let flags = [usize::from(signal::URG) | memory.flags(), TOLD];
    let (pid, _) = start(&stack, work, &flags)?;
    Ok(Child { pid, stack: Some(stack) })
}

/// Starts a child as [`start_child`] does, which is in a control group from its first moment on
/// (CLONE_INTO_CGROUP of clone3(2), Linux 5.7).
///
/// # Errors
///
/// As [`start_child`], and:
///
/// * `ENOSYS`, `EPERM`, `E2BIG`, `EINVAL`: kernel or filter do not have the call
/// * `EBADF`: no control group of version 2
/// * `EACCES`: this process may not move processes there
/// * `EBUSY`, `EOPNOTSUPP`, `ENODEV`: the group cannot have processes
pub(crate) fn start_child_in<F: FnOnce() -> u8 + 'static>(
    cgroup: BorrowedFd<'_>,
    memory: Memory,
    work: F,
) -> Result<Child, Errno> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let cgroup = u64::try_from(cgroup.as_raw_fd()).map_err(|_| Errno::BADF)?;
    let stack = ChildStack::new()?;
    let place = stack.hold(work);
    let arguments = CloneArguments {
        flags: CLONE_INTO_CGROUP | memory.flags() as u64,
        exit_signal: u64::from(signal::URG),
        stack: stack.lowest().addr() as u64,
        stack_size: (place.addr() - stack.lowest().addr()) as u64,
        cgroup,
        ..CloneArguments::default()
    };
    let call = [(&raw const arguments).expose_provenance(), size_of::<CloneArguments>(), 0];
    // SAFETY: as in `start`. The arguments live across the call.
    let result = unsafe { clone(Sysno::clone3, call, begin::<F>, place) };
    let pid = i32::try_from(result).map_err(|_| Errno::CHILD)?;
    match Pid::from_raw(pid) {
        Some(pid) if pid.as_raw_pid() > 0 => Ok(Child { pid, stack: Some(stack) }),
        _ => Err(Errno::from_raw_os_error(-pid)),
    }
}

/// `struct clone_args` of linux/sched.h.
#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Starts a child that does `work` on that stack. This process waits, as after vfork(2), until
/// the child executes something or ends. Returns its pid, and its pidfd if clone(2) gives one
/// (Linux 5.2).
///
/// # Errors
///
/// `EAGAIN` at a limit on processes, `ENOMEM`.
pub(crate) fn start_program<F: FnOnce() -> u8>(
    stack: &ChildStack,
    work: F,
) -> Result<(Pid, Option<OwnedFd>), Errno> {
    let waits = CLONE_VM | CLONE_VFORK | TOLD;
    start(stack, work, &[waits | CLONE_PIDFD, waits, TOLD])
}

/// Forks. Returns the child's pid, and `None` in the child.
///
/// # Errors
///
/// `EAGAIN` at a limit on processes, `ENOMEM`.
pub(crate) fn fork() -> Result<Option<Pid>, Errno> {
    // SAFETY: the child goes on with a copy of all memory, this stack included. There is one
    // thread, and so nothing that another one could have left half done.
    let pid = unsafe { syscall!(Sysno::clone, TOLD, 0, 0, 0, 0) }.map_err(errno)?;
    Ok(i32::try_from(pid).ok().and_then(Pid::from_raw))
}

/// The signal that tells a child's end, as part of the flags (clone(2)).
const TOLD: usize = signal::CHLD as usize;
// linux/sched.h
const CLONE_VM: usize = 0x100;
const CLONE_PIDFD: usize = 0x1000;
const CLONE_VFORK: usize = 0x4000;

/// Starts a child with the first of these flags that the kernel knows. An emulated kernel may
/// know a plain fork only (qemu-user does).
fn start<F: FnOnce() -> u8>(
    stack: &ChildStack,
    work: F,
    flags: &[usize],
) -> Result<(Pid, Option<OwnedFd>), Errno> {
    let place = stack.hold(work);
    for &flags in flags {
        let mut pidfd = -1i32;
        let call = [flags, place.expose_provenance(), (&raw mut pidfd).expose_provenance()];
        // SAFETY: the child begins at `begin` with `work` above its stack and never comes back.
        // The process is single-threaded, without libc, thread-local storage or writable statics.
        // So there is no state that a second process in the same memory could disturb.
        // Descriptors and signal dispositions are copies. What `work` borrows lives, since this
        // process waits or the child has a copy. If there was no child, `work` is as it was
        // written.
        let result = unsafe { clone(Sysno::clone, call, begin::<F>, place) };
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

/// Does the child's work and exits.
///
/// # Safety
///
/// `work` was put there by [`ChildStack::hold`], and is used by no other process.
unsafe extern "C" fn begin<F: FnOnce() -> u8>(work: *mut F) -> ! {
    // SAFETY: written by `ChildStack::hold`, read here once.
    let work = unsafe { work.read() };
    exit(work())
}

/// # Safety
///
/// `call` is clone(2) or clone3(2), with arguments that give the child the upper end of unused
/// memory as its stack, and the kernel valid places for what it returns. `begin` does not return
/// and may be called with `work`.
unsafe fn clone<F>(
    call: Sysno,
    [first, second, third]: [usize; 3],
    begin: unsafe extern "C" fn(*mut F) -> !,
    work: *mut F,
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
            inlateout("rax") call as isize => result,
            in("rdi") first,
            in("rsi") second,
            in("rdx") third,
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
            in("x8") call as isize,
            inlateout("x0") first => result,
            in("x1") second,
            in("x2") third,
            in("x3") 0,
            in("x4") 0,
        );
    }
    result
}
