//! The core's errors as reasons to match on.

use crate::reply::{atoms, errno_term, error};
use leash_core::{Error, ErrorKind, Refusal};
use rustix::io::Errno;
use rustler::{Atom, Encoder, Env, Term};

/// Returns `{:error, reason}` about a process. The reason does not repeat the pid, which came
/// from the caller.
pub(crate) fn of_process<'a>(env: Env<'a>, failure: &Error) -> Term<'a> {
    error(env, reason(env, failure))
}

/// Returns `{:error, {reason, path}}` about the run directory or a record, or `{:error, reason}`
/// if there is no path.
pub(crate) fn of_file<'a>(env: Env<'a>, failure: &Error) -> Term<'a> {
    let reason = reason(env, failure);
    match failure.subject() {
        Some(path) => error(env, (reason, path)),
        None => error(env, reason),
    }
}

/// Returns `:vm`, `:ancestor`, `:kernel_thread` or `:pid_1`.
pub(crate) fn refusal(refusal: Refusal) -> Atom {
    match refusal {
        Refusal::Pid1 => atoms::pid_1(),
        Refusal::Vm => atoms::vm(),
        Refusal::Ancestor => atoms::ancestor(),
        Refusal::KernelThread => atoms::kernel_thread(),
    }
}

fn reason<'a>(env: Env<'a>, failure: &Error) -> Term<'a> {
    let posix = || failure.errno().map(Errno::from_raw_os_error);
    let atom = match failure.kind() {
        ErrorKind::Gone => atoms::esrch(),
        ErrorKind::Reused => atoms::reused(),
        ErrorKind::NotPermitted => atoms::eperm(),
        ErrorKind::Unsupported => atoms::enosys(),
        ErrorKind::Symlink => atoms::symlink(),
        ErrorKind::NotADirectory => atoms::enotdir(),
        ErrorKind::ForeignOwner => atoms::foreign_owner(),
        ErrorKind::LoosePermissions => atoms::loose_permissions(),
        ErrorKind::NoProc => atoms::no_proc(),
        ErrorKind::Exists => atoms::eexist(),
        ErrorKind::Unknown => atoms::unknown(),
        // DescriptorsExhausted and Io: the kernel's errno says more.
        _ => {
            return posix()
                .map_or_else(|| atoms::unknown().encode(env), |errno| errno_term(env, errno));
        }
    };
    atom.encode(env)
}
