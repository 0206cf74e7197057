#![no_main]

use leash_tag::{Limits, Mark};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|pair: (u64, u64)| {
    let limits = Limits { soft: pair.0, hard: pair.1 };
    if let Some(mark) = Mark::decode(limits) {
        assert_eq!(mark.limits().hard, limits.hard);
        assert_eq!(Mark::decode(mark.limits()), Some(mark));
        if let Ok(inner) = Mark::nested_in(limits, mark.run(), mark.worker(), mark.outlives()) {
            assert!(inner.limits().hard < limits.hard && inner.limits().soft <= inner.limits().hard);
        }
    }
});
