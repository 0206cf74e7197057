#![no_main]

use leash_core::parse::stat::Stat;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    if let Some(stat) = Stat::parse(text) {
        assert!(stat.pid.get() > 0);
    }
});
