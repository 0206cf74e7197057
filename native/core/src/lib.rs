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

mod cleanup;
mod inspect;
mod os;
mod policy;
mod procfs;
mod runs;
mod tags;

pub use cleanup::report::{self, Report};
pub use cleanup::spec::{HuntKind, HuntSpec, Mode};
pub use cleanup::state_machine::{Hunt, Step};
pub use inspect::capabilities::{Capabilities, capabilities};
pub use inspect::detached::{AllDetached, Detached, detached, open_detached};
pub use inspect::not_covered::{NotCovered, Why, not_covered};
pub use inspect::usage::{Census, Member, census};
pub use os::error::{Error, ErrorKind, Result};
pub use os::pid::Pid;
pub use os::pidfd::PidFd;
pub use os::reserve::{reserve_descriptors, with_reserve};
pub use os::signal::Signal;
pub use os::user_ids::Uids;
pub use policy::evidence::{Asker, Judge};
pub use policy::refusal::{Refusal, refusal};
pub use policy::verdict::{Decision, RunJudgement, Verdict};
pub use policy::workers::{Adopted, Workers};
pub use procfs::clock::{BootClock, SameStart, same_start};
pub use procfs::host::Host;
pub use procfs::identify::{Handle, identify};
pub use procfs::identity::Identity;
pub use procfs::parse;
pub use procfs::root::ProcRoot;
pub use runs::mark_loss::MarkLoss;
pub use runs::owner::{Claim, OwnerState, Source};
pub use runs::record::{self, About, Owner, Record, RecordedAttachment, RecordedCommand};
pub use runs::record_file::{Lock, RecordFile, Records, socket_name};
pub use runs::run_dir::RunDir;
pub use runs::run_lock::{RunLock, generate_run_id};
pub use tags::carrier::Carrier;
pub use tags::ladder::Ladder;
pub use tags::process_reader::Carriers;
pub use tags::scan::{Incomplete, Scan, ScanOptions, SkipMark, count_marked, scan};
pub use tags::shim::ShimSeen;
pub use tags::tagged_process::{Recorded, Seen};
