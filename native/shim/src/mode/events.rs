//! The events that wake the shim.

use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::cli::config::Config;
use crate::os::clock::timespec;
use crate::os::descriptors;
use crate::os::signals::{self, Pending};
use crate::stop::ladder::Cause;
use crate::stop::request::Request;

/// The descriptors that are watched. A missing one is not watched.
pub(crate) struct EventSources {
    /// The descriptor of pending signals.
    pub(crate) signals: OwnedFd,
    /// The tree ends when it hangs up.
    pub(crate) leash: Option<BorrowedFd<'static>>,
    /// The leash is a socket on which its other end also sends requests.
    pub(crate) takes_requests: bool,
    /// The VM's pidfd. The tree ends with the VM.
    pub(crate) owner: Option<OwnedFd>,
    /// A pipe whose other end the child has. It closes at exec, and bytes say why exec was not
    /// reached.
    pub(crate) exec: Option<OwnedFd>,
    /// A process of an attached tree: while it lives, the tree is not gone.
    pub(crate) witness: Option<OwnedFd>,
}

/// The events that were found.
#[derive(Clone, Copy)]
pub(crate) struct Events {
    /// Signals are pending.
    pub(crate) signals: bool,
    /// The other end of the leash asks for something. Requests from before its hang-up come
    /// first.
    pub(crate) requests: bool,
    /// The leash has hung up.
    pub(crate) leash: bool,
    /// The owner has ended.
    pub(crate) owner: bool,
    /// The child has reached its exec, or failed before it.
    pub(crate) exec: bool,
    /// The witness has ended.
    pub(crate) witness: bool,
}

impl Events {
    /// Returns whether anything has happened.
    pub(crate) fn any(self) -> bool {
        self.signals || self.requests || self.leash || self.owner || self.exec || self.witness
    }
}

impl EventSources {
    /// Watches the signals, the leash of the command line, and the owner.
    pub(crate) fn new(signals: OwnedFd, config: &Config<'_>, owner: Option<OwnedFd>) -> Self {
        let leash = config.leash.map(descriptors::borrow);
        Self { signals, leash, takes_requests: config.channel, owner, exec: None, witness: None }
    }

    /// Returns the flags of the `ready` report.
    pub(crate) fn flags(&self, is_subreaper: bool) -> u8 {
        let flags = [is_subreaper, self.owner.is_some(), self.leash.is_some()];
        (0..).zip(flags).fold(0, |flags, (bit, is_so)| flags | u8::from(is_so) << bit)
    }

    /// Waits for at most this many milliseconds, `None` for ever.
    pub(crate) fn wait(&self, ms: Option<u64>) -> Events {
        self.poll(PollFlags::IN, ms)
    }

    /// Polls all sources. Those that bring data are asked for `signals`.
    fn poll(&self, signals: PollFlags, ms: Option<u64>) -> Events {
        // poll(2) cannot leave a place out. The descriptor of the signals stands in: asked for no
        // event, it never wakes.
        let nothing = PollFd::new(&self.signals, PollFlags::empty());
        let asked = if self.takes_requests { signals } else { PollFlags::empty() };
        let leash = self.leash.as_ref().map(|fd| PollFd::new(fd, asked));
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
        let requests = self.takes_requests && leash.contains(PollFlags::IN);
        let any = |events: PollFlags| !events.is_empty();
        Events {
            signals: any(signals),
            requests,
            leash: any(leash - PollFlags::IN),
            owner: any(owner),
            exec: any(exec),
            witness: any(witness),
        }
    }

    /// Drops leash and owner if they have ended. Returns why the tree ends then.
    ///
    /// A closed or ended descriptor stays readable and would wake the shim for ever.
    pub(crate) fn drop_ended(&mut self, events: Events) -> Option<Cause> {
        if events.owner {
            self.owner = None;
        }
        if events.leash {
            self.leash = None;
            return Some(Cause::Leash);
        }
        events.owner.then_some(Cause::Owner)
    }

    /// Takes pending signals.
    pub(crate) fn take_signals(&self) -> impl Iterator<Item = Pending> + use<> {
        signals::take(&self.signals)
    }

    /// Closes the leash that is a channel, so that its other end sees the end of all messages.
    pub(crate) fn let_go_of_channel(&mut self) {
        if let Some(fd) = self.leash.take() {
            descriptors::close(fd.as_raw_fd());
        }
        self.takes_requests = false;
    }

    /// Returns the next request of the other end of the leash, `None` if there is none.
    pub(crate) fn take_request(&self) -> Option<Request> {
        let mut message = [0u8; 8];
        let fd = self.leash.filter(|_| self.takes_requests)?;
        let mut receive = || rustix::net::recv(fd, &mut message[..], RecvFlags::DONTWAIT);
        // This error comes once, before the requests, if the other end went without having read
        // all (af_unix.c).
        let received = receive()
            .or_else(|error| if error == Errno::CONNRESET { receive() } else { Err(error) });
        received.ok().filter(|&(_, len)| len > 0)?;
        Some(Request::parse(&message))
    }

    /// Returns whether leash or owner say, now or within this many milliseconds, that the tree is
    /// not wanted any more.
    pub(crate) fn let_go_within(&self, ms: u64) -> bool {
        let events = self.poll(PollFlags::empty(), Some(ms));
        events.leash || events.owner
    }

    /// Returns whether the leash has hung up already, whatever the state of the owner.
    pub(crate) fn leash_let_go(&self) -> bool {
        self.poll(PollFlags::empty(), Some(0)).leash
    }
}
