//! `recvmsg(2)` with descriptors and credentials.
//!
//! The wrappers there are do not fit: rustix reads credentials into a type that cannot hold the pid 0 of a
//! sender in another pid namespace, and nix refuses a truncated message without closing the descriptors
//! that the kernel has installed already.

use rustix::io::Errno;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

/// The most descriptors that the kernel lets one message carry (`SCM_MAX_FD`, unix(7)). With room for all of them
/// only a full table of descriptors truncates.
const MAX_DESCRIPTORS: usize = 253;
const SPACE: usize = 64 + MAX_DESCRIPTORS * size_of::<RawFd>() + size_of::<libc::ucred>();

/// Who sent a datagram, attached by the kernel. The pid is 0 for a sender outside our pid namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender {
    pub(crate) pid: i32,
    pub(crate) uid: u32,
}

/// One datagram. Dropping it closes the descriptors that came with it.
#[derive(Debug)]
pub(crate) struct Received {
    /// One byte more than a datagram of ours has: a longer one is seen to be longer.
    pub(crate) payload: [u8; 9],
    pub(crate) length: usize,
    pub(crate) sender: Option<Sender>,
    pub(crate) descriptors: Vec<OwnedFd>,
    /// Descriptors were lost.
    pub(crate) truncated: bool,
}

#[repr(C, align(8))]
struct Control([MaybeUninit<u8>; SPACE]);

/// Takes one datagram without waiting; what comes with it is close-on-exec.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> Result<Received, Errno> {
    let mut payload = [0; 9];
    let mut control = Control([MaybeUninit::uninit(); SPACE]);
    let mut iov = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
    // SAFETY: zero is a valid msghdr, whose padding differs between the C libraries.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = SPACE as _;
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: every pointer in `message` is to a buffer above, of the length beside it.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, flags) };
    let Ok(length) = usize::try_from(length) else { return Err(super::last_errno()) };
    let truncated = message.msg_flags & libc::MSG_CTRUNC != 0;
    let mut received = Received { payload, length, sender: None, descriptors: Vec::new(), truncated };
    // SAFETY: `message` is as the kernel left it.
    unsafe { read_control(&message, &mut received) };
    Ok(received)
}

/// # Safety
///
/// `message` was filled by a successful `recvmsg`, and is read once: the descriptors in it become owned.
unsafe fn read_control(message: &libc::msghdr, received: &mut Received) {
    // SAFETY: cmsg(3): the kernel has written whole headers within msg_controllen, which the macros follow.
    unsafe {
        let mut next = libc::CMSG_FIRSTHDR(message);
        while let Some(header) = next.as_ref() {
            let data = libc::CMSG_DATA(next);
            // The casts: the fields' types differ between the C libraries.
            #[allow(clippy::unnecessary_cast)]
            let length = (header.cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
            match (header.cmsg_level, header.cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                    for index in 0..length / size_of::<RawFd>() {
                        let number = ptr::read_unaligned(data.cast::<RawFd>().add(index));
                        received.descriptors.push(OwnedFd::from_raw_fd(number));
                    }
                }
                (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if length >= size_of::<libc::ucred>() => {
                    let credentials = ptr::read_unaligned(data.cast::<libc::ucred>());
                    received.sender = Some(Sender { pid: credentials.pid, uid: credentials.uid });
                }
                _ => {}
            }
            next = libc::CMSG_NXTHDR(message, next);
        }
    }
}
