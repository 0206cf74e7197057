#![no_main]

use leash_core::parse::{mounts, status};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let _ = status::uids(text);
    let _ = mounts::hides_processes(text, b"/proc");
    let _ = leash_core::BootClock::new(text, 100);
});
