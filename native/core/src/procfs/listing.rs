//! Lists the processes that `/proc` shows.

use crate::os::pid::Pid;
use crate::procfs::host::Host;
use rustix::fs::{RawDir, SeekFrom};
use rustix::io::Errno;
use std::mem::MaybeUninit;
use std::ops::ControlFlow;

// The size that glibc's readdir takes too. A larger one is not faster.
pub(crate) const LISTING: usize = 32 * 1024;

/// Room for about ten entries. Such a listing is still fresh when its last entry is read, even on
/// a starved processor.
pub(crate) const FRESH_LISTING: usize = 256;

/// Calls back for every process, kernel threads too, until told to stop.
pub(crate) fn each_process(
    host: &Host,
    size: usize,
    callback: impl FnMut(Pid) -> ControlFlow<()>,
) -> Result<(), Errno> {
    each_process_from(host, 0, size, callback)
}

/// As [`each_process`], from a number upwards.
pub(crate) fn each_process_from(
    host: &Host,
    first: u32,
    size: usize,
    mut callback: impl FnMut(Pid) -> ControlFlow<()>,
) -> Result<(), Errno> {
    let directory = host.proc().listing()?;
    if first > 0 {
        // The kernel's position of a process's entry is the process's number plus this constant
        // (FIRST_PROCESS_ENTRY, fs/proc/base.c). If that changes, only the order in which a quick
        // pass looks suffers.
        rustix::fs::seek(&directory, SeekFrom::Start(256 + u64::from(first)))?;
    }
    let mut buffer = vec![MaybeUninit::uninit(); size];
    let mut entries = RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        match entry {
            Ok(entry) => {
                if let Some(pid) = Pid::parse(entry.file_name().to_bytes()) {
                    if callback(pid).is_break() {
                        return Ok(());
                    }
                }
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
