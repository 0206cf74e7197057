//! The three things that a shim can be: the supervisor of a worker, of an attached process, or a
//! run's warden.

pub(crate) mod attach;
mod control;
mod events;
mod keep_remaining;
mod run_members;
pub(crate) mod supervise;
mod target;
pub(crate) mod warden;
mod warden_children;
