//! What this command does with a living VM: it asks the VM over its socket, or signals it.

pub(crate) mod answer;
pub(crate) mod client;
pub(crate) mod terminate;
