//! The stages of a start.

use rustix::io::Errno;

/// The stage at which a start failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The pipes and the descriptor of signals.
    Pipe = 2,
    /// The start of the child.
    Fork = 3,
    /// The child's session.
    Setsid = 4,
    /// `--uid`, `--gid`, `--groups`.
    Ids = 5,
    /// The death signal, and the look whether the shim lives.
    Pdeathsig = 6,
    /// `--stdin`.
    Stdin = 7,
    /// `--stdout`.
    Stdout = 8,
    /// `--stderr`.
    Stderr = 9,
    /// `--cd`.
    Chdir = 10,
    /// The command's exec.
    Exec = 11,
    /// The look whether leash and owner still hold.
    OwnerGone = 12,
    /// `--limits`.
    Limits = 13,
    /// Taking over a process.
    Attach = 14,
    /// Becoming a warden.
    Warden = 15,
    /// The warden's start of a shim.
    Shim = 16,
    /// `--cgroup`.
    Cgroup = 17,
    /// The look whether the shim may signal the command's user.
    Endable = 18,
    /// `--capabilities`, `--no-new-privs`.
    Capabilities = 19,
    /// `--controlling-tty`.
    Terminal = 20,
}

/// The stage and the reason of a failed start.
pub(crate) type Failed = (Stage, Errno);
