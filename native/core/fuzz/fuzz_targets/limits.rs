#![no_main]

use leash_tag::{Limits, Mark};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    if let Some(limits) = Limits::parse_file(text) {
        let _ = Mark::decode(limits);
    }
});
