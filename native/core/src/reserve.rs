//! Descriptors kept back, so that a full table does not disarm the kill path.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

// One for the pidfd, one for the file in /proc, one for a directory, one to spare.
const KEPT: usize = 4;

static RESERVE: Mutex<Vec<OwnedFd>> = Mutex::new(Vec::new());

// The table was full when last tried: nobody should hold a descriptor for mere comfort.
static SCARCE: AtomicBool = AtomicBool::new(false);

/// Fills the reserve, idempotently; to be called while descriptors are plenty.
///
/// Every operation of this crate that meets EMFILE gives one of these back to the kernel and tries
/// again. Another thread may snatch it in between, so this helps in all but the worst race; what
/// still fails is reported, and nothing falls back to signals by number.
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

/// Whether descriptors that are merely useful should be given back.
pub(crate) fn is_scarce() -> bool {
    SCARCE.load(Ordering::Relaxed)
}

/// Runs an operation that opens a descriptor; on a full table again with one given back.
///
/// # Errors
///
/// Those of the operation.
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
