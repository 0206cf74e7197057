//! The one error type of the crate.

use rustix::io::Errno;
use serde::Serialize;
use std::fmt;

/// The kind of an error, as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// No such process: it has ended and been reaped.
    Gone,
    /// The number now belongs to another process.
    Reused,
    /// The kernel does not permit it.
    NotPermitted,
    /// The process exists, but its identity cannot be read.
    Unknown,
    /// The kernel lacks the call: `pidfd_open` needs Linux 5.3, `pidfd_send_signal` 5.1.
    Unsupported,
    /// No descriptor is left, for this process or on this machine.
    DescriptorsExhausted,
    /// A record of that run exists already.
    Exists,
    /// The run directory is a symbolic link.
    Symlink,
    /// The run directory is not a directory.
    NotADirectory,
    /// The run directory belongs to another user.
    ForeignOwner,
    /// The run directory is open to its group or to others.
    LoosePermissions,
    /// `/proc` is not mounted, or is that of another pid namespace.
    NoProc,
    /// Any other failure of a system call: see [`Error::errno_name`].
    Io,
}

/// The kind of an error, its subject, and the kernel's error number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    subject: Option<Box<str>>,
    errno: Option<Errno>,
}

/// The result of a function that can fail.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(kind: ErrorKind) -> Self {
        Self { kind, subject: None, errno: None }
    }

    /// Sorts errno by consequence: ended (ESRCH, ENOENT below `/proc/<pid>`), forbidden,
    /// exhausted, the rest.
    pub(crate) fn of_process(errno: Errno) -> Self {
        let kind = match errno {
            Errno::SRCH | Errno::NOENT => ErrorKind::Gone,
            Errno::PERM | Errno::ACCESS => ErrorKind::NotPermitted,
            other => Self::of_any(other),
        };
        Self { kind, subject: None, errno: Some(errno) }
    }

    pub(crate) fn of_file(errno: Errno) -> Self {
        let kind = match errno {
            Errno::EXIST => ErrorKind::Exists,
            other => Self::of_any(other),
        };
        Self { kind, subject: None, errno: Some(errno) }
    }

    fn of_any(errno: Errno) -> ErrorKind {
        match errno {
            Errno::NOSYS => ErrorKind::Unsupported,
            Errno::MFILE | Errno::NFILE => ErrorKind::DescriptorsExhausted,
            _ => ErrorKind::Io,
        }
    }

    /// Names the path or process that the error is about.
    pub(crate) fn about(mut self, subject: impl fmt::Display) -> Self {
        self.subject = Some(subject.to_string().into_boxed_str());
        self
    }

    /// The kind of error, to match on.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The path or process number that the error is about.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }

    /// The kernel's error number.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.errno.map(Errno::raw_os_error)
    }

    /// The kernel's error as POSIX spells it, in lower case: `eacces`.
    #[must_use]
    pub fn errno_name(&self) -> Option<String> {
        self.errno()
            .map(|errno| format!("{:?}", nix::errno::Errno::from_raw(errno)).to_lowercase())
    }

    /// Whether the process has ended. For a signal, that is success.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self.kind, ErrorKind::Gone | ErrorKind::Reused)
    }

    /// Whether the kernel forbade the call. The process lives.
    #[must_use]
    pub fn is_not_permitted(&self) -> bool {
        self.kind == ErrorKind::NotPermitted
    }

    /// Whether a run of that id has a record already.
    #[must_use]
    pub fn is_exists(&self) -> bool {
        self.kind == ErrorKind::Exists
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gone => "no such process",
            Self::Reused => "the process has ended and its number belongs to another one",
            Self::NotPermitted => "the kernel does not permit it",
            Self::Unknown => "the process cannot be identified",
            Self::Unsupported => "this kernel lacks the call (Linux 5.3 or newer is needed)",
            Self::DescriptorsExhausted => "no file descriptor is left",
            Self::Exists => "a record of that run exists",
            Self::Symlink => "the run directory must not be a symbolic link",
            Self::NotADirectory => "the run directory is not a directory",
            Self::ForeignOwner => "the run directory belongs to another user",
            Self::LoosePermissions => {
                "the run directory must be closed to group and others (chmod 700)"
            }
            Self::NoProc => "/proc is missing or shows another pid namespace",
            Self::Io => "the system call failed",
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(subject) = &self.subject {
            write!(f, "{subject}: ")?;
        }
        self.kind.fmt(f)?;
        match self.errno_name() {
            Some(name) => write!(f, " ({name})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        match error.errno {
            Some(errno) => errno.into(),
            None => std::io::Error::other(error),
        }
    }
}
