//! Descriptors kept back, so that a full table does not disable the kill path.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

// One for the pidfd, one for the file in /proc, one for a directory, one to spare.
const KEPT: usize = 4;

static RESERVE: Mutex<Vec<OwnedFd>> = Mutex::new(Vec::new());

// The table was full at the last try. A descriptor that is merely useful should not be held then.
static SCARCE: AtomicBool = AtomicBool::new(false);

/// Fills the reserve, idempotently. Call it while descriptors are plenty.
///
/// Every operation of this crate that meets EMFILE gives one of these descriptors back to the
/// kernel and tries again. Another thread may take it in between, so this helps in all but the
/// worst race. A failure after that is reported. Nothing falls back to signals by number.
pub fn reserve_descriptors() {
    let Ok(mut kept) = RESERVE.lock() else { return };
    while kept.len() < KEPT {
        match rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => kept.push(fd),
            Err(_) => return,
        }
    }
    SCARCE.store(false, Ordering::Relaxed);
}

/// Whether to give back descriptors that are merely useful.
pub(crate) fn is_scarce() -> bool {
    SCARCE.load(Ordering::Relaxed)
}

/// Runs an operation that opens a descriptor. If the table is full, gives a descriptor back and
/// runs it again.
///
/// # Errors
///
/// The errors of the operation.
pub fn with_reserve<T>(mut operation: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    for _ in 0..KEPT {
        match operation() {
            Err(Errno::MFILE) => SCARCE.store(true, Ordering::Relaxed),
            other => return other,
        }
        let spare = RESERVE.lock().ok().and_then(|mut kept| kept.pop());
        if spare.is_none() {
            return Err(Errno::MFILE);
        }
    }
    operation()
}
