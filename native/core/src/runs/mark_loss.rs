//! The ways in which processes that a VM starts can be without its mark.

use crate::os::pid::Pid;
use crate::os::syscalls;
use crate::procfs::host::Host;
use crate::procfs::parse::{cgroup, status};
use leash_tag::{Mark, RunId};
use serde::{Deserialize, Serialize};

/// The ways in which processes of a run can be without its mark.
///
/// This is part of the run's record, because it is needed after the end of the run's VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkLoss {
    /// Whether no process of the run has a mark. The VM could not set one: a limit below it, a
    /// filter, or eight runs nested.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unmarked: bool,
    /// Whether a descendant can have reset its mark. CAP_SYS_RESOURCE is in the VM's bounding
    /// set, so PAM's `pam_limits` below `su` and `sudo` may do so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resettable: bool,
    /// The VM's control group, if it tells services and sessions apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_group: Option<String>,
    /// The VM's ancestors, each with pid and start ticks. One of them may adopt orphans in place
    /// of pid 1 (`tini -s`, a service manager, `PR_SET_CHILD_SUBREAPER`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ancestors: Vec<(u32, u64)>,
}

impl MarkLoss {
    /// The losses that are possible below the calling process.
    #[must_use]
    pub fn current(host: &Host) -> Self {
        let me = host.me().pid;
        Self {
            unmarked: !can_mark(host),
            // If the set cannot be read, the capability may be there.
            resettable: has_sys_resource(host, b"CapBnd:").unwrap_or(true),
            control_group: service_group(host, me).and_then(|path| String::from_utf8(path).ok()),
            ancestors: ancestors(host),
        }
    }
}

fn ancestors(host: &Host) -> Vec<(u32, u64)> {
    let mut buffer = Vec::new();
    let identity =
        |pid: &Pid| Some((pid.as_u32(), host.stat(*pid, &mut buffer).ok()?.start_ticks));
    host.ancestors().iter().filter_map(identity).collect()
}

/// Whether the calling process can give a mark to what it starts.
pub(crate) fn can_mark(host: &Host) -> bool {
    let Ok(limits) = host.proc().limits(host.me().pid, &mut Vec::new()) else { return false };
    // Any id will do, because the bits above it decide whether the limit has to be raised.
    let fits = RunId::from_number(1)
        .and_then(|run| Mark::nested_in(limits, run, None, false).ok())
        .is_some_and(|mark| {
            mark.limits().hard <= limits.hard || has_sys_resource(host, b"CapEff:") == Some(true)
        });
    fits && syscalls::may_set_own_file_locks(limits)
}

/// Whether one of the calling process's capability sets has CAP_SYS_RESOURCE; `None` if that
/// cannot be read.
fn has_sys_resource(host: &Host, set: &[u8]) -> Option<bool> {
    let mut text = Vec::new();
    host.proc().read_of(host.me().pid, "status", 8192, &mut text).ok()?;
    status::has_sys_resource(&text, set)
}

/// The control group of a process, if it tells services and sessions apart.
pub(crate) fn service_group(host: &Host, pid: Pid) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    host.proc().read_of(pid, "cgroup", 65_536, &mut text).ok()?;
    cgroup::service(&text).map(<[u8]>::to_vec)
}
