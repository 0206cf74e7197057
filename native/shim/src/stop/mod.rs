//! The escalation by which a tree is ended.

pub(crate) mod commands;
pub(crate) mod escalation;
pub(crate) mod ladder;
pub(crate) mod request;
