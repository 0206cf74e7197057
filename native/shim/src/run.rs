//! The order of work, from the command line to the exit status.

use core::mem::ManuallyDrop;
use leash_tag::signal;
use rustix::io::Errno;

use crate::cli::config::Config;
use crate::cli::options;
use crate::cli::parse::{self, Parsed};
use crate::mode::{attach, supervise, warden};
use crate::os::vectors::Vectors;
use crate::os::{descriptors, signals};
use crate::out::messages;
use crate::out::report::{Ready, Report};
use crate::out::stage::{Failed, Stage};
use crate::start::{inherited, prepare};

/// The exit status if the shim itself fails.
const OWN_FAILURE: u8 = 125;

/// Does everything. Returns the exit status of the process.
#[must_use]
pub fn run(vectors: Vectors) -> u8 {
    match parse::parse(vectors.args()) {
        Ok(Parsed::Run(config)) => start(vectors, &config),
        Ok(Parsed::Help) => print(options::HELP),
        Ok(Parsed::Version) => print(options::VERSION),
        Err(error) => {
            messages::arg_error(&error);
            OWN_FAILURE
        }
    }
}

/// Prints to stdout. Returns the exit status.
fn print(text: &str) -> u8 {
    match rustix::io::write(descriptors::borrow(1), text.as_bytes()) {
        Ok(len) if len == text.len() => 0,
        _ => OWN_FAILURE,
    }
}

/// Prepares what all modes have in common, and runs one of them.
fn start(vectors: Vectors, config: &Config<'static>) -> u8 {
    // This comes before anything is opened, so that nothing lands on 0 to 2 and no own descriptor
    // is closed.
    prepare::standard_descriptors();
    prepare::close_others(config);
    // If SIGCHLD were inherited as ignored, the kernel would reap the shim's children, and their
    // statuses would be lost.
    signals::default_disposition(signal::CHLD);
    // A blocked signal reaches the shim even if it is ignored. The VM's own requests have to
    // reach it. By hand, a signal that nohup(1) has turned off stays off.
    let by_hand = config.leash.is_none() && !config.warden;
    signals::set_mask(if by_hand { !signals::turned_off() } else { u64::MAX });

    let ready = Ready::default();
    let report = Report::new(config.report.map(descriptors::borrow), &ready);
    run_mode(vectors, config, report).unwrap_or_else(|(stage, errno)| {
        tell_failure(config, report, stage, errno);
        OWN_FAILURE
    })
}

/// Runs what the command line asks for. The end of the process closes all descriptors at once, so
/// nothing is dropped.
fn run_mode(
    vectors: Vectors,
    config: &Config<'static>,
    report: Report<'_>,
) -> Result<u8, Failed> {
    if config.warden {
        return warden::begin(config, report).map(|run| ManuallyDrop::new(run).run());
    }
    if let Some(target) = config.attach {
        return attach::begin(vectors, config, target, report)
            .map(|tree| ManuallyDrop::new(tree).run());
    }
    let left = inherited::leave_behind(vectors, config).map_err(|errno| (Stage::Fork, errno))?;
    if let Some(status) = left {
        return Ok(status);
    }
    supervise::begin(vectors, config, report).map(|tree| ManuallyDrop::new(tree).run())
}

/// Reports why nothing was started. Without a VM, a person is told.
fn tell_failure(config: &Config<'_>, report: Report<'_>, stage: Stage, errno: Errno) {
    let errno = u16::try_from(errno.raw_os_error()).unwrap_or(0);
    report.start_failed(stage as u8, errno);
    if config.report.is_none() {
        match config.attach {
            None if config.warden => messages::no_warden(errno),
            None => messages::start_failed(config.command.to_bytes(), stage as u8, errno),
            Some((pid, _)) => messages::not_attached(pid, errno),
        }
    }
}
