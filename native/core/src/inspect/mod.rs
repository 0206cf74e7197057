//! What people and limits want to know about processes. Nothing here ends one.

pub(crate) mod capabilities;
pub(crate) mod detached;
pub(crate) mod not_covered;
pub(crate) mod usage;
