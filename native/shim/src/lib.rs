//! The supervisor of one worker's process tree.
//!
//! `leash-shim` starts one program, is the subreaper of everything that it starts, and ends when
//! nothing of that tree is left. If the holder of its leash lets go, the shim ends the tree. The
//! steps, in order:
//!
//! | step | module |
//! |---|---|
//! | read the command line | [`args`], [`blocks`], [`help`] |
//! | everything in its order | `run` |
//! | prepare itself: mark, signals, subreaper, session, descriptors, owner | `prepare`, `foreign` |
//! | fork; the child becomes the worker | `spawn` |
//! | wait | `supervise`, `watched` |
//! | end the tree by the ladder | `ladder`, `command`, `tree` |
//! | prove it gone | `reap` |
//! | instead, a process that is there already | `attach`, `target`, `marking`, `marked` |
//! | instead, the shims of a run, and what they leave when they are killed | `warden`, `control`, `adopt`, `marked` |
//! | tell the VM, or a person | `report`, `say`, `offer` |
//!
//! The shim makes no allocation, uses no libc and no thread, and never blocks while it ends a
//! tree.
#![no_std]
#![deny(unsafe_code)]

#[cfg(test)]
extern crate std;

mod adopt;
pub mod args;
mod attach;
pub mod blocks;
mod climb;
mod command;
mod control;
mod foreign;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod help;
mod keep;
mod ladder;
pub mod limits;
mod marked;
mod marking;
mod offer;
mod prepare;
mod proc_file;
mod reap;
mod report;
mod run;
mod say;
mod spawn;
mod supervise;
pub mod sys;
mod target;
mod text;
mod tree;
mod warden;
mod watched;

pub use report::Ended;
pub use run::run;
