//! What `/proc` shows: processes, their identity, this host.

pub(crate) mod children;
pub(crate) mod clock;
pub(crate) mod host;
pub(crate) mod identify;
pub(crate) mod identity;
pub(crate) mod listing;
pub mod parse;
pub(crate) mod root;
pub(crate) mod text;
