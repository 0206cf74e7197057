//! Ends processes for certain.
//!
//! | file | part |
//! |---|---|
//! | `spec` | what to end, how, and how long |
//! | `state_machine` | what the driver steps: a cleanup of tagged processes or of one process |
//! | `engine` | the order of passes and signals, until nothing is left or the time is over |
//! | `full_pass` | reads and judges everything tagged, and makes targets |
//! | `hidden_processes` | what `/proc` hides, found by trying every number |
//! | `untagged_processes` | names what may be of a dead run and has no tag |
//! | `quick_pass` | signals at once what forks faster than it is read |
//! | `signalling` | sends what is due, after one more look at each process |
//! | `finalize` | reports on the runs, and removes records |
//! | `one_process` | the same for one process by its identity, without a pass |
//! | `target`, `targets`, `stage`, `ladders`, `churn`, `judgements` | the state |
//! | `report` | the result |

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
pub(crate) mod untagged_processes;
