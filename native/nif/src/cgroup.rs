//! Control groups of workers. The core makes, reads and removes them.

use crate::terms::args::{List, path};
use crate::terms::failure::Reason;
use crate::terms::map::{Bytes, map};
use crate::terms::reply::{Done, answer, ok};
use leash_core::GroupName;
use rustler::{Binary, Env, NifResult, Term};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `cgroup_place(path) :: {:ok, %{parent: path, controllers: [name]}} | {:error, reason}`
///
/// Finds the group below which those of workers are made: `path`, or if that is empty the VM's.
///
/// Dirty I/O: reads files of control groups.
#[rustler::nif(schedule = "DirtyIo")]
fn cgroup_place<'a>(env: Env<'a>, configured: Binary<'a>) -> Term<'a> {
    let configured: Option<&Path> = (!configured.is_empty()).then(|| path(&configured));
    let place = leash_core::group_place(configured).map_err(Reason::Group);
    let term = place.map(|place| {
        let parent = Bytes(place.parent.as_os_str().as_bytes().to_vec());
        ok(env, map!(env, parent: parent, controllers: place.controllers))
    });
    answer(env, term)
}

/// `cgroup_make(parent, name, [{file, text}]) :: {:ok, path} | {:error, reason}`
///
/// Makes the group of a worker and writes its limits, all or nothing. The name is that of
/// [`GroupName`].
///
/// Dirty I/O: the kernel may wait for its lock of all control groups.
#[rustler::nif(schedule = "DirtyIo")]
fn cgroup_make<'a>(
    env: Env<'a>,
    parent: Binary<'a>,
    name: String,
    limits: List<(String, String)>,
) -> NifResult<Term<'a>> {
    GroupName::parse(name.as_bytes()).ok_or(rustler::Error::BadArg)?;
    let made = leash_core::make_group(path(&parent), &name, limits.as_slice());
    let made = made.map_err(Reason::Group);
    Ok(answer(env, made.map(|made| ok(env, Bytes(made.as_os_str().as_bytes().to_vec())))))
}

/// `cgroup_usage(path) :: %{oom_killed: boolean | nil, peak_memory: bytes | nil,
/// cpu_time: microseconds | nil}`
///
/// Returns what a group has used. What cannot be read is nil.
///
/// Dirty I/O: reads files of control groups.
#[rustler::nif(schedule = "DirtyIo")]
fn cgroup_usage<'a>(env: Env<'a>, group: Binary<'a>) -> Term<'a> {
    let usage = leash_core::group_usage(path(&group));
    map!(env,
        oom_killed: usage.oom_killed,
        peak_memory: usage.peak_memory,
        cpu_time: usage.cpu_time,
    )
}

/// `cgroup_remove(path, kill?) :: :ok | {:error, {:busy, path} | reason}`
///
/// Removes the group of a worker. With `kill?`, a process that is left in it gets SIGKILL, and
/// `:busy` says that the group can be removed in a moment.
///
/// Dirty I/O: the kernel may wait for its lock of all control groups.
#[rustler::nif(schedule = "DirtyIo")]
fn cgroup_remove(group: Binary<'_>, kill: bool) -> NifResult<Done> {
    let path = path(&group);
    let name = path.file_name().and_then(|name| GroupName::parse(name.as_bytes()));
    name.ok_or(rustler::Error::BadArg)?;
    Ok(Done(leash_core::remove_group(path, kill).map_err(Reason::Group)))
}
