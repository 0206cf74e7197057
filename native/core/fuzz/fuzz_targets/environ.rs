#![no_main]

use leash_core::Carrier;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let whole = Carrier::of_environ(text, false);
    let cut = Carrier::of_environ(text, true);
    if let (Carrier::Present(whole), Carrier::Present(cut)) = (&whole, &cut) {
        assert_eq!(whole, cut);
    }
    assert!(cut != Carrier::Absent);
});
