//! What the VM calls: every function decodes its arguments, calls the core and encodes the answer.
//!
//! Nothing here decides, forks, loops over an unknown number of things or waits. What takes constant time runs on a normal
//! scheduler; what reads `/proc` or files is a dirty I/O job. Each function's doc says which and why.
#![deny(unsafe_code)]

mod attach;
mod census;
mod channel;
mod descriptor;
mod detached;
mod encode;
mod executable;
mod failure;
mod hunt;
mod info;
mod list;
mod pidfd;
mod pipe_room;
mod process;
mod reply;
mod run;
mod spec;
mod sys;
mod variable;
mod view;

rustler::init!("Elixir.Leash.Native", load = load);

fn load(env: rustler::Env, _info: rustler::Term) -> bool {
    // While descriptors are plenty: killing has to work when they are not.
    leash_core::reserve_descriptors();
    sys::register(env)
}

/// `euid() :: non_neg_integer`.
///
/// Normal scheduler: one system call of constant time.
#[rustler::nif]
fn euid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Panics. Only for the test that a panic becomes an exception of the caller and harms nobody else.
///
/// Normal scheduler: constant time.
#[rustler::nif]
#[allow(clippy::panic)]
fn native_panic() -> bool {
    panic!("asked for by native_panic/0")
}
