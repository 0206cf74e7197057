#![no_main]

use leash_tag::OwnerTag;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    if let Some(tag) = OwnerTag::parse(text) {
        assert_eq!(tag.to_string().as_bytes(), text);
    }
    let _ = OwnerTag::find(text);
});
