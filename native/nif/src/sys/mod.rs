//! All `unsafe` of the crate: the VM's resource of a descriptor, receiving descriptors, signals by number.
#![allow(unsafe_code)]

mod fd;
mod message;
mod receive;
mod signal;

pub(crate) use fd::{ArmError, Fd, OwnerGone, Readiness, register};
pub(crate) use message::{Sent, owned, receive_from, send_with, standard};
pub(crate) use receive::{Received, receive};
pub(crate) use signal::send_signal;

fn last_errno() -> rustix::io::Errno {
    let code = std::io::Error::last_os_error().raw_os_error();
    code.map_or(rustix::io::Errno::IO, rustix::io::Errno::from_raw_os_error)
}
