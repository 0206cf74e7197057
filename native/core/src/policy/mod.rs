//! Whether a run is dead, and whether a process of it may be ended.

pub(crate) mod descent;
pub(crate) mod evidence;
pub(crate) mod judge_process;
pub(crate) mod judge_run;
pub(crate) mod nested_owners;
pub(crate) mod refusal;
pub(crate) mod verdict;
pub(crate) mod workers;
