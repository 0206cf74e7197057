//! What the shim tells the VM, or a person.

pub(crate) mod messages;
mod offer;
pub(crate) mod report;
pub(crate) mod stage;
