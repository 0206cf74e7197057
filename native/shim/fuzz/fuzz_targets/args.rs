//! A command line, its arguments each ended by NUL; what others read from outside has to be what the shim does.
#![no_main]

use leash_shim::cli::{self, Parsed};
use leash_tag::argv::{self, ShimArgs};
use libfuzzer_sys::fuzz_target;
use std::ffi::{CStr, CString};

fuzz_target!(|text: &[u8]| {
    let first = c"leash-shim".to_owned();
    let text = text.strip_suffix(b"\0").unwrap_or(text);
    let more = text.split(|&byte| byte == 0).filter_map(|arg| CString::new(arg).ok());
    let words: Vec<CString> = std::iter::once(first).chain(more).collect();
    let parsed = cli::parse(words.iter().map(CString::as_c_str));
    let config = match parsed {
        Ok(Parsed::Run(config)) => config,
        Ok(_) => return,
        Err(wrong) => return assert!(!wrong.expected.is_empty()),
    };

    let line: Vec<u8> = words.iter().flat_map(|word| word.as_bytes_with_nul()).copied().collect();
    let outside = ShimArgs::parse(&line).expect("a look from outside sees a shim");
    assert_eq!(outside.run, config.run);
    if outside.worker.is_some() {
        assert_eq!(outside.worker, config.worker);
    }
    assert_eq!(argv::shim_option(&line, b"name"), config.name);
    let cd = argv::shim_option(&line, b"cd").filter(|cd| !cd.is_empty());
    assert_eq!(cd, config.cd.map(CStr::to_bytes));
    if let Some(name) = argv::shim_name(&line) {
        assert_eq!(Some(name), config.name);
    }

    assert_eq!(outside.warden, config.warden);
    if config.attach.is_none() && !config.warden {
        assert_eq!(words.get(config.command_index).map(CString::as_c_str), Some(config.command));
    }
    for number in 0..=config.step.count() {
        let found = leash_shim::fuzzing::step_command(&config, number, words.iter().map(CString::as_c_str));
        let within = found.is_some_and(|(first, count)| count > 0 && first + count <= words.len());
        assert_eq!(within, number < config.step.count());
    }
});
