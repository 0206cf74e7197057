//! The socket on which a VM asks its warden for a shim, or for word that nothing is left to be
//! ended.
//!
//! A request is one message of [`REQUEST`] bytes with its texts, and the descriptors that come
//! with it. A shim gets everything by its exec alone: arguments, environment and descriptors are
//! those of the request.

use core::mem::MaybeUninit;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};
use rustix::process::Pid;

use crate::os::child::{self, ChildStack};
use crate::os::program::{Arena, Program};
use crate::os::{descriptors, pidfd, wait};
use crate::out::stage::Stage;

/// Bytes of a request before its texts. They are `LWR1`, kind, mask of the worker's descriptors,
/// place of the texts, and a zero. The numbers of arguments and variables follow (both u32, big
/// endian).
const REQUEST: usize = 16;

/// The most descriptors of a request: the channel, the directory, the texts if they are in a
/// file, and three of the worker's.
const DESCRIPTORS: usize = 6;

/// The number at which a shim finds its channel. The worker's descriptors follow it. The warden
/// keeps these numbers free.
const CHANNEL: i32 = 3;

/// The last of these numbers.
const LAST: i32 = CHANNEL + 3;

/// The means to start shims, and the room for what they are started with.
pub(crate) struct Control {
    starter: Starter,
    arena: Arena,
}

/// The means to start a shim, beside its texts.
struct Starter {
    stack: ChildStack,
    null: OwnedFd,
}

/// A request of the VM.
pub(crate) enum Request {
    /// The shim was started; its pid.
    Started(Pid),
    /// The shim could not be started, and the VM was told.
    Failed,
    /// The VM wants word on this descriptor once no orphan is left.
    NotifyWhenClear(OwnedFd),
    /// The message is no request, or an unknown one.
    Other,
}

/// Keeps the numbers free at which shims find their descriptors. It runs before anything else is
/// opened.
///
/// # Errors
///
/// The errors of opening `/dev/null`.
pub(crate) fn prepare() -> Result<Control, Errno> {
    let null = descriptors::open_null_above(LAST)?;
    Ok(Control { starter: Starter { stack: ChildStack::new()?, null }, arena: Arena::new()? })
}

/// Connects to the VM that listens under this abstract name. If the VM's pid is not known, the
/// check of the user id has to do.
///
/// # Errors
///
/// `EACCES` if the listener is not the owner; the errors of socket(2) and connect(2).
pub(crate) fn connect(name: &[u8], owner: Option<Pid>) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new_abstract_name(name)?)?;
    let peer = rustix::net::sockopt::socket_peercred(&socket)?;
    if peer.uid != rustix::process::geteuid() || owner.is_some_and(|owner| peer.pid != owner) {
        return Err(Errno::ACCESS);
    }
    Ok(socket)
}

impl Control {
    /// Takes the next request, and starts the shim that it asks for.
    ///
    /// # Errors
    ///
    /// `EAGAIN` if there is none, `EPIPE` if none will come.
    pub(crate) fn take(&mut self, socket: BorrowedFd<'_>) -> Result<Request, Errno> {
        let mut message = [0u8; REQUEST];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let mut places = [IoSliceMut::new(&mut message), IoSliceMut::new(self.arena.text())];
        let got = rustix::net::recvmsg(socket, &mut places, &mut ancillary, flags)?;
        let mut fds: [Option<OwnedFd>; DESCRIPTORS] = [const { None }; DESCRIPTORS];
        let received = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        for (place, fd) in fds.iter_mut().zip(received.flatten()) {
            *place = Some(fd);
        }
        if got.bytes == 0 {
            return Err(Errno::PIPE);
        }
        let (bytes, was_cut) = (got.bytes, got.flags);
        let mut fds = fds.into_iter();
        let [b'L', b'W', b'R', b'1', kind, mask, place, zero, counts @ ..] = message else {
            return Ok(Request::Other);
        };
        let Some(channel) = fds.next().flatten() else { return Ok(Request::Other) };
        let outcome = match kind {
            2 => return Ok(Request::NotifyWhenClear(channel)),
            // If the warden's table of descriptors is full, some of them are lost (unix(7)).
            1 if was_cut.contains(ReturnFlags::CTRUNC) => Err(Errno::MFILE),
            1 if was_cut.contains(ReturnFlags::TRUNC) => Err(Errno::TOOBIG),
            1 if mask <= 7 && place <= 1 && zero == 0 => {
                let directory = fds.next().flatten();
                let file = if place == 1 { Some(fds.next().flatten()) } else { None };
                program(&mut self.arena, bytes, file, counts).and_then(|program| {
                    let directory = directory.ok_or(Errno::BADF)?;
                    self.starter.start(mask, channel.as_fd(), &program, &directory, fds)
                })
            }
            _ => return Ok(Request::Other),
        };
        match outcome {
            Ok((pid, pidfd)) => {
                tell(channel.as_fd(), pid, pidfd.as_ref());
                Ok(Request::Started(pid))
            }
            Err(errno) => {
                fail(channel.as_fd(), errno);
                Ok(Request::Failed)
            }
        }
    }
}

