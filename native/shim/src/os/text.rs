//! Small texts put together on the stack, such as paths under `/proc` and messages. They do
//! without `core::fmt`, whose tables would be a third of the program.

use core::str::FromStr;

/// Up to `N` bytes. A part that does not fit is left out, and a path that was cut does not open.
pub(crate) struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Text<N> {
    /// Returns the empty text.
    pub(crate) fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    /// Appends bytes, if there is room for all of them.
    pub(crate) fn add(mut self, bytes: &[u8]) -> Self {
        let end = self.len.saturating_add(bytes.len());
        if let Some(place) = self.bytes.get_mut(self.len..end) {
            place.copy_from_slice(bytes);
            self.len = end;
        }
        self
    }

    /// Appends a number in decimal, without its sign.
    pub(crate) fn number(self, number: impl Into<i64>) -> Self {
        let mut digits = [0u8; 20];
        let mut rest = number.into().unsigned_abs();
        let mut first = digits.len();
        for (index, place) in digits.iter_mut().enumerate().rev() {
            *place = b'0' + (rest % 10) as u8;
            rest /= 10;
            first = index;
            if rest == 0 {
                break;
            }
        }
        self.add(digits.get(first..).unwrap_or_default())
    }

    /// Returns the text.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// Parses a number of a kernel's file, where a line's end may follow it.
pub(crate) fn number<N: FromStr>(text: &[u8]) -> Option<N> {
    leash_tag::parse_number(text.trim_ascii_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_decimal() {
        for number in [0i64, 7, 10, 32_768, 4_194_304, i64::MAX] {
            let text = Text::<64>::new().add(b"/proc/").number(number).add(b"/stat");
            assert_eq!(text.as_bytes(), std::format!("/proc/{number}/stat").as_bytes());
        }
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        assert_eq!(Text::<4>::new().add(b"abc").add(b"de").add(b"f").as_bytes(), b"abcf");
        assert_eq!(Text::<2>::new().number(123).as_bytes(), b"");
    }
}
