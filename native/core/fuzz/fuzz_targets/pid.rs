//! A number that will be signalled: the name of a directory in `/proc`, a word of a `children` file.
#![no_main]

use leash_core::Pid;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    if let Some(pid) = Pid::parse(text) {
        assert!(pid.get() > 0);
        assert_eq!(pid.to_string().as_bytes(), text);
    }
});
