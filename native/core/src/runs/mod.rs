//! Runs: their records, locks and owners.
//!
//! A run is one life of the application in one VM. The VM writes a record into the run directory
//! and holds a lock on it. The record names the owner, by number, start, boot and pid namespace.
//! Whether the owner lives is asked of the kernel each time, and never remembered.

pub(crate) mod mark_loss;
pub(crate) mod owner;
pub mod record;
pub(crate) mod record_file;
pub(crate) mod run_dir;
pub(crate) mod run_lock;
pub(crate) mod worker_group;
