//! Ends processes for certain.

pub(crate) mod churn;
pub(crate) mod engine;
pub(crate) mod finalize;
pub(crate) mod full_pass;
pub(crate) mod hidden_processes;
pub(crate) mod judgements;
pub(crate) mod ladders;
pub(crate) mod one_process;
pub(crate) mod quick_pass;
pub mod report;
pub(crate) mod signalling;
pub(crate) mod spec;
pub(crate) mod stage;
pub(crate) mod state_machine;
pub(crate) mod target;
pub(crate) mod targets;
