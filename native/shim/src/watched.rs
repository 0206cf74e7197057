//! The events that wake the shim.

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::args::Config;
use crate::sys;

/// The most reads of pending signals in one go. A flood of signals must not keep the shim from
/// the rest.
const SIGNAL_READS: usize = 4;

/// The number of signals that one read takes.
const AT_ONCE: usize = 4;

/// The descriptors that are watched. A missing one is not watched.
pub(crate) struct Watched {
    pub(crate) signals: OwnedFd,
    pub(crate) leash: Option<BorrowedFd<'static>>,
    /// The leash is a socket on which its other end also sends requests.
    pub(crate) asks: bool,
    pub(crate) owner: Option<OwnedFd>,
    /// A pipe whose other end the child has. It closes at exec, and bytes say why exec was not
    /// reached.
    pub(crate) exec: Option<OwnedFd>,
    /// A process of an attached tree: while it lives, the tree is not gone.
    pub(crate) witness: Option<OwnedFd>,
}

/// The events that were found.
#[derive(Clone, Copy)]
pub(crate) struct Woken {
    pub(crate) signals: bool,
    /// The other end of the leash asks for something. Requests from before its hang-up come
    /// first.
    pub(crate) asked: bool,
    pub(crate) leash: bool,
    pub(crate) owner: bool,
    pub(crate) exec: bool,
    pub(crate) witness: bool,
}

impl Woken {
    pub(crate) fn any(self) -> bool {
        self.signals || self.asked || self.leash || self.owner || self.exec || self.witness
    }
}

impl Watched {
    pub(crate) fn new(signals: OwnedFd, config: &Config<'_>, owner: Option<OwnedFd>) -> Self {
        let leash = config.leash.map(sys::borrow);
        Self { signals, leash, asks: config.channel, owner, exec: None, witness: None }
    }

    /// Waits for at most this many milliseconds, `None` for ever.
    pub(crate) fn wait(&self, ms: Option<u64>) -> Woken {
        self.poll(PollFlags::IN, ms)
    }

    fn poll(&self, signals: PollFlags, ms: Option<u64>) -> Woken {
        // poll(2) cannot leave a place out. The descriptor of the signals stands in: asked for no
        // event, it never wakes.
        let nothing = PollFd::new(&self.signals, PollFlags::empty());
        let asks = if self.asks { signals } else { PollFlags::empty() };
        let leash = self.leash.as_ref().map(|fd| PollFd::new(fd, asks));
        let owner = self.owner.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN));
        let exec = self.exec.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN));
        let witness = self.witness.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN));
        let mut fds = [
            PollFd::new(&self.signals, signals),
            leash.unwrap_or(nothing.clone()),
            owner.unwrap_or(nothing.clone()),
            exec.unwrap_or(nothing.clone()),
            witness.unwrap_or(nothing),
        ];
        let _ = rustix::event::poll(&mut fds, ms.map(timespec).as_ref());
        // Any event counts: a leash that is not open (POLLNVAL) is one that is let go.
        let [signals, leash, owner, exec, witness] = fds.map(|fd| fd.revents());
        let asked = self.asks && leash.contains(PollFlags::IN);
        let any = |events: PollFlags| !events.is_empty();
        Woken {
            signals: any(signals),
            asked,
            leash: any(leash - PollFlags::IN),
            owner: any(owner),
            exec: any(exec),
            witness: any(witness),
        }
    }

    /// Takes pending signals: number, code and sender of each.
    pub(crate) fn take_signals(&self) -> impl Iterator<Item = (u8, i32, u32)> + use<> {
        let (mut taken, mut count) = ([(0u8, 0i32, 0u32); SIGNAL_READS * AT_ONCE], 0);
        let mut buffer = [0u8; 128 * AT_ONCE];
        for _ in 0..SIGNAL_READS {
            let Ok(len @ 1..) = rustix::io::read(&self.signals, &mut buffer) else { break };
            for info in buffer.get(..len).unwrap_or_default().chunks_exact(128) {
                // struct signalfd_siginfo: ssi_signo at 0, ssi_code at 8, ssi_pid at 12
                // (signalfd(2)).
                let field =
                    |at: usize| info.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
                if let (Some(&number), Some(code), Some(sender), Some(place)) =
                    (info.first(), field(8), field(12), taken.get_mut(count))
                {
                    *place = (number, i32::from_ne_bytes(code), u32::from_ne_bytes(sender));
                    count += 1;
                }
            }
            if len < buffer.len() {
                break;
            }
        }
        taken.into_iter().take(count)
    }

    /// Closes the leash that is a channel, so that its other end sees the end of all messages.
    pub(crate) fn let_go_of_channel(&mut self) {
        if let Some(fd) = self.leash.take().and_then(|fd| u32::try_from(fd.as_raw_fd()).ok()) {
            sys::close_range(fd, fd);
        }
        self.asks = false;
    }

    /// Returns the next request of the other end of the leash, `None` if there is none.
    pub(crate) fn take_asked(&self) -> Option<u8> {
        let mut message = [0u8; 8];
        let fd = self.leash.filter(|_| self.asks)?;
        let mut receive = || rustix::net::recv(fd, &mut message[..], RecvFlags::DONTWAIT);
        // This error comes once, before the requests, if the other end went without having read
        // all (af_unix.c).
        let received = receive()
            .or_else(|error| if error == Errno::CONNRESET { receive() } else { Err(error) });
        received.ok().filter(|&(_, len)| len > 0)?;
        message.first().copied()
    }

    /// Returns whether leash or owner say, now or within this many milliseconds, that the tree is
    /// not wanted any more.
    pub(crate) fn let_go_within(&self, ms: u64) -> bool {
        let woken = self.poll(PollFlags::empty(), Some(ms));
        woken.leash || woken.owner
    }

    /// Returns whether the leash has hung up already, whatever the state of the owner.
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
