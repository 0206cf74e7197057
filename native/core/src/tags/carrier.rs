//! Tagged, untagged, or not known.

use leash_tag::OwnerTag;

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

impl Carrier<OwnerTag> {
    /// Returns the environment tag in a block as `/proc/<pid>/environ` gives it: entries that
    /// each end in NUL. `cut` says that more follows the block.
    ///
    /// The last entry of a cut block may lack its end, so it is ignored. Half a value must not
    /// pass for a whole one. A cut block without a tag is not an untagged one.
    #[must_use]
    pub fn of_environ(block: &[u8], cut: bool) -> Self {
        let whole = if cut {
            let end = block.iter().rposition(|&byte| byte == 0).unwrap_or(0);
            block.get(..end).unwrap_or_default()
        } else {
            block
        };
        match OwnerTag::find(whole) {
            Some(tag) => Self::Present(tag),
            None if cut => Self::Unreadable,
            None => Self::Absent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TAG: &[u8] = b"LEASH_RUN=s59m65f.12.4711.123456.4026531836.0a1b2c3d";

    #[test]
    fn a_value_at_the_cut_is_not_believed() {
        assert!(matches!(Carrier::of_environ(TAG, false), Carrier::Present(_)));
        assert_eq!(Carrier::of_environ(TAG, true), Carrier::Unreadable);
        assert!(matches!(
            Carrier::of_environ(&[TAG, b"\0A=1"].concat(), true),
            Carrier::Present(_)
        ));
        assert_eq!(Carrier::of_environ(b"A=1\0B", true), Carrier::Unreadable);
        assert_eq!(Carrier::of_environ(b"A=1\0B", false), Carrier::Absent);
        assert_eq!(Carrier::of_environ(b"", false), Carrier::Absent);
    }

    proptest! {
        #[test]
        fn no_block_panics(block in proptest::collection::vec(any::<u8>(), 0..400), cut: bool) {
            let _ = Carrier::of_environ(&block, cut);
        }
    }
}
