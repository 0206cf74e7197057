//! A stand-in for a shim in tests: `leash-shim --run-id=… [--worker=N] [options] -- MS COMMAND…` starts the command, waits
//! MS, kills it and exits, as a shim does whose leash is gone. It never lives longer than a minute.
//!
//! With `CHILDREN_BOOTTIME=SECONDS` its children get a time namespace in which it is not itself.

use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::process::{Command, ExitCode};
use std::time::Duration;

fn main() -> ExitCode {
    let mut args = std::env::args().skip_while(|arg| arg != "--").skip(1);
    let Some(wait) = args.next().and_then(|text| text.parse().ok()) else {
        return ExitCode::from(125);
    };
    let Some(program) = args.next() else { return ExitCode::from(125) };
    if let Ok(seconds) = std::env::var("CHILDREN_BOOTTIME") {
        if !give_children_a_clock(&seconds) {
            return ExitCode::from(124);
        }
    }
    let Ok(mut worker) = Command::new(program).args(args).spawn() else {
        return ExitCode::from(126);
    };
    std::thread::sleep(Duration::from_millis(wait).min(Duration::from_secs(60)));
    let _ = worker.kill();
    let _ = worker.wait();
    ExitCode::SUCCESS
}

fn give_children_a_clock(seconds: &str) -> bool {
    // SAFETY: no descriptors are unshared, and there is one thread.
    unsafe { unshare_unsafe(UnshareFlags::NEWTIME) }.is_ok()
        && std::fs::write("/proc/self/timens_offsets", format!("boottime {seconds} 0")).is_ok()
}
