//! The supervisor of one worker's process tree.
//!
//! `leash-shim` starts one program, is the subreaper of everything that it starts, and ends when
//! nothing of that tree is left. If the holder of its leash lets go, the shim ends the tree.
//!
//! A file imports files of its own folder and of folders above it in this table. There is no
//! circle; `tests/shim/imports.rs` checks both.
//!
//! | folder | holds |
//! |---|---|
//! | `os` | system calls, and the kernel's files: the only `unsafe` code |
//! | [`cli`] | the command line: options, their values, `--help` |
//! | `out` | reports to the VM, messages to a person |
//! | `tree` | the processes below the shim or with its mark, and the proof that none is left |
//! | `start` | the shim's preparation of itself, and the child's way to its exec |
//! | `stop` | the ladder, its commands, and the position of a tree on it |
//! | `mode` | what a shim can be: supervisor of a worker or of an attached process, or warden |
//! | `run` | everything in its order |
//!
//! The shim makes no allocation, uses no libc and no thread, and never blocks while it ends a
//! tree.
#![no_std]
#![deny(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod cli;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod mode;
mod os;
mod out;
mod run;
mod start;
mod stop;
mod tree;

pub use os::process::exit;
pub use os::vectors::Vectors;
pub use run::run;
