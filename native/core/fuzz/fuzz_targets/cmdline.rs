#![no_main]

use leash_core::parse::cmdline;
use leash_tag::argv;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    assert!(cmdline::shown(text, b"comm").chars().count() <= cmdline::SHOWN);
    let args: Vec<Vec<u8>> = argv::args(text).map(<[u8]>::to_vec).collect();
    assert_eq!(cmdline::equals(text, &args), !args.is_empty());
    let _ = argv::ShimArgs::parse(text);
    let _ = argv::shim_option(text, b"stop").and_then(leash_core::Ladder::parse_shim);
    let _ = argv::flag_value(argv::args(text), b"--run-id");
});
