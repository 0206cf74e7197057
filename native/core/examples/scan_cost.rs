//! Prints what one pass costs here: `cargo run --release -p leash-core --example scan_cost`.

use leash_core::{Host, ScanOptions, count_marked, scan};
use std::time::{Duration, Instant};

fn main() -> Result<(), leash_core::Error> {
    let host = Host::current()?;
    let (processes, marked) = count_marked(&host)?;
    println!("{processes} processes, {marked} marked; medians of 15");
    let marks = median(|| drop(count_marked(&host)));
    let brief = median(|| drop(scan(&host, &ScanOptions::MARKED)));
    let all = median(|| drop(scan(&host, &ScanOptions::ALL)));
    println!("marks alone {marks:?}, marked processes read {brief:?}, every carrier {all:?}");
    println!("marks_us {}", marks.as_micros());
    Ok(())
}

fn median(mut run: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..15)
        .map(|_| {
            let began = Instant::now();
            run();
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
