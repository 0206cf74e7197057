//! The command line: what the shim is told to do.

pub(crate) mod arg_error;
pub(crate) mod config;
pub(crate) mod identity;
pub(crate) mod options;
pub(crate) mod parse;
pub(crate) mod step_commands;
pub(crate) mod worker_limits;

pub use arg_error::ArgError;
pub use config::Config;
pub use options::HELP;
pub use parse::{Parsed, parse};
