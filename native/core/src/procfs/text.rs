//! Words in the text files of `/proc`.

/// Splits a line at blanks, of which several may stand in a row.
pub(crate) fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}
