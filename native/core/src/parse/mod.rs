//! Parsers of the files in `/proc`: pure functions on bytes.
//!
//! No parser panics on any input, and none guesses. If a text is not understood, the result is
//! `None`.

pub(crate) mod cgroup;
pub mod cmdline;
pub mod environ;
pub mod limits;
pub mod mounts;
pub mod stat;
pub mod status;

pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |number, &byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

pub(crate) fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}
