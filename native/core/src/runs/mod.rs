//! Runs: their records, locks and owners.

pub(crate) mod mark_loss;
pub(crate) mod owner;
pub mod record;
pub(crate) mod record_file;
pub(crate) mod run_dir;
pub(crate) mod run_lock;
