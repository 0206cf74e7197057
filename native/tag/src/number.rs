//! Parses numbers as an option or a file of the kernel has them.

use core::str::FromStr;

/// Parses a decimal number without a `+`. Leading zeros are fine.
///
/// The value of a tag is stricter: there, two spellings of one number would be two tags.
#[must_use]
pub fn parse_number<N: FromStr>(text: &[u8]) -> Option<N> {
    core::str::from_utf8(text).ok().filter(|text| !text.starts_with('+'))?.parse().ok()
}
