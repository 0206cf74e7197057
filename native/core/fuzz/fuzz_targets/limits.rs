#![no_main]

use leash_core::parse::limits;
use leash_tag::Mark;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    if let Some(limits) = limits::file_locks(text) {
        let _ = Mark::decode(limits);
    }
});
