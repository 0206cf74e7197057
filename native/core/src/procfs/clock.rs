//! Start times that mean the same in every time namespace.

use crate::procfs::text::words;
use leash_tag::parse_number;

/// The shift of this reader's boot clock against the machine's, in clock ticks.
///
/// Field 22 of `stat` is shown in the *reader's* time namespace (time_namespaces(7)). A VM and a
/// sweep in different time namespaces would read different numbers for the same process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BootClock {
    offset_ticks: i64,
    per_second: u64,
}

/// The relation of two start times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameStart {
    /// The same tick.
    Yes,
    /// One tick apart. Rounding in a time namespace can do that, so it proves neither.
    Unsure,
    /// Different processes.
    No,
}

impl BootClock {
    /// The clock that `/proc/self/timens_offsets` describes. A missing file (before Linux 5.5)
    /// means no shift.
    #[must_use]
    pub fn new(timens_offsets: &[u8], ticks_per_second: u64) -> Self {
        Self::parse(timens_offsets, ticks_per_second)
            .unwrap_or(Self { offset_ticks: 0, per_second: ticks_per_second })
    }

    /// As [`BootClock::new`], but returns `None` if the file is unreadable, instead of assuming
    /// no shift.
    #[must_use]
    pub fn parse(timens_offsets: &[u8], ticks_per_second: u64) -> Option<Self> {
        let (seconds, nanoseconds) =
            timens_offsets.split(|&byte| byte == b'\n').find_map(|line| {
                let mut fields = words(line);
                // "boottime"; older kernels print the clock's number, CLOCK_BOOTTIME = 7.
                matches!(fields.next()?, b"boottime" | b"7").then_some(())?;
                Some((parse_number::<i64>(fields.next()?)?, parse_number::<i64>(fields.next()?)?))
            })?;
        let nanoseconds = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        let ticks = (nanoseconds * i128::from(ticks_per_second)).div_euclid(1_000_000_000);
        Some(Self { offset_ticks: i64::try_from(ticks).ok()?, per_second: ticks_per_second })
    }

    /// Converts ticks as read here to ticks of the machine's own clock.
    #[must_use]
    pub fn to_machine(self, read: u64) -> u64 {
        read.saturating_add_signed(self.offset_ticks.saturating_neg())
    }

    /// The machine's clock now. A process that starts at this moment has these start ticks.
    #[must_use]
    pub fn machine_now(self) -> u64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
        let part = nanoseconds.saturating_mul(self.per_second) / 1_000_000_000;
        self.to_machine(seconds.saturating_mul(self.per_second).saturating_add(part))
    }

    /// Converts seconds to ticks.
    #[must_use]
    pub fn ticks(self, seconds: u64) -> u64 {
        seconds.saturating_mul(self.per_second)
    }

    /// Converts the machine's ticks to what `/proc` shows here. The shim's `--owner` takes this
    /// value.
    #[must_use]
    pub fn to_local(self, machine: u64) -> u64 {
        machine.saturating_add_signed(self.offset_ticks)
    }
}

/// Compares start times that may have been read in different time namespaces.
#[must_use]
pub fn same_start(one: u64, other: u64) -> SameStart {
    match one.abs_diff(other) {
        0 => SameStart::Yes,
        1 => SameStart::Unsure,
        _ => SameStart::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn offsets_are_taken_off() {
        let clock = |text: &str| BootClock::new(text.as_bytes(), 100);
        assert_eq!(clock("").to_machine(5), 5);
        assert_eq!(
            clock("monotonic           0         0\nboottime            0         0\n")
                .to_machine(5),
            5
        );
        let shifted = clock("monotonic 1 0\nboottime 86400 500000000\n");
        assert_eq!(shifted.to_machine(8_640_050 + 7), 7);
        assert_eq!(shifted.to_local(7), 8_640_057);
        assert_eq!(clock("boottime -10 0\n").to_machine(5), 1_005);
        assert_eq!(clock("boottime x 0\n").to_machine(5), 5);
        assert_eq!(BootClock::parse(b"boottime x 0\n", 100), None);
        assert_eq!(BootClock::parse(b"", 100), None);
    }

    #[test]
    fn one_tick_apart_proves_nothing() {
        assert_eq!(same_start(5, 5), SameStart::Yes);
        assert_eq!((same_start(5, 6), same_start(6, 5)), (SameStart::Unsure, SameStart::Unsure));
        assert_eq!(same_start(5, 7), SameStart::No);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(text in proptest::collection::vec(any::<u8>(), 0..200), ticks: u64) {
            let clock = BootClock::new(&text, 100);
            let _ = clock.to_local(clock.to_machine(ticks));
        }

        #[test]
        fn no_offset_panics(seconds: i64, nanoseconds: i64, ticks: u64) {
            let clock = BootClock::new(format!("boottime {seconds} {nanoseconds}").as_bytes(), 100);
            let _ = (clock.to_local(ticks), clock.to_machine(ticks));
        }
    }
}