/// Returns the program whose texts came with the request, or lie in a file of it.
fn program(
    arena: &mut Arena,
    bytes: usize,
    file: Option<Option<OwnedFd>>,
    counts: [u8; 8],
) -> Result<Program<'_>, Errno> {
    // No program gets more, since each string takes a pointer and a byte of the total that
    // execve(2) accepts.
    const MOST: u64 = 1 << 20;
    let counts = u64::from_be_bytes(counts);
    let (arguments, variables) = (counts >> 32, counts & u64::from(u32::MAX));
    if arguments > MOST || variables > MOST {
        return Err(Errno::TOOBIG);
    }
    let (arguments, variables) = (arguments as usize, variables as usize);
    match file {
        Some(file) => Program::read(file.ok_or(Errno::BADF)?.as_fd(), arguments, variables),
        None => arena.program(bytes.saturating_sub(REQUEST), arguments, variables),
    }
}

impl Starter {
    /// Starts the shim. Returns its pid, and its pidfd if there is one.
    fn start(
        &self,
        mask: u8,
        channel: BorrowedFd<'_>,
        program: &Program<'_>,
        directory: &OwnedFd,
        fds: impl Iterator<Item = Option<OwnedFd>>,
    ) -> Result<(Pid, Option<OwnedFd>), Errno> {
        let mut ends = [const { None }; 3];
        for (end, fd) in ends.iter_mut().zip(fds) {
            *end = fd;
        }
        let mut failed = 0i32;
        let failure = &mut failed;
        let work = || {
            let errno = self.become_shim(mask, channel, directory, &ends, program);
            *failure = errno.raw_os_error();
            126
        };
        let (pid, pidfd) = child::start_program(&self.stack, work)?;
        if failed != 0 {
            wait::reap(pid);
            return Err(Errno::from_raw_os_error(failed));
        }
        Ok((pid, pidfd.or_else(|| pidfd::open(pid).ok())))
    }

    /// Runs in the child. Its stderr stays that of the warden, which is the VM's.
    fn become_shim(
        &self,
        mask: u8,
        channel: BorrowedFd<'_>,
        directory: &OwnedFd,
        ends: &[Option<OwnedFd>; 3],
        program: &Program<'_>,
    ) -> Errno {
        let prepare = || {
            descriptors::copy_to(self.null.as_fd(), 0)?;
            descriptors::copy_to(self.null.as_fd(), 1)?;
            descriptors::copy_to(channel, CHANNEL)?;
            let mut ends = ends.iter();
            for (bit, number) in (0..3).zip(CHANNEL + 1..) {
                if mask & 1 << bit != 0 {
                    let end = ends.next().and_then(Option::as_ref).ok_or(Errno::BADF)?;
                    descriptors::copy_to(end.as_fd(), number)?;
                }
            }
            rustix::process::fchdir(directory)
        };
        prepare().err().unwrap_or_else(|| program.exec())
    }
}

/// Sends the shim's pid and, if there is one, its pidfd. A VM that does not take them at once
/// reads the pid in `ready`.
fn tell(channel: BorrowedFd<'_>, pid: Pid, pidfd: Option<&OwnedFd>) {
    let [a, b, c, d] = pid.as_raw_pid().to_be_bytes();
    let frame = [0, 5, 8, a, b, c, d];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = pidfd.map(|pidfd| [pidfd.as_fd()]);
    if let Some(fds) = &fds {
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let _ = rustix::net::sendmsg(channel, &[IoSlice::new(&frame)], &mut ancillary, flags);
}

/// Tells why there is no shim.
fn fail(channel: BorrowedFd<'_>, errno: Errno) {
    let [high, low] = u16::try_from(errno.raw_os_error()).unwrap_or(0).to_be_bytes();
    let frame = [0, 4, 3, Stage::Shim as u8, high, low];
    let _ = rustix::net::send(channel, &frame, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}
