//! Why a call failed, as the `reason` of `{:error, reason}`.

use super::atoms;
use super::map::Bytes;
use crate::sys::{ArmError, OwnerGone};
use leash_core::{Error, ErrorKind, GroupError, Refusal};
use rustix::io::Errno;
use rustler::{Atom, Encoder, Env, Term};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A reason to match on. A NIF that returns `Result<T, Reason>` answers `{:ok, value}` or
/// `{:error, reason}`.
#[derive(Debug)]
pub(crate) enum Reason {
    /// An atom that says all.
    Atom(Atom),
    /// `{:invalid, key}`: the argument, or this key of it, has no meaning.
    Invalid(Atom),
    /// `{:type, type}`: a file of a type that cannot be a program.
    Type(Atom),
    /// The name of an errno in lower case, as `:file` and `:inet` have it. An errno without a
    /// name is `{:errno, number}`.
    Errno(Errno),
    /// The core's error about a process. It does not repeat the pid, which came from the caller.
    Process(Error),
    /// `{reason, path}` about the run directory or a record, or `reason` if there is no path.
    File(Error),
    /// `:no_cgroup2`, `{:no_controller, name, path}`, or a reason and the path that it is about.
    Group(GroupError),
    /// `{:pty, posix}`: there is no terminal.
    Terminal(Errno),
    /// `{:refused, :vm | :ancestor | :kernel_thread | :pid_1}`: Leash never signals the process.
    Refused(Refusal),
}

impl From<Atom> for Reason {
    fn from(atom: Atom) -> Self {
        Self::Atom(atom)
    }
}

impl From<Errno> for Reason {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<OwnerGone> for Reason {
    fn from(_: OwnerGone) -> Self {
        Self::Atom(atoms::noproc())
    }
}

impl From<ArmError> for Reason {
    fn from(error: ArmError) -> Self {
        Self::Atom(match error {
            ArmError::Closed => atoms::closed(),
            ArmError::Refused => atoms::not_pollable(),
        })
    }
}

impl Encoder for Reason {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        match self {
            Self::Atom(atom) => atom.encode(env),
            Self::Invalid(key) => (atoms::invalid(), key).encode(env),
            Self::Type(kind) => (atoms::r#type(), kind).encode(env),
            Self::Errno(errno) => errno_term(env, *errno),
            Self::Terminal(errno) => (atoms::pty(), errno_term(env, *errno)).encode(env),
            Self::Process(failure) => core_error(env, failure),
            Self::File(failure) => match failure.subject() {
                Some(path) => (core_error(env, failure), path).encode(env),
                None => core_error(env, failure),
            },
            Self::Group(failure) => group_error(env, failure),
            Self::Refused(why) => (atoms::refused(), refusal(*why)).encode(env),
        }
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

fn core_error<'a>(env: Env<'a>, failure: &Error) -> Term<'a> {
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
        _ => match failure.errno() {
            Some(errno) => return errno_term(env, Errno::from_raw_os_error(errno)),
            None => atoms::unknown(),
        },
    };
    atom.encode(env)
}

fn group_error<'a>(env: Env<'a>, failure: &GroupError) -> Term<'a> {
    let about = |path: &Path| Bytes(path.as_os_str().as_bytes().to_vec());
    match failure {
        GroupError::NoHierarchy => atoms::no_cgroup2().encode(env),
        GroupError::NotAGroup(path) => (atoms::no_cgroup(), about(path)).encode(env),
        GroupError::NoController(name, path) => {
            (atoms::no_controller(), name, about(path)).encode(env)
        }
        GroupError::Occupied(path) => (atoms::occupied(), about(path)).encode(env),
        GroupError::Busy(path) => (atoms::busy(), about(path)).encode(env),
        GroupError::File(errno, path) => {
            (errno_term(env, Errno::from_raw_os_error(*errno)), about(path)).encode(env)
        }
    }
}

fn errno_term(env: Env<'_>, errno: Errno) -> Term<'_> {
    let number = errno.raw_os_error();
    let named = nix::errno::Errno::from_raw(number);
    if named != nix::errno::Errno::UnknownErrno {
        let name = format!("{named:?}").to_ascii_lowercase();
        if let Ok(atom) = Atom::from_str(env, &name) {
            return atom.encode(env);
        }
    }
    (atoms::errno(), number).encode(env)
}
