//! What each binary says of the build that it comes from.
//!
//! The Mix compiler looks for this text in files that another machine built. So it refuses a file
//! of another version, or of the same version with another protocol, before the VM loads it.

/// Returns the text `NAME VERSION (protocol N)` as a `&'static str`, with the version of the
/// calling crate.
///
/// The number grows with each change of `native/PROTOCOL.md` or of the NIF's functions after a
/// release, so that files of two commits with one version are told apart.
#[macro_export]
macro_rules! build_mark {
    ($name:literal) => {
        concat!($name, " ", env!("CARGO_PKG_VERSION"), " (protocol 1)")
    };
}
