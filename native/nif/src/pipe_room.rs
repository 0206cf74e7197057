//! More room for the few pipes that are always full.
//!
//! The reader of a pipe of 64 KiB that is full empties it in one call, and then both sides go to sleep and are woken
//! again. With 256 KiB they work side by side, which moves 1.4 times as much on two CPUs.
//!
//! But pipes come out of a budget of the *user*, `/proc/sys/fs/pipe-user-pages-soft`, 16,384 pages by default: past it every new pipe of
//! the user, of whatever program, gets two pages only. So nobody gets room by default. It is lent to a pipe that was found full
//! several times, to at most [`PLACES`] pipes of this VM at a time, and given back when the pipe is closed or
//! hardly used any more. A pipe that falls silent all at once keeps it: nobody looks at it then.

use rustix::pipe::{fcntl_getpipe_size, fcntl_setpipe_size};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What pipe(7) gives where it gives the usual. One of another size was set by somebody who had his reasons, or
/// is small because the budget is exceeded.
const USUAL: usize = 64 * 1024;
/// Measured: 1 MiB moves less, because it no longer fits into a CPU's cache.
const ROOMY: usize = 256 * 1024;
/// 2,048 pages, an eighth of the budget.
const PLACES: usize = 32;
/// A write that is no multiple of a page leaves its last page partly empty: full may mean half.
const FULL: usize = USUAL / 2;
/// How often a pipe has to be found full: a program that says much once needs no room.
const TIMES_FULL: u8 = 4;
/// How many reads in a row that find little show that the room is not needed.
const TIMES_CALM: u8 = 64;

static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// How a pipe fills, and the room lent to it.
#[derive(Debug, Default)]
pub(crate) struct PipeRoom {
    place: Option<Place>,
    full: u8,
    calm: u8,
}

impl PipeRoom {
    /// Learns that a reader found so many bytes in `pipe`, and gives or takes back room.
    pub(crate) fn found(&mut self, pipe: BorrowedFd<'_>, bytes: usize) {
        // Between two bursts everybody finds nothing.
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
            // EBUSY while it holds more than would fit.
            if fcntl_setpipe_size(pipe, USUAL).is_ok() {
                self.place = None;
            }
        }
    }
}

/// Nothing where the pipe is not the usual one, all places are taken, or the kernel refuses (EPERM: the budget is exceeded).
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
        // Made only when it was counted: dropping it counts back.
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
