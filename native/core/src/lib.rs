//! Tells which processes are ours and which runs are over, and ends what is left, without a BEAM.
//!
//! | question | where |
//! |---|---|
//! | Which process is this? Is it still that one? | [`Pid`], [`Identity`], [`identify`], [`Handle`], [`PidFd`] |
//! | May it be signalled at all? | [`refusal()`], [`Signal`] |
//! | Where are we? | [`Host`], [`ProcRoot`], [`BootClock`], [`capabilities()`] |
//! | What do processes say about themselves? | [`parse`], [`scan()`], [`Seen`], [`Carrier`] |
//! | What do a run's trees consist of and use? | [`census()`], [`Member`] |
//! | Which runs are recorded? | [`RunDir`], [`RunLock`], [`Record`], [`generate_run_id`] |
//! | Does a run's owner live? | [`Claim`], [`OwnerState`] |
//! | Is a run dead, may a process be ended? | [`Judge`], [`Verdict`] |
//! | Which trees outlive their VM on purpose? | [`detached()`], [`Detached`] |
//! | How are they ended, and what became of each? | [`Hunt`], [`Ladder`], [`Report`] |
//!
//! Nothing here waits. The driver of a [`Hunt`] steps it, and waits in between as it likes.
//!
//! Nothing innocent is signalled. Each signal goes through a pidfd, after one more look at
//! identity, tag and verdict.
//!
//! ```
//! use leash_core::{Hunt, HuntKind, HuntSpec, Ladder, Mode};
//! use std::time::Duration;
//!
//! let mut hunt = Hunt::new(HuntSpec {
//!     kind: HuntKind::Sweep { own_run: None, app: None, mode: Mode::Report },
//!     ladder: Ladder::default(),
//!     deadline: Duration::from_secs(10),
//!     run_dir: None,
//!     records_unusable: false,
//! })?;
//! let report = hunt.run();
//! assert_eq!(report.passes, 1);
//! # Ok::<(), leash_core::Error>(())
//! ```
#![deny(unsafe_code)]

mod attached;
mod capabilities;
mod carrier;
mod census;
mod children;
mod clock;
mod descent;
mod detached;
mod error;
mod hidden;
mod host;
mod hunt;
mod identity;
mod ladder;
mod mark_loss;
pub mod parse;
mod pass;
mod pid;
mod pidfd;
mod proc_root;
pub mod record;
mod record_file;
mod refusal;
pub mod report;
mod reserve;
mod run_dir;
mod run_lock;
mod scan;
mod seen;
mod sight;
mod signal;
mod strike;
mod sweep;
mod sys;
mod target;
mod verdict;
mod witness;
mod work;
mod worker_rule;

pub use attached::{NotCovered, Why, not_covered};
pub use capabilities::{Capabilities, capabilities};
pub use carrier::Carrier;
pub use census::{Census, Member, census};
pub use clock::{BootClock, SameStart, same_start};
pub use detached::{AllDetached, Detached, detached, open_detached};
pub use error::{Error, ErrorKind, Result};
pub use host::Host;
pub use hunt::{Hunt, HuntKind, HuntSpec, Mode, Step};
pub use identity::{Handle, Identity, identify};
pub use ladder::Ladder;
pub use mark_loss::MarkLoss;
pub use pid::Pid;
pub use pidfd::PidFd;
pub use proc_root::ProcRoot;
pub use record::{About, Owner, Record, RecordedAttachment, RecordedCommand};
pub use record_file::{Lock, RecordFile, Records, socket_name};
pub use refusal::{Refusal, refusal};
pub use report::Report;
pub use reserve::{reserve_descriptors, with_reserve};
pub use run_dir::RunDir;
pub use run_lock::{RunLock, generate_run_id};
pub use scan::{Incomplete, Scan, ScanOptions, SkipMark, count_marked, scan};
pub use seen::{Carriers, Recorded, Seen, ShimSeen};
pub use signal::Signal;
pub use verdict::{Asker, Decision, Judge, RunJudgement, Verdict};
pub use witness::{Claim, OwnerState, Source};
pub use worker_rule::{Adopted, Workers};
