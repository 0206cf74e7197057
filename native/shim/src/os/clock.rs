//! Time, in milliseconds of CLOCK_MONOTONIC.
#![allow(unsafe_code)]

use rustix::event::Timespec;
use syscalls::{Sysno, syscall};

/// Returns the present time. rustix would look for the vDSO first, which costs a page.
pub(crate) fn now_ms() -> u64 {
    const CLOCK_MONOTONIC: usize = 1;
    let mut time = [0i64; 2];
    // SAFETY: the array is as large as struct timespec on 64-bit Linux.
    let _ = unsafe { syscall!(Sysno::clock_gettime, CLOCK_MONOTONIC, time.as_mut_ptr()) };
    let [seconds, nanoseconds] = time;
    u64::try_from(seconds).unwrap_or(0) * 1000
        + u64::try_from(nanoseconds).unwrap_or(0) / 1_000_000
}

/// Sleeps for this many milliseconds, or less if a signal comes.
pub(crate) fn pause_ms(ms: u64) {
    let _ = rustix::thread::nanosleep(&timespec(ms));
}

/// Returns a number of milliseconds as the kernel takes it.
pub(crate) fn timespec(ms: u64) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(ms % 1000).unwrap_or(0) * 1_000_000,
    }
}
