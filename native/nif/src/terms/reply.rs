//! The answers of a NIF: `:ok`, `{:ok, value}`, `{:error, reason}`, `:again`.

use super::atoms;
use super::failure::Reason;
use crate::sys::{Fd, OwnerGone, Readiness};
use rustler::{Encoder, Env, Term};
use std::os::fd::OwnedFd;

/// Returns `{:ok, value}`.
pub(crate) fn ok<'a>(env: Env<'a>, value: impl Encoder) -> Term<'a> {
    (atoms::ok(), value).encode(env)
}

/// Returns `{:error, reason}`.
pub(crate) fn error<'a>(env: Env<'a>, reason: impl Into<Reason>) -> Term<'a> {
    (atoms::error(), reason.into()).encode(env)
}

/// `:ok`, or `{:error, reason}`, for a call that has no other result.
pub(crate) struct Done(pub(crate) Result<(), Reason>);

impl Encoder for Done {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        match &self.0 {
            Ok(()) => atoms::ok().encode(env),
            Err(reason) => (atoms::error(), reason).encode(env),
        }
    }
}

/// Returns a descriptor that belongs to the caller. The caller is running, so it cannot be gone.
pub(crate) fn new_fd(env: Env<'_>, descriptor: OwnedFd) -> Result<Fd, OwnerGone> {
    Fd::new(env, descriptor, &env.pid())
}

/// Arms the descriptor, and returns `answer`: `:again`, or `{:again, n}` to a write. The caller
/// gets `{:leash_fd, fd, :ready | :writable}`.
pub(crate) fn again<'a>(
    env: Env<'a>,
    (fd, term): (&Fd, Term<'a>),
    readiness: Readiness,
    answer: impl Encoder,
) -> Result<Term<'a>, Reason> {
    let word = match readiness {
        Readiness::Read => atoms::ready(),
        Readiness::Write => atoms::writable(),
    };
    fd.arm(env, readiness, (atoms::leash_fd(), term, word).encode(env))?;
    Ok(answer.encode(env))
}

/// Returns what the call answered, or `{:error, reason}`. A `Result` itself would be encoded as
/// `{:ok, answer}`.
pub(crate) fn answer<'a>(env: Env<'a>, outcome: Result<Term<'a>, Reason>) -> Term<'a> {
    outcome.unwrap_or_else(|reason| error(env, reason))
}
