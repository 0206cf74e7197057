//! The answers of a NIF: `:ok`, `{:ok, value}`, `{:error, reason}`.

use rustix::io::Errno;
use rustler::{Atom, Encoder, Env, Term};

/// The atoms of this crate. All of them are fixed: none is ever made from input.
pub(crate) mod atoms {
    rustler::atoms! {
        // Answers.
        ok, error, nil, eof, again, wait, done, stdin, stdout, stderr, spawned,
        // Descriptors of a worker, and the requests to a shim.
        none, pipe, inherit, kill,
        // Messages.
        leash_fd, leash_hunt, ready, writable,
        // Reasons.
        busy, closed, corrupt, eacces, eexist, enosys, enotdir, eperm, errno, esrch, foreign_owner, invalid,
        loose_permissions, no_proc, no_working_directory, noproc, not_ours, not_pollable, refused, reused, symlink, unknown,
        // Types of files.
        device, directory, other, r#type = "type",
        // Refusals.
        ancestor, kernel_thread, pid_1, vm,
        // The keys and values of a hunt's specification.
        adopted, app, attached, deadline, end, kind, ladder, mode, outliving, own_run_id, pid, pidfs_inode, process, report, run,
        run_dir, run_id, scope, start_ticks, sweep, unmarked, user, workers,
    }
}

/// Returns `{:ok, value}`.
pub(crate) fn ok<'a>(env: Env<'a>, value: impl Encoder) -> Term<'a> {
    (atoms::ok(), value).encode(env)
}

/// Returns `{:error, reason}`.
pub(crate) fn error<'a>(env: Env<'a>, reason: impl Encoder) -> Term<'a> {
    (atoms::error(), reason).encode(env)
}

/// Returns `{:error, :epipe}` and the like.
pub(crate) fn errno<'a>(env: Env<'a>, errno: Errno) -> Term<'a> {
    error(env, errno_term(env, errno))
}

/// Returns the errno's name in lower case, as `:file` and `:inet` have it. An errno without a
/// name is `{:errno, number}`.
pub(crate) fn errno_term(env: Env<'_>, errno: Errno) -> Term<'_> {
    let number = errno.raw_os_error();
    let named = nix::errno::Errno::from_raw(number);
    if named != nix::errno::Errno::UnknownErrno {
        let name = format!("{named:?}").to_ascii_lowercase();
        if let Ok(atom) = Atom::from_bytes(env, name.as_bytes()) {
            return atom.encode(env);
        }
    }
    (atoms::errno(), number).encode(env)
}
