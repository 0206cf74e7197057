//! Which processes say that they belong to a run.

pub(crate) mod carrier;
pub(crate) mod ladder;
pub(crate) mod process_reader;
pub(crate) mod scan;
pub(crate) mod shim;
pub(crate) mod tagged_process;
