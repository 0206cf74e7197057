//! Parses `/proc/<pid>/environ`: entries that each end in NUL, and the tag among them.

use crate::Carrier;
use leash_tag::OwnerTag;

/// Returns the environment tag in a block. `cut` says that more follows the block.
///
/// The last entry of a cut block may lack its end, so it is ignored. Half a value must not pass
/// for a whole one. A cut block without a tag is not an untagged one.
#[must_use]
pub fn tag(block: &[u8], cut: bool) -> Carrier<OwnerTag> {
    let whole = if cut {
        let end = block.iter().rposition(|&byte| byte == 0).unwrap_or(0);
        block.get(..end).unwrap_or_default()
    } else {
        block
    };
    match OwnerTag::find(whole) {
        Some(tag) => Carrier::Present(tag),
        None if cut => Carrier::Unreadable,
        None => Carrier::Absent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TAG: &[u8] = b"LEASH_RUN=s59m65f.12.4711.123456.4026531836.0a1b2c3d";

    #[test]
    fn a_value_at_the_cut_is_not_believed() {
        assert!(matches!(tag(TAG, false), Carrier::Present(_)));
        assert_eq!(tag(TAG, true), Carrier::Unreadable);
        assert!(matches!(tag(&[TAG, b"\0A=1"].concat(), true), Carrier::Present(_)));
        assert_eq!(tag(b"A=1\0B", true), Carrier::Unreadable);
        assert_eq!(tag(b"A=1\0B", false), Carrier::Absent);
        assert_eq!(tag(b"", false), Carrier::Absent);
    }

    proptest! {
        #[test]
        fn no_block_panics(block in proptest::collection::vec(any::<u8>(), 0..400), cut: bool) {
            let _ = tag(&block, cut);
        }
    }
}
