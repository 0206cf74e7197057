//! The facts about a process that a report leaves out: its parent, age and memory.
//!
//! One read of `/proc/<pid>/stat` tells all of them, together with the start of the process. So
//! they cannot be of another process than the report's.

use leash_core::parse::stat::Stat;
use leash_core::{Host, Pid};

/// Parent, age and memory of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProcessStats {
    /// The parent, if this pid namespace has it.
    pub(crate) ppid: Option<u32>,
    /// The age.
    pub(crate) age_ms: u64,
    /// The memory in RAM.
    pub(crate) rss_bytes: Option<u64>,
}

/// Returns `None` if the process has ended, or if its pid belongs to another process by now.
pub(crate) fn read(host: &Host, pid: u32, start_ticks: u64) -> Option<ProcessStats> {
    let stat = Stat::parse(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)?;
    let clock = host.clock();
    if clock.to_machine(stat.start_ticks) != start_ticks {
        return None;
    }
    let ticks = clock.machine_now().saturating_sub(start_ticks);
    let page = u64::try_from(rustix::param::page_size()).ok()?;
    Some(ProcessStats {
        ppid: stat.parent.map(Pid::as_u32),
        age_ms: ticks.saturating_mul(1000) / clock.ticks(1).max(1),
        rss_bytes: stat.rss_pages.checked_mul(page),
    })
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
}
