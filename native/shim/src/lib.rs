//! The supervisor of one worker's process tree.
//!
//! `leash-shim` starts one program, is the subreaper of everything that it starts, and ends when
//! nothing of that tree is left; whoever holds its leash ends the tree by letting go. What it does, in which order:
//!
//! | step | module |
//! |---|---|
//! | read the command line | [`args`], [`help`] |
//! | prepare itself: mark, signals, subreaper, session, descriptors, owner | [`prepare`] |
//! | pipes for the VM | [`stdio`] |
//! | fork; the child becomes the worker | [`child`] |
//! | wait; end the tree by the ladder; prove it gone | [`supervise`], [`descendants`] |
//! | tell the VM | [`report`] |
//!
//! No allocation, no libc, no thread; nothing blocks once a tree is to be ended.
#![no_std]
#![deny(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod args;
mod child;
mod descendants;
pub mod help;
mod prepare;
mod proc_file;
mod report;
mod run;
mod stdio;
mod supervise;
pub mod sys;

pub use run::run;
