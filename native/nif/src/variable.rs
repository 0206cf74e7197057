//! The VM's own environment, which has been separate from the C library's since OTP 21.

use crate::terms::map::Bytes;
use rustler::Binary;
use std::ffi::CString;

/// `variable(name) :: binary | nil`
///
/// Returns the bytes of one variable of the VM.
///
/// Normal scheduler: one look-up, and a copy of at most the size that execve(2) accepts.
#[rustler::nif]
fn variable(name: Binary<'_>) -> Option<Bytes> {
    let name = CString::new(name.as_slice()).ok()?;
    crate::sys::variable(&name).map(Bytes)
}
