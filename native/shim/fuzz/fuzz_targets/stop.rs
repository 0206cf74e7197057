//! The value of `--stop`: a VM that finds somebody's shim has to expect the ladder that this shim will take.
#![no_main]

use leash_core::Ladder;
use leash_shim::cli::{self, Parsed};
use leash_tag::stop_steps::{MAX_STEPS, StepKind};
use libfuzzer_sys::fuzz_target;
use std::ffi::CString;
use std::time::Duration;

fuzz_target!(|text: &[u8]| {
    let _ = Ladder::parse_shim(text).map(|ladder| ladder.at(Duration::from_millis(1)));
    let expected = Ladder::time_of_shim(text);

    let Ok(option) = CString::new([b"--stop=", text].concat()) else { return };
    let mut words = vec![c"leash-shim".to_owned(), c"--run-id=s59m65f".to_owned(), option];
    // As many commands as the value asks for, so that nothing but the value can be wrong.
    let commands = text.split(|&byte| byte == b',').filter(|step| step.starts_with(b"CMD:")).count();
    words.extend((0..commands).flat_map(|_| [c"--step=1".to_owned(), c"x".to_owned()]));
    words.extend([c"--".to_owned(), c"x".to_owned()]);
    let Ok(Parsed::Run(config)) = cli::parse(words.iter().map(CString::as_c_str)) else { return };

    let steps: Vec<_> = config.stop.iter().collect();
    assert!(!steps.is_empty() && steps.len() <= MAX_STEPS);
    // The core has no real-time signals: whoever asks a shim's ladder of it waits for the deadline then.
    if steps.iter().any(|step| matches!(step.kind, StepKind::Signal { number: 32.., .. })) {
        return;
    }
    let time = steps.iter().try_fold(0, |sum, step| Some(sum + u64::from(step.wait?)));
    assert_eq!(expected, time.map(Duration::from_millis));
    if steps.iter().all(|step| matches!(step.kind, StepKind::Signal { .. })) {
        assert_eq!(Ladder::parse_shim(text).map(|ladder| ladder.len()), Some(steps.len()));
    }
});
