//! The VM's own environment, which has been separate from the C library's since OTP 21.

use crate::reply::atoms;
use rustler::{Binary, Encoder, Env, NewBinary, Term};
use std::ffi::CString;

/// `variable(name) :: binary | nil`
///
/// Returns the bytes of one variable of the VM.
///
/// Normal scheduler: one look-up, and a copy of at most the size that execve(2) accepts.
#[rustler::nif]
fn variable<'a>(env: Env<'a>, name: Binary<'a>) -> Term<'a> {
    let value = CString::new(name.as_slice()).ok().and_then(|name| crate::sys::variable(&name));
    match value {
        Some(value) => Binary::from(NewBinary::from_slice(env, &value)).encode(env),
        None => atoms::nil().encode(env),
    }
}
