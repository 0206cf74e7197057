//! What the fuzz targets call and nobody else may: readers of the kernel's files, and the places of commands.

use core::ffi::CStr;
use leash_tag::Limits;

use crate::args::Config;
use crate::proc_file::{self, Stat};

/// Parent, start and whether it is a kernel's, of `/proc/<pid>/stat`.
#[must_use]
pub fn stat(text: &[u8]) -> Option<(i32, u64, bool)> {
    let stat = Stat::parse(text)?;
    Some((stat.ppid, stat.start_ticks, stat.kernel_thread))
}

/// The line "Max file locks" of `/proc/<pid>/limits`.
#[must_use]
pub fn locks_in(text: &[u8]) -> Option<Limits> {
    proc_file::locks_in(text)
}

/// Where a command of the ladder begins, and how many arguments it is.
#[must_use]
pub fn block<'a>(
    config: &Config<'_>,
    number: usize,
    args: impl Iterator<Item = &'a CStr>,
) -> Option<(usize, usize)> {
    config.step.nth(number, args).map(|block| (block.first, block.count))
}
