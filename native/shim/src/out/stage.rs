//! The stages of a start.

use rustix::io::Errno;

/// The stage at which a start failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Pipe = 2,
    Fork = 3,
    Setsid = 4,
    Ids = 5,
    Pdeathsig = 6,
    Stdin = 7,
    Stdout = 8,
    Stderr = 9,
    Chdir = 10,
    Exec = 11,
    OwnerGone = 12,
    Limits = 13,
    Attach = 14,
    Warden = 15,
    Shim = 16,
}

/// The stage and the reason of a failed start.
pub(crate) type Failed = (Stage, Errno);
