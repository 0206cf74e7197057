//! `/proc/<pid>/stat`: the shim and the VM have a reader each, which may not disagree on a process's identity.
#![no_main]

use leash_core::parse::stat::Stat;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let shim = leash_shim::fuzzing::stat(text);
    // They differ in what they forgive, so they are compared only on what the kernel writes: digits without a sign, one space.
    let plain = |text: &[u8]| !text.iter().any(|byte| matches!(byte, b'+' | b'\t' | 0x0b..=b'\r'));
    let tail = text.iter().rposition(|&byte| byte == b')').map_or(text, |close| &text[close + 1..]);
    let single = !tail.windows(2).any(|pair| pair == b"  ") && tail.first() == Some(&b' ');
    if let (Some((ppid, start_ticks, kernel_thread)), Some(core)) = (shim, Stat::parse(text))
        && plain(tail)
        && single
        && !tail.contains(&b'\n')
    {
        assert_eq!(ppid, core.parent.map_or(0, |pid| pid.get()));
        assert_eq!((start_ticks, kernel_thread), (core.start_ticks, core.kernel_thread));
    }
});
