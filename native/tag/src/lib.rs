//! The definition of a process that is Leash's.
//!
//! A run is one life of the `:leash` application in one VM. Each of its processes carries the
//! run's id in up to three places, the *carriers*. Each carrier has a different weakness, so that
//! a process that loses one or two is still found:
//!
//! | carrier | module | survives | lost when |
//! |---|---|---|---|
//! | argv | [`argv`] | everything but exec and title rewriting | descendants exec something else |
//! | env | [`OwnerTag`] | fork, exec, setsid, double fork | `env -i`, environ overwritten or unreadable |
//! | mark | [`Mark`] | all of that and a change of uid | a process with `CAP_SYS_RESOURCE` resets it |
//!
//! The shim and the core share this crate, so that there is one definition of "ours". (The shim
//! has neither libc nor an allocator.) A malformed carrier matches nothing. Every parser returns
//! an `Option` and accepts exactly what the writer beside it produces.
//!
//! ```
//! use leash_tag::{Limits, Mark, RunId, WorkerNumber};
//!
//! let run = RunId::parse(b"s59m65f").unwrap();
//! let worker = WorkerNumber::new(7).unwrap();
//! let mark = Mark::nested_in(Limits::UNLIMITED, run, Some(worker), false).unwrap();
//! assert_eq!(Mark::decode(mark.limits()), Some(mark));
//! ```
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod argv;
mod build_mark;
mod decimal;
mod limits_file;
mod mark;
mod number;
mod owner_tag;
mod quiescence;
mod run_id;
pub mod signal;
pub mod stop_steps;
mod worker_number;

pub use mark::{Limits, Mark, NoDepthLeft};
pub use number::parse_number;
pub use owner_tag::{BootTag, ENV_NAME, OwnerTag};
pub use quiescence::{PassResult, Quiescence};
pub use run_id::{InvalidRunId, RunId};
pub use worker_number::WorkerNumber;
