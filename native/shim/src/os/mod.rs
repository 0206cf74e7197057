//! System calls, and the kernel's files.
//!
//! Where rustix has a safe function, the callers use that. The rest is here, one concept per
//! file. Only files of this folder hold `unsafe` code.
//!
//! # Safety
//!
//! The process is single-threaded and has no signal handlers, so nothing here can be entered
//! twice. Every pointer passed to the kernel is to a local that lives across the call.

pub(crate) mod cgroup;
pub(crate) mod child;
pub(crate) mod clock;
pub(crate) mod descriptors;
pub(crate) mod exit_status;
pub(crate) mod mapping;
pub(crate) mod mark_limits;
pub(crate) mod pid_list;
pub(crate) mod pidfd;
pub(crate) mod privileges;
pub(crate) mod proc_file;
pub(crate) mod process;
pub(crate) mod program;
pub(crate) mod signals;
pub(crate) mod stat;
pub(crate) mod text;
pub(crate) mod vectors;
pub(crate) mod wait;

/// Turns an error of a raw system call into that of rustix.
fn errno(error: syscalls::Errno) -> rustix::io::Errno {
    rustix::io::Errno::from_raw_os_error(error.into_raw())
}
