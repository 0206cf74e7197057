//! What people and limits want to know about processes. Nothing here ends one.
//!
//! Each answer is one look at a moment. No answer is a reason to signal anything: a cleanup looks
//! for itself.

pub(crate) mod capabilities;
pub(crate) mod detached;
pub(crate) mod not_covered;
pub(crate) mod usage;
