//! Parsers of the files in `/proc`: pure functions on bytes.
//!
//! No parser panics on any input, and none guesses. If a text is not understood, the result is
//! `None`.

pub(crate) mod cgroup;
pub mod cmdline;
pub mod mounts;
pub mod stat;
pub mod status;
