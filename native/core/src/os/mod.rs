//! The kernel's own things: process numbers, descriptors, signals, errors.

pub(crate) mod error;
pub(crate) mod pid;
pub(crate) mod pidfd;
pub(crate) mod reserve;
pub(crate) mod signal;
pub(crate) mod syscalls;
pub(crate) mod user_ids;
