//! The error of the last call of the C library.

use rustix::io::Errno;

/// Returns `errno` of this thread.
pub(super) fn last_errno() -> Errno {
    let code = std::io::Error::last_os_error().raw_os_error();
    code.map_or(Errno::IO, Errno::from_raw_os_error)
}
