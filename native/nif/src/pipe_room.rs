//! More room for the few pipes that are always full.
//!
//! The reader of a full pipe of 64 KiB empties it in one call. Then both sides go to sleep and
//! are woken again. With 256 KiB they work side by side, which moves 1.4 times as much on two
//! CPUs.
//!
//! Pipes come out of a budget of the *user*, `/proc/sys/fs/pipe-user-pages-soft`, 16,384 pages by
//! default. Beyond it every new pipe of the user, in any program, gets only two pages. So no pipe
//! gets room by default. A pipe that was found full several times borrows it. At most [`PLACES`]
//! pipes of this VM have it at a time. The room is given back when the pipe is closed or hardly
//! used any more. A pipe that falls silent all at once keeps its room, because no read looks at
//! it then.

use rustix::pipe::{fcntl_getpipe_size, fcntl_setpipe_size};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The usual size that pipe(7) gives. If a pipe has another size, a program set that size on
/// purpose, or the pipe is small because the budget is exceeded.
const USUAL: usize = 64 * 1024;
/// The larger size. In measurements 1 MiB moves less, because it no longer fits into a CPU's
/// cache.
const ROOMY: usize = 256 * 1024;
/// The number of pipes with more room: 2,048 pages in all, an eighth of the budget.
const PLACES: usize = 32;
/// The number of bytes that counts as full. A write that is not a multiple of a page leaves its
/// last page partly empty, so a full pipe may hold half.
const FULL: usize = USUAL / 2;
/// The number of times that a pipe must be found full. A program that writes much only once needs
/// no room.
const TIMES_FULL: u8 = 4;
/// The number of reads in a row that must find little to show that the room is not needed.
const TIMES_CALM: u8 = 64;

static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// The history of a pipe's fill, and the room lent to it.
#[derive(Debug, Default)]
pub(crate) struct PipeRoom {
    place: Option<Place>,
    full: u8,
    calm: u8,
}

impl PipeRoom {
    /// Learns that a reader found so many bytes in `pipe`, and gives or takes back room.
    pub(crate) fn found(&mut self, pipe: BorrowedFd<'_>, bytes: usize) {
        // Between two bursts every reader finds nothing.
        if bytes == 0 {
            return;
        }
        if bytes < FULL {
            self.full = 0;
            self.calm = self.calm.saturating_add(1);
        } else {
            self.full = self.full.saturating_add(1);
            self.calm = 0;
        }
        if self.place.is_none() && self.full >= TIMES_FULL {
            self.full = 0;
            self.place = widen(pipe);
        } else if self.place.is_some() && self.calm >= TIMES_CALM {
            self.calm = 0;
            // EBUSY as long as the pipe holds more than would fit.
            if fcntl_setpipe_size(pipe, USUAL).is_ok() {
                self.place = None;
            }
        }
    }
}

/// Returns `None` if the pipe does not have the usual size, all places are taken, or the kernel
/// refuses (EPERM: the budget is exceeded).
fn widen(pipe: BorrowedFd<'_>) -> Option<Place> {
    if fcntl_getpipe_size(pipe) != Ok(USUAL) {
        return None;
    }
    let place = Place::take()?;
    fcntl_setpipe_size(pipe, ROOMY).is_ok().then_some(place)
}

/// One of the places; dropping it gives it back.
#[derive(Debug)]
struct Place(());

impl Place {
    fn take() -> Option<Self> {
        let more = |taken| (taken < PLACES).then_some(taken + 1);
        // A value exists only after it was counted, because dropping it counts back.
        TAKEN
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()
            .map(|_before| Self(()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        TAKEN.fetch_sub(1, Ordering::Relaxed);
    }
}
