//! Functions for the fuzz targets only: readers of the kernel's files, and the places of
//! commands.

use core::ffi::CStr;

use crate::cli::config::Config;
use crate::os::stat::Stat;

/// Returns parent, start, and whether it is a kernel thread, from `/proc/<pid>/stat`.
#[must_use]
pub fn stat(text: &[u8]) -> Option<(i32, u64, bool)> {
    let stat = Stat::parse(text)?;
    Some((stat.ppid, stat.start_ticks, stat.kernel_thread))
}

/// Returns where a command of the ladder begins, and its number of arguments.
#[must_use]
pub fn step_command<'a>(
    config: &Config<'_>,
    number: usize,
    args: impl Iterator<Item = &'a CStr>,
) -> Option<(usize, usize)> {
    config.step.nth(number, args).map(|command| (command.first, command.count))
}
