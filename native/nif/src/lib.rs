//! The functions that the VM calls: each decodes its arguments, calls the core and encodes the
//! answer.
//!
//! Nothing here decides, forks, waits, or loops over an unknown number of things. A function of
//! constant time runs on a normal scheduler. A function that reads `/proc` or files is a dirty
//! I/O job. The doc of each function says which and why.
#![deny(unsafe_code)]

mod attach;
mod census;
mod cgroup;
mod channel;
mod descriptor;
mod detached;
mod ends;
mod executable;
mod hunt;
mod info;
mod pidfd;
mod pipe_room;
mod process;
mod run;
mod sys;
mod terminal;
mod terms;
mod variable;

rustler::init!("Elixir.Leash.Native", load = load);

fn load(env: rustler::Env, _info: rustler::Term) -> bool {
    // Used by nothing in the library, so the linker would leave the text out.
    std::hint::black_box(leash_tag::build_mark!("leash-nif"));
    // The reserve is taken while there are plenty of descriptors: ending processes must work when
    // none is left.
    leash_core::reserve_descriptors();
    sys::register(env)
}

/// `euid() :: non_neg_integer`
///
/// Returns the effective uid of the VM.
///
/// Normal scheduler: one system call of constant time.
#[rustler::nif]
fn euid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Panics. It exists only for the test that a panic becomes an exception of the caller and harms
/// no other process.
///
/// Normal scheduler: constant time.
#[rustler::nif]
#[allow(clippy::panic)]
fn native_panic() -> bool {
    panic!("asked for by native_panic/0")
}
