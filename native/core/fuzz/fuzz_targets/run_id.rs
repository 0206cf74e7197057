#![no_main]

use leash_tag::RunId;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    if let Some(run) = RunId::parse(text) {
        assert_eq!(run.to_ascii(), text);
        assert_eq!(RunId::from_number(run.number()), Some(run));
    }
});
