//! What `/proc` shows: processes, their identity, this host.
//!
//! A number means a process only as long as that process is not reaped. So each file here says
//! what it reads by number, and in which order a descriptor makes the reading certain:
//!
//! 1. Open the pidfd. From now on no other process can take the number unseen.
//! 2. Read the files by number.
//! 3. See the pidfd alive. Then everything read in between is of its process.

pub(crate) mod cgroup_members;
pub(crate) mod children;
pub(crate) mod clock;
pub(crate) mod host;
pub(crate) mod identify;
pub(crate) mod identity;
pub(crate) mod listing;
pub(crate) mod own_group;
pub mod parse;
pub(crate) mod root;
pub(crate) mod text;
