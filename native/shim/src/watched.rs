//! What wakes the shim.

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{BorrowedFd, OwnedFd};

/// The descriptors that are watched. What is missing is not watched.
pub(crate) struct Watched {
    pub(crate) signals: OwnedFd,
    pub(crate) leash: Option<BorrowedFd<'static>>,
    pub(crate) owner: Option<OwnedFd>,
    /// The child's end of it closes at exec; bytes say why exec was not reached.
    pub(crate) exec: Option<OwnedFd>,
}

/// What was found.
#[derive(Clone, Copy)]
pub(crate) struct Woken {
    pub(crate) signals: bool,
    pub(crate) leash: bool,
    pub(crate) owner: bool,
    pub(crate) exec: bool,
}

impl Woken {
    pub(crate) fn any(self) -> bool {
        self.signals || self.leash || self.owner || self.exec
    }
}

impl Watched {
    /// Waits for at most so many milliseconds, `None` for ever.
    pub(crate) fn wait(&self, ms: Option<u64>) -> Woken {
        self.poll(PollFlags::IN, ms)
    }

    fn poll(&self, signals: PollFlags, ms: Option<u64>) -> Woken {
        // poll(2) cannot leave a place out; the signals, asked for no event, never wake and stand in.
        let nothing = PollFd::new(&self.signals, PollFlags::empty());
        let leash = self.leash.as_ref().map(|fd| PollFd::new(fd, PollFlags::empty()));
        let owner = self.owner.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN));
        let exec = self.exec.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN));
        let mut fds = [
            PollFd::new(&self.signals, signals),
            leash.unwrap_or(nothing.clone()),
            owner.unwrap_or(nothing.clone()),
            exec.unwrap_or(nothing),
        ];
        let _ = rustix::event::poll(&mut fds, ms.map(timespec).as_ref());
        // Any event counts: a leash that is not open (POLLNVAL) is one that is let go.
        let [signals, leash, owner, exec] = fds.map(|fd| !fd.revents().is_empty());
        Woken { signals, leash, owner, exec }
    }

    /// Whether leash or owner say, now or within so many milliseconds, that nobody wants the tree.
    pub(crate) fn let_go_within(&self, ms: u64) -> bool {
        let woken = self.poll(PollFlags::empty(), Some(ms));
        woken.leash || woken.owner
    }

    /// Whether the leash has hung up already, whatever became of the owner.
    pub(crate) fn leash_let_go(&self) -> bool {
        self.poll(PollFlags::empty(), Some(0)).leash
    }
}

fn timespec(ms: u64) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(ms % 1000).unwrap_or(0) * 1_000_000,
    }
}
