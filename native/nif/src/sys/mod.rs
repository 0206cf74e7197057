//! All `unsafe` of the crate: the VM's resource of a descriptor, messages with descriptors,
//! signals by number, and the environment.
#![allow(unsafe_code)]

mod errno;
mod fd;
mod message;
mod signal;
mod variable;

pub(crate) use fd::{ArmError, Fd, OwnerGone, Readiness, register};
pub(crate) use message::{Sent, owned, receive_from, send_with, standard};
pub(crate) use signal::send_signal;
pub(crate) use variable::variable;
