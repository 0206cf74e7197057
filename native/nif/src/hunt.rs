//! Hunts. The core looks, judges and signals. The calling process waits in between.

use crate::sys::{Fd, Readiness};
use crate::terms::args::path;
use crate::terms::failure::Reason;
use crate::terms::hunt_spec::{Wrong, hunt as spec};
use crate::terms::map::{Name, map};
use crate::terms::reply::{error, new_fd};
use crate::terms::{atoms, report};
use leash_core::{Cleanup, Step};
use rustler::{Binary, Encoder, Env, Resource, ResourceArc, Term};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

struct Hunting {
    hunt: Mutex<Cleanup>,
    /// A second descriptor of the hunt's epoll, for the VM to poll. It is closed when the hunt is
    /// done or its caller ends.
    wake: Fd,
}

#[rustler::resource_impl]
impl Resource for Hunting {}

/// `hunt_new(spec) :: {:ok, hunt} | {:error, {:invalid, key} | reason | {reason, path}}`
///
/// Creates a hunt, which has not looked at anything yet. The process that calls this must also
/// make the steps.
///
/// Dirty I/O: opens the run directory.
#[rustler::nif(schedule = "DirtyIo")]
fn hunt_new<'a>(env: Env<'a>, map: Term<'a>) -> Result<ResourceArc<Hunting>, Reason> {
    let spec = spec(map).map_err(|Wrong(key)| Reason::Invalid(key))?;
    let hunt = Cleanup::new(spec).map_err(Reason::File)?;
    let wake = new_fd(env, rustix::io::fcntl_dupfd_cloexec(hunt.as_fd(), 3)?)?;
    Ok(ResourceArc::new(Hunting { hunt: Mutex::new(hunt), wake }))
}

/// `hunt_step(hunt) :: {:wait, ms} | {:done, report} | {:error, :busy | :unknown}`
///
/// Makes the next step. After `{:wait, ms}` step again in so many milliseconds, or when
/// `{:leash_hunt, hunt, :ready}` comes. If the hunt is done, a further step returns the same
/// report.
///
/// Dirty I/O: passes over `/proc`, sends signals.
#[rustler::nif(schedule = "DirtyIo")]
fn hunt_step<'a>(env: Env<'a>, hunt: Term<'a>) -> rustler::NifResult<Term<'a>> {
    let hunting: ResourceArc<Hunting> = hunt.decode()?;
    let step = match hunting.hunt.try_lock() {
        Ok(mut hunt) => hunt.step(Instant::now()),
        // A panic left half a step. The core's state is plain data, and every step begins with a
        // look.
        Err(TryLockError::Poisoned(poisoned)) => {
            PoisonError::into_inner(poisoned).step(Instant::now())
        }
        Err(TryLockError::WouldBlock) => return Ok(error(env, atoms::busy())),
    };
    Ok(match step {
        Step::Wait { until } => {
            let message = (atoms::leash_hunt(), hunt, atoms::ready()).encode(env);
            // If the process that made the hunt is gone, no message comes. Then the clock alone
            // drives the hunt.
            let _ = hunting.wake.arm(env, Readiness::Read, message);
            (atoms::wait(), milliseconds_until(until)).encode(env)
        }
        Step::Done(report) => {
            hunting.wake.close(env);
            (atoms::done(), report::report(env, &report)).encode(env)
        }
    })
}

/// Returns the time left, rounded up. Otherwise the last millisecond would be spent on steps.
fn milliseconds_until(until: Instant) -> u64 {
    let left = until.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
    u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
}

/// `capabilities(run_dir) :: map`
///
/// Returns the capabilities of this host.
///
/// Dirty I/O: reads `/proc`, opens the run directory.
#[rustler::nif(schedule = "DirtyIo")]
fn capabilities<'a>(env: Env<'a>, run_dir: Binary<'a>) -> Term<'a> {
    let dir: Option<&Path> = (!run_dir.is_empty()).then(|| path(&run_dir));
    let found = leash_core::capabilities(dir);
    map!(env,
        proc: found.proc,
        pidfd: found.pidfd,
        pidfs: found.pidfs,
        mark: found.mark,
        nested_depth_left: found.nested_depth_left,
        environ: found.environ,
        children_file: found.children_file,
        hidepid: found.hidepid,
        identity: found.identity,
        set_user: found.set_user,
        own_capabilities: found.own_capabilities,
        run_dir: found.run_dir,
        run_dir_error: found.run_dir_error.map(Name),
    )
}
