//! Tagged, untagged, or not known.

/// The contents of a carrier of a tag. An unreadable carrier is not an untagged one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier<T> {
    /// The carrier is readable and has no tag.
    Absent,
    /// The carrier is not readable.
    Unreadable,
    /// The carrier has this tag.
    Present(T),
}

impl<T> Carrier<T> {
    /// The tag, if there is one.
    pub fn present(&self) -> Option<&T> {
        match self {
            Self::Present(tag) => Some(tag),
            Self::Absent | Self::Unreadable => None,
        }
    }

    /// Whether the carrier is not readable.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        matches!(self, Self::Unreadable)
    }
}
