//! The worker's standard streams: pipes, and the datagram that takes their other ends to the VM.

use core::mem::MaybeUninit;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{Errno, IoSlice};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};
use rustix::pipe::PipeFlags;

use crate::args::{Config, Stream};
use crate::report::{Failed, Stage};
use crate::sys::now_ms;
use crate::watched::Watched;

/// How long a full socket queue is waited for.
const SEND_MS: u64 = 5_000;

/// Between two tries.
const LOOK_MS: u64 = 2;

/// One end of each pipe, in the order stdin, stdout, stderr.
type Ends = [Option<OwnedFd>; 3];

/// The pipes that were made.
pub(crate) struct Pipes {
    /// The worker's ends.
    pub(crate) worker: Ends,
    /// The other end of an open stdin, which stays here.
    pub(crate) stdin: Option<OwnedFd>,
}

/// Makes the pipes that were asked for and sends the VM's ends.
///
/// Whoever would take them may let go meanwhile; `watched` says so.
pub(crate) fn pipes(config: &Config<'_>, watched: &Watched) -> Result<Pipes, Failed> {
    let mut stdin = None;
    let mut ours: Ends = [const { None }; 3];
    let mut theirs: Ends = [const { None }; 3];
    let mut mask = 0u8;

    for (index, stream) in [config.stdin, config.stdout, config.stderr].into_iter().enumerate() {
        if !matches!(stream, Stream::Pipe | Stream::Open) {
            continue;
        }
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| (Stage::Pipe, e))?;
        if stream == Stream::Open {
            ours = [Some(read), None, None];
            stdin = Some(write);
            continue;
        }
        let (worker, vm) = if index == 0 { (read, write) } else { (write, read) };
        // Each end has a description of its own: the worker's stays blocking.
        if let Ok(flags) = rustix::fs::fcntl_getfl(&vm) {
            let _ = rustix::fs::fcntl_setfl(&vm, flags | rustix::fs::OFlags::NONBLOCK);
        }
        if let (Some(our), Some(their)) = (ours.get_mut(index), theirs.get_mut(index)) {
            *our = Some(worker);
            *their = Some(vm);
        }
        mask |= 1 << index;
    }

    if let (Some(name), true) = (config.stdio, mask != 0) {
        let worker = config.worker.map_or(0, leash_tag::WorkerNumber::get);
        send(name, worker, mask, &theirs, watched).map_err(|e| (Stage::Socket, e))?;
    }
    Ok(Pipes { worker: ours, stdin })
}

fn send(name: &[u8], worker: u16, mask: u8, ends: &Ends, watched: &Watched) -> Result<(), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    let address = SocketAddrUnix::new_abstract_name(name)?;

    let [high, low] = worker.to_be_bytes();
    let payload = [b'L', b'S', b'H', b'1', high, low, mask, 0];

    let first = ends.iter().flatten().next().ok_or(Errno::INVAL)?;
    let mut fds: [BorrowedFd<'_>; 3] = [first.as_fd(); 3];
    let mut count = 0;
    for (place, fd) in fds.iter_mut().zip(ends.iter().flatten()) {
        *place = fd.as_fd();
        count += 1;
    }

    let deadline = now_ms() + SEND_MS;
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(fds.get(..count).unwrap_or_default()));
        match rustix::net::sendmsg_addr(
            &socket,
            &address,
            &[IoSlice::new(&payload)],
            &mut control,
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        ) {
            Ok(_) => return Ok(()),
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::INTR) if now_ms() < deadline => {
                // A datagram socket that is not connected says nothing about its peer's queue.
                if watched.let_go_within(LOOK_MS) {
                    return Err(Errno::CONNREFUSED);
                }
            }
            Err(error) => return Err(error),
        }
    }
}
