//! The share of a CPU that a process used between two looks.

use crate::process_view::ProcessView;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A process: a pid is given again, a start is not.
type Id = (u32, Option<u64>);

/// The CPU times of the last look.
#[derive(Debug, Default)]
pub(crate) struct Load {
    at: Option<Instant>,
    used_ms: HashMap<Id, u64>,
    /// Per mille of one CPU, of what was there at both looks.
    share: HashMap<Id, u64>,
}

impl Load {
    /// Takes the CPU times of a look.
    pub(crate) fn note(&mut self, processes: &[ProcessView], now: Instant) {
        let used_ms: HashMap<_, _> =
            processes.iter().filter_map(|process| Some((id(process), process.cpu_ms?))).collect();
        let since = self.at.map(|at| now.saturating_duration_since(at));
        // A key draws at once. Over so short a time the clock ticks of the kernel say nothing.
        if since.is_some_and(|since| since < Duration::from_millis(100)) {
            return;
        }
        let past = since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        self.share = used_ms
            .iter()
            .filter_map(|(id, used)| {
                let more = used.saturating_sub(*self.used_ms.get(id)?);
                Some((*id, more.saturating_mul(1000).checked_div(past)?))
            })
            .collect();
        (self.at, self.used_ms) = (Some(now), used_ms);
    }

    /// Returns the share of a process in per mille of one CPU; `None` before its second look.
    pub(crate) fn of(&self, process: &ProcessView) -> Option<u64> {
        self.share.get(&id(process)).copied()
    }
}

fn id(process: &ProcessView) -> Id {
    (process.pid, process.start_ticks)
}

/// Returns a share as text, for example `12.5`.
pub(crate) fn percent(per_mille: u64) -> String {
    format!("{}.{}", per_mille / 10, per_mille % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, cpu_ms: u64) -> ProcessView {
        ProcessView { cpu_ms: Some(cpu_ms), ..ProcessView::example(pid, 1, "x") }
    }

    #[test]
    fn a_share_is_that_of_one_cpu_between_two_looks() {
        let (mut load, start) = (Load::default(), Instant::now());
        load.note(&[process(7, 100)], start);
        assert_eq!(load.of(&process(7, 100)), None, "one look is no rate");
        load.note(&[process(7, 600), process(8, 900)], start + Duration::from_secs(2));
        assert_eq!(load.of(&process(7, 600)), Some(250));
        assert_eq!(load.of(&process(8, 900)), None, "it was not there before");
        load.note(&[process(7, 700)], start + Duration::from_millis(2050));
        assert_eq!(load.of(&process(7, 700)), Some(250), "a key draws the last rate again");
        let reused = ProcessView { start_ticks: Some(99), ..process(7, 600) };
        assert_eq!(load.of(&reused), None, "another process of that number");
        assert_eq!([percent(0), percent(250), percent(1999)], ["0.0", "25.0", "199.9"]);
    }
}
