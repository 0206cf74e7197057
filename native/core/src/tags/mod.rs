//! Which processes say that they belong to a run.
//!
//! `leash_tag` defines the three carriers: the mark in a resource limit, the environment, the
//! command line. This floor reads them of one process (`process_reader`) or of all (`scan`). Any
//! process can put a tag on itself, so a tag proves nothing here. The policy decides.

pub(crate) mod carrier;
pub(crate) mod ladder;
pub(crate) mod process_reader;
pub(crate) mod scan;
pub(crate) mod shim;
pub(crate) mod tagged_process;
