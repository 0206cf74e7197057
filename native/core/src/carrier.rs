//! Tagged, untagged, or not known.

/// What a carrier of a tag says. Unreadable is not untagged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier<T> {
    /// Looked, and there is none.
    Absent,
    /// Could not look.
    Unreadable,
    /// There is one.
    Present(T),
}

impl<T> Carrier<T> {
    /// The tag, where there is one.
    pub fn present(&self) -> Option<&T> {
        match self {
            Self::Present(tag) => Some(tag),
            Self::Absent | Self::Unreadable => None,
        }
    }

    /// Whether it could not be looked at.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        matches!(self, Self::Unreadable)
    }
}
