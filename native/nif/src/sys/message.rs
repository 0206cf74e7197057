//! Messages with descriptors on connected sockets: `sendmsg(2)` and `recvmsg(2)`.

use super::errno::last_errno;
use rustix::io::Errno;
use std::mem::{MaybeUninit, size_of, size_of_val};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Room for at least the descriptors of a request.
const SPACE: usize = 64 + size_of::<[RawFd; 8]>();

#[repr(C, align(8))]
struct Control([MaybeUninit<u8>; SPACE]);

/// A received message.
pub(crate) struct Sent {
    /// The number of bytes, 0 at the end.
    pub(crate) length: usize,
    /// The first of the descriptors; others are closed.
    pub(crate) descriptor: Option<OwnedFd>,
}

/// Sends one message without waiting.
pub(crate) fn send_with(
    socket: BorrowedFd<'_>,
    parts: &[&[u8]],
    fds: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    let mut control = Control([MaybeUninit::zeroed(); SPACE]);
    let mut iov: Vec<_> = parts
        .iter()
        .map(|part| libc::iovec {
            iov_base: part.as_ptr().cast_mut().cast(),
            iov_len: part.len(),
        })
        .collect();
    // SAFETY: zero is a valid msghdr, whose padding differs between the C libraries.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    (header.msg_iov, header.msg_iovlen) = (iov.as_mut_ptr(), iov.len() as _);
    let bytes = u32::try_from(size_of_val(fds)).map_err(|_| Errno::INVAL)?;
    if !fds.is_empty() {
        header.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: the call only computes a number. The space suffices for the callers, which pass
        // at most eight descriptors.
        header.msg_controllen = unsafe { libc::CMSG_SPACE(bytes) } as _;
        if fds.len() > 8 {
            return Err(Errno::INVAL);
        }
        // SAFETY: the header points to a space of that size, aligned and zero. A descriptor is a
        // number for the kernel.
        unsafe {
            let first = libc::CMSG_FIRSTHDR(&header);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = libc::CMSG_LEN(bytes) as _;
            let data = libc::CMSG_DATA(first).cast::<RawFd>();
            for (index, fd) in fds.iter().enumerate() {
                data.add(index).write_unaligned(fd.as_raw_fd());
            }
        }
    }
    // SAFETY: every pointer is to a buffer above, of the length beside it.
    let sent = unsafe {
        libc::sendmsg(socket.as_raw_fd(), &header, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    };
    if sent < 0 { Err(last_errno()) } else { Ok(()) }
}

/// Receives one message without waiting; descriptors that come with it are close-on-exec.
pub(crate) fn receive_from(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Sent, Errno> {
    let mut control = Control([MaybeUninit::zeroed(); SPACE]);
    let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: zero is a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    (header.msg_iov, header.msg_iovlen) = (&mut iov, 1);
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = SPACE as _;
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: every pointer is to a buffer above, of the length beside it.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut header, flags) };
    let Ok(length) = usize::try_from(length) else { return Err(last_errno()) };
    let mut descriptor = None;
    // SAFETY: per cmsg(3), the kernel has written whole headers within msg_controllen, and the
    // macros follow them. Each descriptor in them becomes owned once.
    unsafe {
        let mut next = libc::CMSG_FIRSTHDR(&header);
        while let Some(found) = next.as_ref() {
            if (found.cmsg_level, found.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                #[allow(clippy::unnecessary_cast)]
                let bytes = (found.cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
                let data = libc::CMSG_DATA(next).cast::<RawFd>();
                for index in 0..bytes / size_of::<RawFd>() {
                    let fd = OwnedFd::from_raw_fd(data.add(index).read_unaligned());
                    descriptor.get_or_insert(fd);
                }
            }
            next = libc::CMSG_NXTHDR(&header, next);
        }
    }
    Ok(Sent { length, descriptor })
}

/// Takes ownership of a descriptor that a call has just opened.
pub(crate) fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: the callers have it from accept4(2), and from nowhere else.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Returns one of the VM's standard descriptors.
pub(crate) fn standard(number: usize) -> BorrowedFd<'static> {
    let number = RawFd::try_from(number).unwrap_or(0);
    // SAFETY: if it is not open, its use is EBADF.
    unsafe { BorrowedFd::borrow_raw(number) }
}
