//! Maps with atom keys, and the values that rustler has no encoder for.
//!
//! A name from the source becomes an atom. Data from the machine becomes a binary, because an
//! atom is never collected.
//!
//! rustler derives `NifMap` for a struct of this crate. For a struct of the core, which knows no
//! terms, [`map!`] takes the place of a copy with that derive.

use rustler::{Atom, Encoder, Env, NewBinary, Term};
use serde::Serialize;
use std::fmt;

/// Returns a map: `map!(env, pid: 4711, command: "sleep 60")` is
/// `%{pid: 4711, command: "sleep 60"}`.
macro_rules! map {
    ($env:expr, $($key:ident: $value:expr),+ $(,)?) => {{
        mod keys {
            rustler::atoms! { $($key),+ }
        }
        let env: rustler::Env<'_> = $env;
        let keys = [$(rustler::Encoder::encode(&keys::$key(), env)),+];
        let values = [$(rustler::Encoder::encode(&$value, env)),+];
        // The call fails only if a key is there twice.
        rustler::Term::map_from_term_arrays(env, &keys, &values)
            .unwrap_or_else(|_| rustler::Term::map_new(env))
    }};
}
pub(crate) use map;

/// A variant without fields, as the atom that the core's JSON spells as a string.
pub(crate) struct Name<T>(pub(crate) T);

impl<T: Serialize> fmt::Display for Name<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.serialize(f)
    }
}

impl<T: Serialize> Encoder for Name<T> {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        atom(env, &self.to_string())
    }
}

/// Returns the atom of a name from the source. `nil` takes the place of a name that is too long.
pub(crate) fn atom<'a>(env: Env<'a>, name: &str) -> Term<'a> {
    Atom::from_str(env, name).ok().encode(env)
}

/// Bytes that need not be UTF-8, as a binary. rustler encodes a `Vec<u8>` as a list of numbers.
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl Encoder for Bytes {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        NewBinary::from_slice(env, &self.0).into()
    }
}

/// A state letter, as a binary of one character.
pub(crate) struct Letter(pub(crate) char);

impl Encoder for Letter {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        self.0.encode_utf8(&mut [0; 4]).encode(env)
    }
}
