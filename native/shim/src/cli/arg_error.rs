//! The error of a command line.

/// The error of a command line: `leash-shim: OPTION: expected EXPECTED, got: VALUE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArgError<'a> {
    /// The option, or the text at the place of an option.
    pub option: &'a [u8],
    /// The accepted values.
    pub expected: &'static str,
    /// The given value.
    pub value: &'a [u8],
}

impl<'a> ArgError<'a> {
    /// Returns the error of an option that is wrong whatever its value.
    pub(crate) fn of(option: &'a [u8], expected: &'static str) -> Self {
        Self { option, expected, value: b"" }
    }
}
