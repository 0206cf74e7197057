//! Prints what one pass costs here: `cargo run --release -p leash-core --example scan_cost`.
//!
//! Beside it the floor: listing `/proc` and asking each process for its limit, with nothing around the system calls.

use leash_core::{Host, ScanOptions, count_marked, scan};
use nix::libc;
use rustix::fs::{Mode, OFlags, RawDir};
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

const ROUNDS: usize = 16;

fn main() -> Result<(), leash_core::Error> {
    let host = Host::current()?;
    let (processes, marked) = count_marked(&host)?;
    println!("{processes} processes, {marked} marked; medians of {ROUNDS}");
    let marks = || drop(count_marked(&host));
    let floor = || {
        let _ = floor();
    };
    in_turn(("floor", &floor), ("marks", &marks));
    let marked = || drop(scan(&host, &ScanOptions::MARKED));
    let all = || drop(scan(&host, &ScanOptions::ALL));
    in_turn(("marked", &marked), ("all", &all));
    Ok(())
}

/// So that whatever else the machine does falls on both alike, and neither always finds the caches as the other left them.
fn in_turn(one: (&str, &dyn Fn()), other: (&str, &dyn Fn())) {
    let (mut ones, mut others) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        if round % 2 == 0 {
            ones.push(time(one.1));
            others.push(time(other.1));
        } else {
            others.push(time(other.1));
            ones.push(time(one.1));
        }
    }
    for (name, mut times) in [(one.0, ones), (other.0, others)] {
        times.sort_unstable();
        println!("{name}_us {}", times.get(ROUNDS / 2).copied().unwrap_or_default().as_micros());
    }
}

fn time(look: &dyn Fn()) -> Duration {
    let began = Instant::now();
    look();
    began.elapsed()
}

/// How many limits could be read.
fn floor() -> rustix::io::Result<usize> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = rustix::fs::open("/proc", flags, Mode::empty())?;
    let mut buffer = [MaybeUninit::uninit(); 32 * 1024];
    let mut entries = RawDir::new(proc, &mut buffer);
    let mut read = 0;
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !name.first().is_some_and(u8::is_ascii_digit) {
            continue;
        }
        let pid = name.iter().fold(0, |pid, digit| pid * 10 + libc::pid_t::from(digit & 15));
        let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the new limit is null, so nothing is set; `old` is a live, writable `rlimit` for the whole call.
        read += usize::from(
            unsafe { libc::prlimit(pid, libc::RLIMIT_LOCKS, std::ptr::null(), &raw mut old) }
                == 0,
        );
    }
    Ok(read)
}
