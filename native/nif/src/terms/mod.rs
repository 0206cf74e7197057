//! What only decodes arguments and encodes answers. Nothing in here asks the system.

pub(crate) mod args;
pub(crate) mod atoms;
pub(crate) mod failure;
pub(crate) mod hunt_spec;
pub(crate) mod map;
pub(crate) mod reply;
pub(crate) mod report;
