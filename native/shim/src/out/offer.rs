//! Writes that never wait: the message is taken at once, or it is lost.
//!
//! `O_NONBLOCK` belongs to the open file description, which the shim shares with other processes.
//! Examples are the shell's terminal and the VM's stderr. So the flag stays as it is, and each
//! write says for itself that it does not wait.

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::BorrowedFd;
use rustix::fs::FileType;
use rustix::io::{Errno, IoSlice, ReadWriteFlags};

/// A pipe with room takes this many bytes whole (PIPE_BUF in limits.h).
const PIPE_BUF: usize = 4096;

/// The most parts of a message.
pub(crate) const PARTS: usize = 9;

/// Writes the parts as one message, of which 4096 bytes are kept, if that needs no wait.
///
/// `RWF_NOWAIT` works for pipes and sockets from Linux 6.5 on. Terminals and older kernels do not
/// know it, so there a look at `POLLOUT` has to do. That look misses another writer that fills
/// the same pipe before the write.
pub(crate) fn offer(fd: BorrowedFd<'_>, parts: &[&[u8]]) {
    let mut slices = [IoSlice::new(&[]); PARTS];
    let mut left = PIPE_BUF;
    for (slice, part) in slices.iter_mut().zip(parts) {
        let part = part.get(..left).unwrap_or(part);
        left -= part.len();
        *slice = IoSlice::new(part);
    }
    let slices = slices.get(..parts.len()).unwrap_or_default();
    // The offset -1 stands for the current position of the description.
    match rustix::io::pwritev2(fd, slices, u64::MAX, ReadWriteFlags::NOWAIT) {
        Ok(_) => {}
        // A file makes a writer wait for its disk only, and would refuse data that is not in
        // memory yet.
        Err(Errno::AGAIN) if !is_file(fd) => {}
        Err(_) if has_room(fd) => _ = rustix::io::writev(fd, slices),
        Err(_) => {}
    }
}

/// Returns whether a write takes at least some bytes at once.
fn has_room(fd: BorrowedFd<'_>) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut room = [PollFd::new(&fd, PollFlags::OUT)];
    rustix::event::poll(&mut room, Some(&now)) == Ok(1)
        && room.iter().all(|fd| fd.revents().contains(PollFlags::OUT))
}

/// Returns whether a descriptor is of a regular file.
fn is_file(fd: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(fd)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}
