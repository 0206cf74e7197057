//! The memory functions that the compiler calls. Those of glibc are chosen at run time (IFUNC),
//! so they cannot be linked statically without its start files.
//!
//! Volatile accesses keep the compiler from turning a loop into a call of the very function that
//! contains it.
//!
//! # Safety
//!
//! As in C: the places have `len` bytes, and those of `memcpy` do not overlap.

use core::ffi::{c_int, c_void};

/// memcpy(3).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn memcpy(
    to: *mut c_void,
    from: *const c_void,
    len: usize,
) -> *mut c_void {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: both have `len` bytes, by the contract; the ABI keeps the direction flag clear.
    unsafe {
        core::arch::asm!("rep movsb", inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    for index in 0..len {
        // SAFETY: both have `len` bytes, by the contract.
        unsafe { to.cast::<u8>().add(index).write_volatile(*from.cast::<u8>().add(index)) };
    }
    to
}

/// memmove(3).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn memmove(
    to: *mut c_void,
    from: *const c_void,
    len: usize,
) -> *mut c_void {
    let (target, source) = (to.cast::<u8>(), from.cast::<u8>());
    if (target as usize) < (source as usize) {
        // SAFETY: same contract; forwards, so nothing is overwritten before it is read.
        return unsafe { memcpy(to, from, len) };
    }
    for index in (0..len).rev() {
        // SAFETY: both have `len` bytes; backwards for the same reason.
        unsafe { target.add(index).write_volatile(*source.add(index)) };
    }
    to
}

/// memset(3).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn memset(to: *mut c_void, byte: c_int, len: usize) -> *mut c_void {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: `len` bytes, by the contract; the ABI keeps the direction flag clear.
    unsafe {
        core::arch::asm!("rep stosb", inout("rcx") len => _, inout("rdi") to => _, in("al") byte as u8,
            options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    for index in 0..len {
        // SAFETY: `len` bytes, by the contract.
        unsafe { to.cast::<u8>().add(index).write_volatile(byte as u8) };
    }
    to
}

/// memcmp(3).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn memcmp(a: *const c_void, b: *const c_void, len: usize) -> c_int {
    let (a, b) = (a.cast::<u8>(), b.cast::<u8>());
    for index in 0..len {
        // SAFETY: both have `len` bytes, by the contract.
        let (x, y) = unsafe { (a.add(index).read_volatile(), b.add(index).read_volatile()) };
        if x != y {
            return c_int::from(x) - c_int::from(y);
        }
    }
    0
}

/// bcmp(3).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn bcmp(a: *const c_void, b: *const c_void, len: usize) -> c_int {
    // SAFETY: the same contract.
    unsafe { memcmp(a, b, len) }
}

/// strlen(3), which `CStr` may call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn strlen(text: *const core::ffi::c_char) -> usize {
    let mut len = 0;
    // SAFETY: in bounds until the NUL, by the contract.
    while unsafe { text.add(len).read_volatile() } != 0 {
        len += 1;
    }
    len
}
