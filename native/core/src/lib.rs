//! Tells which processes are ours and which runs are over, and ends what is left, without a BEAM.
//!
//! The crate is a house of seven floors. A file imports only from its own floor and from lower
//! ones (`tests/floors.rs`). From the ground up:
//!
//! | floor | question | answered by |
//! |---|---|---|
//! | os | Which numbers, descriptors and signals does the kernel know? | [`Pid`], [`PidFd`], [`Signal`], [`Error`] |
//! | procfs | Where are we? Which process is this? Is it still that one? | [`Host`], [`ProcRoot`], [`BootClock`], [`parse`], [`Identity`], [`identify`], [`Handle`] |
//! | runs | Which runs are recorded, and does a run's owner live? | [`RunDir`], [`RunLock`], [`Record`], [`generate_run_id`], [`OwnerRef`], [`OwnerState`] |
//! | tags | What do processes say about themselves? | [`scan()`], [`TaggedProcess`], [`Carrier`], [`Ladder`] |
//! | policy | Is a run dead? May a process be ended, or signalled at all? | [`Policy`], [`Verdict`], [`Workers`], [`refusal()`] |
//! | inspect | What do a run's trees use? Which trees outlive their VM? | [`usage()`], [`detached()`], [`not_covered()`], [`capabilities()`] |
//! | cleanup | How are processes ended, and what became of each? | [`Cleanup`], [`CleanupSpec`], [`Report`] |
//!
//! Nothing here waits. The driver of a [`Cleanup`] steps it, and waits in between as it likes.
//!
//! Nothing innocent is signalled. Each signal goes through a pidfd, after one more look at
//! identity, tag and verdict.
//!
//! ```
//! use leash_core::{Cleanup, CleanupKind, CleanupSpec, Ladder, Mode};
//! use std::time::Duration;
//!
//! let mut cleanup = Cleanup::new(CleanupSpec {
//!     kind: CleanupKind::Sweep { own_run: None, app: None, mode: Mode::Report },
//!     ladder: Ladder::default(),
//!     deadline: Duration::from_secs(10),
//!     run_dir: None,
//!     records_unusable: false,
//! })?;
//! let report = cleanup.run();
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
pub use cleanup::spec::{CleanupKind, CleanupSpec, Mode};
pub use cleanup::state_machine::{Cleanup, Step};
pub use inspect::capabilities::{Capabilities, capabilities};
pub use inspect::detached::{AllDetached, Detached, detached, open_detached};
pub use inspect::not_covered::{NotCovered, Why, not_covered};
pub use inspect::usage::{ProcessUsage, UsageQuery, usage};
pub use os::error::{Error, ErrorKind, Result};
pub use os::pid::Pid;
pub use os::pidfd::PidFd;
pub use os::reserve::{reserve_descriptors, with_reserve};
pub use os::signal::Signal;
pub use os::user_ids::Uids;
pub use policy::evidence::{Policy, Requester};
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
pub use runs::owner::{OwnerRef, OwnerState, Source};
pub use runs::record::{
    self, About, Owner, Record, RecordedAttachment, RecordedCommand, RecordedName,
};
pub use runs::record_file::{Lock, RecordFile, Records, socket_name};
pub use runs::run_dir::RunDir;
pub use runs::run_lock::{RunLock, generate_run_id};
pub use runs::worker_group::{
    GroupError, GroupName, GroupPlace, GroupUsage, group_place, group_usage, make_group,
    remove_group,
};
pub use tags::carrier::Carrier;
pub use tags::ladder::Ladder;
pub use tags::process_reader::Carriers;
pub use tags::scan::{Incomplete, Scan, ScanOptions, SkipMark, count_marked, scan};
pub use tags::shim::ShimDescription;
pub use tags::tagged_process::{Recorded, TaggedProcess};
