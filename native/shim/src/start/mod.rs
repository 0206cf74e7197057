//! The shim's preparation of itself, and the way from its fork to the worker's exec.

pub(crate) mod exec;
pub(crate) mod inherited;
pub(crate) mod prepare;
pub(crate) mod spawn;
