//! Who is said to own a run, and whether that process still lives.

use crate::clock::{SameStart, same_start};
use crate::host::Host;
use crate::parse::stat::Stat;
use crate::proc_root::Holder;
use crate::record::Owner;
use crate::{Pid, Seen};
use leash_tag::{BootTag, OwnerTag};
use serde::Serialize;
use std::fmt;

/// An owner as a carrier or record names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// The VM.
    pub pid: Pid,
    /// Its start in the machine's clock ticks.
    pub start_ticks: u64,
    /// The inode of its pid namespace.
    pub pid_ns: u64,
    /// Its boot.
    pub boot: BootTag,
}

/// Who made a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The run's record.
    Record,
    /// The environment tag of a process of the run.
    Env,
    /// The `--owner` of a shim of the run.
    Argv,
}

/// What is known of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnerState {
    /// It lives.
    Alive,
    /// Provably gone: `pidfd_open` says nobody has the number, or another process has it, or it has ended.
    Gone,
    /// It belongs to another boot, or another machine.
    OtherBoot,
    /// Its number belongs to another pid namespace.
    ForeignNamespace,
    /// Neither proven. Absence from `/proc` alone is this.
    Unknown,
}

impl Claim {
    /// The claim of an environment tag.
    #[must_use]
    pub fn of_env(tag: &OwnerTag) -> Option<Self> {
        let OwnerTag { pid, start_ticks, pid_ns, boot, .. } = *tag;
        Some(Self { pid: Pid::from_u32(pid)?, start_ticks, pid_ns, boot })
    }

    /// The claim of a record.
    #[must_use]
    pub fn of_record(owner: &Owner) -> Option<Self> {
        Some(Self {
            pid: Pid::from_u32(owner.pid)?,
            start_ticks: owner.start_ticks,
            pid_ns: owner.pid_ns,
            boot: BootTag::of_boot_id(owner.boot_id.as_bytes())?,
        })
    }

    /// The claim of a shim's own command line, where the process is known as a shim of this user by another
    /// carrier too, or as a warden by the program that it executes.
    ///
    /// It names neither namespace nor boot: a shim that we see runs in this boot, and that its number is one of our
    /// namespace is only believed of a shim in our namespace.
    #[must_use]
    pub fn of_shim(host: &Host, seen: &Seen) -> Option<Self> {
        let (pid, start_ticks) = seen.shim_of(host.uid())?.owner?;
        let pid_ns = host.pid_ns()?;
        let ours = host.proc().namespace(&format!("{}/ns/pid", seen.identity.pid)) == Ok(pid_ns);
        ours.then_some(Self { pid, start_ticks, pid_ns, boot: host.boot()? })
    }

    /// Looks whether this owner lives, now.
    #[must_use]
    pub fn state(&self, host: &Host) -> OwnerState {
        let (Some(boot), Some(pid_ns)) = (host.boot(), host.pid_ns()) else {
            return OwnerState::Unknown;
        };
        if self.boot != boot {
            return OwnerState::OtherBoot;
        }
        if self.pid_ns != pid_ns {
            return OwnerState::ForeignNamespace;
        }
        let holder = host.proc().holder(self.pid);
        let stat = match &holder {
            Holder::Nobody => return OwnerState::Gone,
            Holder::Unknown => return OwnerState::Unknown,
            Holder::Process(_) | Holder::Thread | Holder::Unheld => {
                host.stat(self.pid, &mut Vec::new()).ok()
            }
        };
        // Ended is asked after the number was read: a descriptor that has not ended had the number all along.
        let ended = match &holder {
            Holder::Process(Some(pidfd)) => pidfd.is_ended(),
            Holder::Process(None) => {
                stat.as_ref().is_some_and(|stat| matches!(stat.state, 'Z' | 'X'))
            }
            Holder::Unheld => stat.as_ref().is_some_and(Stat::is_ended),
            _ => false,
        };
        match stat.map(|stat| same_start(stat.start_ticks, self.start_ticks)) {
            Some(SameStart::No) => OwnerState::Gone,
            Some(SameStart::Yes) if ended => OwnerState::Gone,
            // A thread that started in the owner's very tick: its number may be the owner's or not.
            Some(SameStart::Yes) if !matches!(holder, Holder::Thread) => OwnerState::Alive,
            Some(SameStart::Unsure) if !ended => OwnerState::Unknown,
            Some(_) => OwnerState::Unknown,
            // Whoever had the number when the descriptor was opened has ended.
            None if ended => OwnerState::Gone,
            None => OwnerState::Unknown,
        }
    }
}

impl fmt::Display for OwnerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Alive => "alive",
            Self::Gone => "gone",
            Self::OtherBoot => "of another boot",
            Self::ForeignNamespace => "in another pid namespace",
            Self::Unknown => "unknown",
        })
    }
}
