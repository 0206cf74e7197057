//! The crate `procfs` as a second opinion on what `/proc` says of every process of the machine.
//!
//! Both parsers get the same bytes, so a process that changes meanwhile is no difference. Where
//! each reads for itself, a comparison counts only if the process is the same before and after.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows only #[test] functions as tests"
)]

mod common;

use common::{Process, TestDir, sleeper, wait_until};
use leash_core::parse::stat::Stat;
use leash_core::parse::{cmdline, status};
use leash_core::{Host, Pid};
use leash_tag::{Limits, argv};
use procfs::FromRead as _;
use procfs::process::LimitValue;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

// PF_KTHREAD, <linux/sched.h>.
const KERNEL_THREAD: u32 = 0x0020_0000;

/// Processes that are hard to read: odd names, an empty command line, a zombie.
fn odd_ones(dir: &TestDir) -> Vec<Process> {
    let copy = |name: &str| {
        let path = dir.path.join(name);
        std::fs::copy("/bin/sleep", &path).unwrap();
        sleeper(&mut Command::new(path))
    };
    let retitled = sleeper(Command::new("sleep").arg0("a\nb  c"));
    let nameless = sleeper(Command::new("sleep").arg0(""));
    let mut odd = vec![copy(") Z 0 ("), copy("a b) S 1"), retitled, nameless];
    let zombie = Process(Command::new("true").spawn().unwrap());
    wait_until("a zombie", || stat_of(zombie.pid()).unwrap().state == 'Z');
    odd.push(zombie);
    odd
}

fn file(pid: Pid, name: &str) -> Option<Vec<u8>> {
    std::fs::read(format!("/proc/{pid}/{name}")).ok().filter(|text| !text.is_empty())
}

fn stat_of(pid: Pid) -> Option<Stat> {
    Stat::parse(&file(pid, "stat")?)
}

/// Calls `compare` for every process of the machine, odd ones among them. It returns whether it
/// could compare.
fn each_process(mut compare: impl FnMut(Pid) -> Option<()>) {
    let dir = TestDir::new();
    let odd = odd_ones(&dir);
    let entries = std::fs::read_dir("/proc").unwrap();
    let pids =
        entries.filter_map(|entry| Pid::parse(entry.unwrap().file_name().as_encoded_bytes()));
    let compared = pids.filter(|&pid| compare(pid).is_some()).count();
    assert!(compared >= odd.len(), "only {compared} processes were compared");
}

#[test]
fn both_read_the_same_stat() {
    each_process(|pid| {
        let text = file(pid, "stat")?;
        let ours = Stat::parse(&text).unwrap();
        let theirs = procfs::process::Stat::from_read(text.as_slice()).unwrap();
        assert_eq!(ours.pid.get(), theirs.pid);
        assert_eq!(String::from_utf8_lossy(&ours.comm), theirs.comm, "{pid}");
        assert_eq!(ours.state, theirs.state, "{pid}");
        assert_eq!(ours.parent.map_or(0, Pid::get), theirs.ppid, "{pid}");
        let number = |number: i32| u32::try_from(number).unwrap_or(0);
        assert_eq!(ours.group, number(theirs.pgrp), "{pid}");
        assert_eq!(ours.session, number(theirs.session), "{pid}");
        assert_eq!(ours.kernel_thread, theirs.flags & KERNEL_THREAD != 0, "{pid}");
        let waited_for = u64::try_from(theirs.cutime + theirs.cstime).unwrap();
        assert_eq!(ours.cpu_ticks, theirs.utime + theirs.stime + waited_for, "{pid}");
        assert_eq!(ours.threads, u64::try_from(theirs.num_threads).unwrap(), "{pid}");
        assert_eq!(ours.start_ticks, theirs.starttime, "{pid}");
        assert_eq!(ours.rss_pages, theirs.rss, "{pid}");
        assert_eq!(Some(ours.env_start), theirs.env_start, "{pid}");
        Some(())
    });
}

#[test]
fn both_read_the_same_user_ids() {
    each_process(|pid| {
        let text = file(pid, "status")?;
        let theirs = procfs::process::Status::from_read(text.as_slice()).ok()?;
        let ours = status::uids(&text).unwrap();
        let theirs = (theirs.ruid, theirs.euid, theirs.suid);
        assert_eq!((ours.real, ours.effective, ours.saved), theirs, "{pid}");
        Some(())
    });
}

#[test]
fn both_read_the_same_limits() {
    each_process(|pid| {
        let text = file(pid, "limits")?;
        let ours = Limits::parse_file(&text).unwrap();
        let theirs = procfs::process::Limits::from_read(text.as_slice()).unwrap().max_file_locks;
        let number = |limit| match limit {
            LimitValue::Unlimited => u64::MAX,
            LimitValue::Value(value) => value,
        };
        let theirs = (number(theirs.soft_limit), number(theirs.hard_limit));
        assert_eq!((ours.soft, ours.hard), theirs, "{pid}");
        Some(())
    });
}

#[test]
fn both_read_the_same_command_line() {
    each_process(|pid| {
        let before = stat_of(pid)?;
        let text = file(pid, "cmdline").unwrap_or_default();
        let theirs = procfs::process::Process::new(pid.get()).ok()?.cmdline().ok()?;
        // The process may have executed another program or changed its title meanwhile.
        let is_same = stat_of(pid)?.start_ticks == before.start_ticks
            && file(pid, "cmdline").unwrap_or_default() == text;
        if !is_same || std::str::from_utf8(&text).is_err() {
            return None;
        }
        // The other crate leaves empty arguments out.
        let ours: Vec<_> = argv::args(&text)
            .filter(|arg| !arg.is_empty())
            .map(String::from_utf8_lossy)
            .collect();
        assert_eq!(ours, theirs, "{pid}");
        if ours.is_empty() {
            let name = String::from_utf8_lossy(&before.comm).into_owned();
            let is_empty = text.iter().all(|&byte| byte == 0);
            assert!(!is_empty || cmdline::shown(&text, &before.comm) == format!("[{name}]"));
        }
        Some(())
    });
}

#[test]
fn both_say_when_each_process_began() {
    let host = Host::current().unwrap();
    each_process(|pid| {
        let start = || {
            let process = procfs::process::Process::new(pid.get()).ok()?;
            Some(host.clock().to_machine(process.stat().ok()?.starttime))
        };
        let before = start()?;
        let ours = host.identify(pid).ok()?.0.start_ticks;
        if start()? != before {
            return None;
        }
        assert_eq!(ours, before, "{pid}");
        Some(())
    });
}
