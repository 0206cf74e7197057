//! Arguments: lists, paths and identities.

use leash_core::{Identity, Pid};
use rustler::{Binary, Decoder, NifResult, Term};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The elements of a proper list; any other term is a bad argument.
///
/// rustler's own iterator panics at the end of an improper list.
pub(crate) struct List<T>(Vec<T>);

impl<T> List<T> {
    /// Returns the elements.
    pub(crate) fn as_slice(&self) -> &[T] {
        &self.0
    }

    /// Returns the elements one by one.
    pub(crate) fn iter(&self) -> std::slice::Iter<'_, T> {
        self.0.iter()
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> IntoIterator for List<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, T: Decoder<'a>> Decoder<'a> for List<T> {
    fn decode(term: Term<'a>) -> NifResult<Self> {
        term.list_length()?;
        term.decode().map(Self)
    }
}

/// Returns a path. It is bytes, and need not be UTF-8.
pub(crate) fn path<'a>(text: &'a Binary<'_>) -> &'a Path {
    Path::new(OsStr::from_bytes(text.as_slice()))
}

/// Returns an identity from its three parts, `None` if no process can have the pid.
pub(crate) fn identity(pid: i32, start_ticks: u64, pidfs_inode: Option<u64>) -> Option<Identity> {
    Pid::new(pid).map(|pid| Identity { pid, start_ticks, pidfs_inode })
}

/// The three parts of an identity.
pub(crate) type Parts = (u32, u64, Option<u64>);

/// Returns the parts of an identity, as answers have them.
pub(crate) fn parts(identity: &Identity) -> Parts {
    (identity.pid.as_u32(), identity.start_ticks, identity.pidfs_inode)
}
