//! The owner of a run as a carrier or record names it, and whether that process still lives.

use crate::os::pid::Pid;
use crate::procfs::clock::{SameStart, same_start};
use crate::procfs::host::Host;
use crate::procfs::parse::stat::Stat;
use crate::procfs::root::PidStatus;
use crate::runs::record::Owner;
use leash_tag::{BootTag, OwnerTag};
use serde::Serialize;
use std::fmt;

/// An owner as a carrier or record names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OwnerRef {
    /// The VM.
    pub pid: Pid,
    /// The VM's start in the machine's clock ticks.
    pub start_ticks: u64,
    /// The inode of the VM's pid namespace.
    pub pid_ns: u64,
    /// The VM's boot.
    pub boot: BootTag,
}

/// The carrier or record that names an owner.
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

/// The state of an owner, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnerState {
    /// The owner lives.
    Alive,
    /// Provably gone: `pidfd_open` finds no holder of the number, another process has the
    /// number, or the owner has ended.
    Gone,
    /// The owner belongs to another boot, or to another machine.
    OtherBoot,
    /// The owner's number belongs to another pid namespace.
    ForeignNamespace,
    /// Neither is proven. Absence from `/proc` alone gives this state.
    Unknown,
}

impl OwnerRef {
    /// Returns the owner that an environment tag names.
    #[must_use]
    pub fn of_env(tag: &OwnerTag) -> Option<Self> {
        let OwnerTag { pid, start_ticks, pid_ns, boot, .. } = *tag;
        Some(Self { pid: Pid::from_u32(pid)?, start_ticks, pid_ns, boot })
    }

    /// Returns the owner that a record names.
    #[must_use]
    pub fn of_record(owner: &Owner) -> Option<Self> {
        Some(Self {
            pid: Pid::from_u32(owner.pid)?,
            start_ticks: owner.start_ticks,
            pid_ns: owner.pid_ns,
            boot: BootTag::of_boot_id(owner.boot_id.as_bytes())?,
        })
    }

    /// Checks whether this owner lives now.
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
        let pid_status = host.proc().pid_status(self.pid);
        let stat = match &pid_status {
            PidStatus::Free => return OwnerState::Gone,
            PidStatus::Unknown => return OwnerState::Unknown,
            PidStatus::Process(_) | PidStatus::Thread | PidStatus::Unheld => {
                host.stat(self.pid, &mut Vec::new()).ok()
            }
        };
        // The check for an end comes after the stat file was read. A descriptor that has not
        // ended had the number all along.
        let ended = match &pid_status {
            PidStatus::Process(Some(pidfd)) => pidfd.is_ended(),
            PidStatus::Process(None) => {
                stat.as_ref().is_some_and(|stat| matches!(stat.state, 'Z' | 'X'))
            }
            PidStatus::Unheld => stat.as_ref().is_some_and(Stat::is_ended),
            _ => false,
        };
        match stat.map(|stat| same_start(stat.start_ticks, self.start_ticks)) {
            Some(SameStart::No) => OwnerState::Gone,
            Some(SameStart::Yes) if ended => OwnerState::Gone,
            // A thread that started in the owner's very tick may or may not have the owner's
            // number.
            Some(SameStart::Yes) if !matches!(pid_status, PidStatus::Thread) => OwnerState::Alive,
            Some(_) => OwnerState::Unknown,
            // The process that had the number when the descriptor was opened has ended.
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
