//! User, groups and capabilities of this process (credentials(7), capabilities(7)).

use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

/// Calls setgroups(2), setresgid(2) and setresuid(2), each if asked for. The order matters:
/// without the rights of the old uid, the others fail.
///
/// # Errors
///
/// `EPERM` without the capabilities, `EINVAL`.
pub(crate) fn become_user(
    groups: Option<&[Gid]>,
    gid: Option<u32>,
    uid: Option<u32>,
) -> Result<(), Errno> {
    if let Some(groups) = groups {
        rustix::thread::set_thread_groups(groups)?;
    }
    if let Some(gid) = gid.map(Gid::from_raw) {
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    }
    if let Some(uid) = uid.map(Uid::from_raw) {
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    }
    Ok(())
}

/// Returns whether this process may signal processes of that user (kill(2)).
pub(crate) fn may_signal(uid: u32) -> bool {
    let uid = Uid::from_raw(uid);
    uid == rustix::process::getuid()
        || uid == rustix::process::geteuid()
        || rustix::thread::capabilities(None)
            .is_ok_and(|sets| sets.effective.contains(CapabilitySet::KILL))
}

/// Makes the permitted capabilities outlast the change from root to another user. Exec ends that.
///
/// # Errors
///
/// `EPERM`: the securebits forbid it.
pub(crate) fn keep_over_change_of_ids() -> Result<(), Errno> {
    rustix::thread::set_keep_capabilities(true)
}

/// Leaves this process, and what it executes, these capabilities alone: all sets but the bounding
/// set hold them and no others.
///
/// # Errors
///
/// `EPERM` for one that this process does not have.
pub(crate) fn keep_only(kept: CapabilitySet) -> Result<(), Errno> {
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: kept };
    rustix::thread::set_capabilities(None, sets)?;
    drop_ambient()?;
    for capability in kept.iter() {
        rustix::thread::configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

/// Empties the ambient set. The kernel does so itself if root becomes another user.
///
/// # Errors
///
/// None on a kernel that has the set (Linux 4.3).
pub(crate) fn drop_ambient() -> Result<(), Errno> {
    match rustix::thread::clear_ambient_capability_set() {
        Err(Errno::INVAL) => Ok(()),
        result => result,
    }
}
