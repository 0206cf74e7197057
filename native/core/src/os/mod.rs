//! The kernel's own things: process numbers, descriptors, signals, errors.
//!
//! `syscalls` is the only file with unsafe code. It has the calls that neither rustix nor nix
//! wraps. `reserve` keeps descriptors back, so that a full table does not stop a cleanup.

pub(crate) mod error;
pub(crate) mod pid;
pub(crate) mod pidfd;
pub(crate) mod reserve;
pub(crate) mod signal;
pub(crate) mod syscalls;
pub(crate) mod user_ids;
