//! Functions for the fuzz targets only: readers of the kernel's files, and the places of
//! commands.

use core::ffi::CStr;
use leash_tag::Limits;

use crate::args::Config;
use crate::proc_file::{self, Stat};

/// Returns parent, start, and whether it is a kernel thread, from `/proc/<pid>/stat`.
#[must_use]
pub fn stat(text: &[u8]) -> Option<(i32, u64, bool)> {
    let stat = Stat::parse(text)?;
    Some((stat.ppid, stat.start_ticks, stat.kernel_thread))
}

/// Returns the limits in the line "Max file locks" of `/proc/<pid>/limits`.
#[must_use]
pub fn locks_in(text: &[u8]) -> Option<Limits> {
    proc_file::locks_in(text)
}

/// Returns where a command of the ladder begins, and its number of arguments.
#[must_use]
pub fn block<'a>(
    config: &Config<'_>,
    number: usize,
    args: impl Iterator<Item = &'a CStr>,
) -> Option<(usize, usize)> {
    config.step.nth(number, args).map(|block| (block.first, block.count))
}
