//! The facts about a process that a report leaves out: its parent, age and memory.

use leash_core::parse::stat::Stat;
use leash_core::{Host, Pid};
use std::fs::File;
use std::io::Read as _;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Vitals {
    pub(crate) ppid: Option<u32>,
    pub(crate) age_ms: u64,
    pub(crate) rss_bytes: Option<u64>,
}

/// Returns `None` if the process has ended, or if its pid belongs to another process by now.
pub(crate) fn read(host: &Host, pid: u32, start_ticks: u64) -> Option<Vitals> {
    let memory = file(pid, "statm");
    // `stat` is read after the memory. If its start matches, both belong to the same process.
    let stat = Stat::parse(&file(pid, "stat")?)?;
    let clock = host.clock();
    if clock.to_machine(stat.start_ticks) != start_ticks {
        return None;
    }
    let ticks = clock.machine_now().saturating_sub(start_ticks);
    Some(Vitals {
        ppid: stat.parent.map(Pid::as_u32),
        age_ms: ticks.saturating_mul(1000) / clock.ticks(1).max(1),
        rss_bytes: memory.as_deref().and_then(resident),
    })
}

/// Returns the resident size; `statm` holds it as its second number, in pages.
fn resident(statm: &[u8]) -> Option<u64> {
    let pages: u64 =
        std::str::from_utf8(statm).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()?;
    pages.checked_mul(u64::try_from(rustix::param::page_size()).ok()?)
}

fn file(pid: u32, name: &str) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    File::open(format!("/proc/{pid}/{name}")).ok()?.take(8192).read_to_end(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_parent_an_age_and_memory_and_another_of_its_number_has_none() {
        let host = Host::current().unwrap();
        let me = host.me();
        let vitals = read(&host, me.pid.as_u32(), me.start_ticks).unwrap();
        assert_eq!(vitals.ppid, Some(std::os::unix::process::parent_id()));
        assert!(vitals.age_ms < 600_000 && vitals.rss_bytes.unwrap() > 100_000, "{vitals:?}");
        assert_eq!(read(&host, me.pid.as_u32(), me.start_ticks + 1), None);
    }

    #[test]
    fn odd_memory_is_none() {
        for text in [&b""[..], b"1", b"1 x", b"1 -1", b"1 18446744073709551615 3", b"\xff \xff"] {
            assert_eq!(resident(text), None, "{text:?}");
        }
    }
}
