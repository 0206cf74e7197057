//! Whether a run is dead, and whether a process of it may be ended.
//!
//! | file | question |
//! |---|---|
//! | `evidence` | Which owners do records and processes name for each run? |
//! | `judge_run` | Is the run dead? Every witness that names an owner is checked now. |
//! | `judge_process` | May a process of a dead run be ended? |
//! | `workers` | May a process of the asking VM's own, live run be ended? |
//! | `descent` | May a process that has only its environment tag descend from the run? |
//! | `nested_owners` | Does a process belong to a live run inside the dead one? |
//! | `refusal` | Is this a process that is never signalled? |
//!
//! Nothing here sends a signal, and nothing here changes a file.

pub(crate) mod descent;
pub(crate) mod evidence;
pub(crate) mod judge_process;
pub(crate) mod judge_run;
pub(crate) mod nested_owners;
pub(crate) mod refusal;
pub(crate) mod verdict;
pub(crate) mod workers;
