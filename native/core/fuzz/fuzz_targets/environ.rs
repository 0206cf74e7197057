#![no_main]

use leash_core::{Carrier, parse::environ};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let whole = environ::tag(text, false);
    let cut = environ::tag(text, true);
    if let (Carrier::Present(whole), Carrier::Present(cut)) = (&whole, &cut) {
        assert_eq!(whole, cut);
    }
    assert!(cut != Carrier::Absent);
});
