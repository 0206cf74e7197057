//! A stand-in for a shim in tests: `leash-shim --run-id=… [--worker=N] [options] -- MS COMMAND…` starts the command, waits
//! MS, kills it and exits, as a shim does whose leash is gone. It never lives longer than a minute.

use std::process::{Command, ExitCode};
use std::time::Duration;

fn main() -> ExitCode {
    let mut args = std::env::args().skip_while(|arg| arg != "--").skip(1);
    let Some(wait) = args.next().and_then(|text| text.parse().ok()) else { return ExitCode::from(125) };
    let Some(program) = args.next() else { return ExitCode::from(125) };
    let Ok(mut worker) = Command::new(program).args(args).spawn() else { return ExitCode::from(126) };
    std::thread::sleep(Duration::from_millis(wait).min(Duration::from_secs(60)));
    let _ = worker.kill();
    let _ = worker.wait();
    ExitCode::SUCCESS
}
