//! All `unsafe` of the crate: the VM's resource of a descriptor, messages with descriptors,
//! signals by number, and the environment.
#![allow(unsafe_code)]

mod fd;
mod message;
mod signal;
mod variable;

pub(crate) use fd::{ArmError, Fd, OwnerGone, Readiness, register};
pub(crate) use message::{Sent, owned, receive_from, send_with, standard};
pub(crate) use signal::send_signal;
pub(crate) use variable::variable;

fn last_errno() -> rustix::io::Errno {
    let code = std::io::Error::last_os_error().raw_os_error();
    code.map_or(rustix::io::Errno::IO, rustix::io::Errno::from_raw_os_error)
}
