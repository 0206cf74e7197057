//! Reads the environment of the emulator.

use std::ffi::{CStr, c_char, c_int, c_void};

/// The size of the first read, in bytes; a longer value is read again.
const FIRST: usize = 1024;

/// The upper bound: no program gets a larger environment (execve(2)).
const MOST: usize = 16 << 20;

/// The type of enif_getenv(3), which rustler 0.39 does not have.
type GetEnv = unsafe extern "C" fn(*const c_char, *mut c_char, *mut usize) -> c_int;

/// Returns the bytes of a variable's value.
pub(crate) fn variable(name: &CStr) -> Option<Vec<u8>> {
    // SAFETY: the name ends in NUL. The emulator exports the function for libraries such as this
    // one.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"enif_getenv".as_ptr()) };
    if found.is_null() {
        return None;
    }
    // SAFETY: erl_nif(3) gives this signature.
    let getenv = unsafe { std::mem::transmute::<*mut c_void, GetEnv>(found) };
    let mut value = vec![0u8; FIRST];
    loop {
        let mut size = value.len();
        // SAFETY: the name ends in NUL, and `size` is how many bytes the buffer holds.
        match unsafe { getenv(name.as_ptr(), value.as_mut_ptr().cast(), &raw mut size) } {
            0 => {
                value.truncate(size);
                return Some(value);
            }
            // The buffer is too small. Contrary to erl_nif(3), `size` is not the size needed
            // (sys_env.c of OTP 25 to 29).
            1.. if value.len() < MOST => value.resize(value.len() * 4, 0),
            _ => return None,
        }
    }
}
