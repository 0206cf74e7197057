//! The facts about a process that a report leaves out: its parent, age, CPU time and memory.
//!
//! `/proc/<pid>/stat` has the start of the process, so the facts cannot be those of another
//! process. Its memory leaves out what the CPUs count for themselves, so that comes from
//! `statm`.

use leash_core::parse::stat::Stat;
use leash_core::{Host, Pid};

/// Parent, age, CPU time and memory of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProcessStats {
    /// The parent, if this pid namespace has it.
    pub(crate) ppid: Option<u32>,
    /// The age.
    pub(crate) age_ms: u64,
    /// The CPU time of it and of the children that it waited for.
    pub(crate) cpu_ms: Option<u64>,
    /// The memory in RAM.
    pub(crate) rss_bytes: Option<u64>,
}

/// Returns `None` if the process has ended, or if its pid belongs to another process by now.
pub(crate) fn read(host: &Host, pid: u32, start_ticks: u64) -> Option<ProcessStats> {
    let file = |name| std::fs::read(format!("/proc/{pid}/{name}")).ok();
    let memory = file("statm");
    // `stat` is read after the memory. If its start matches, both belong to the same process.
    let stat = Stat::parse(&file("stat")?)?;
    let clock = host.clock();
    if clock.to_machine(stat.start_ticks) != start_ticks {
        return None;
    }
    let ticks = clock.machine_now().saturating_sub(start_ticks);
    let milliseconds = |ticks: u64| ticks.saturating_mul(1000) / clock.ticks(1).max(1);
    Some(ProcessStats {
        ppid: stat.parent.map(Pid::as_u32),
        age_ms: milliseconds(ticks),
        cpu_ms: Some(milliseconds(stat.cpu_ticks)),
        rss_bytes: memory.as_deref().and_then(resident),
    })
}

/// Returns the resident size; `statm` holds it as its second number, in pages.
fn resident(statm: &[u8]) -> Option<u64> {
    let pages = std::str::from_utf8(statm).ok()?.split_ascii_whitespace().nth(1)?;
    pages.parse::<u64>().ok()?.checked_mul(u64::try_from(rustix::param::page_size()).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_parent_an_age_and_memory_and_another_of_its_number_has_none() {
        let host = Host::current().unwrap();
        let me = host.me();
        let stats = read(&host, me.pid.as_u32(), me.start_ticks).unwrap();
        assert_eq!(stats.ppid, Some(std::os::unix::process::parent_id()));
        assert!(stats.age_ms < 600_000 && stats.rss_bytes.unwrap() > 100_000, "{stats:?}");
        assert_eq!(read(&host, me.pid.as_u32(), me.start_ticks + 1), None);
    }

    #[test]
    fn odd_memory_is_none() {
        for text in [&b""[..], b"1", b"1 x", b"1 -1", b"1 18446744073709551615 3", b"\xff \xff"] {
            assert_eq!(resident(text), None, "{text:?}");
        }
    }
}
