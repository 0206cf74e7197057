//! One file for each subcommand. No subcommand imports another one.

pub(crate) mod generate;
pub(crate) mod kill;
pub(crate) mod ps;
pub(crate) mod runs;
pub(crate) mod stop;
pub(crate) mod sweep;
pub(crate) mod top;
pub(crate) mod tree;
