//! Processes: those below the shim, those that carry a mark, and the proof that none is left.

pub(crate) mod children;
pub(crate) mod mark_scan;
pub(crate) mod marking;
pub(crate) mod threads;
pub(crate) mod walk;
