//! The real binary, watched from outside.
//!
//! Each test starts a tree of its own run, sees it alive, acts, and sees it dead the moment the
//! shim has exited. A decoy next to the tree must stay alive. Trees end by themselves, so that a
//! failing test leaves nothing.
//!
//! The environment variable `LEASH_SHIM` names the binary. If it is not set, the tests build the
//! binary first.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "that is how a test fails"
)]
#![allow(unreachable_pub, reason = "nothing here is reachable")]

mod adversary;
mod attach;
mod cgroup;
mod controlling_tty;
mod frames;
mod harness;
mod ids;
mod imports;
mod inherited;
mod keep;
mod less_kernel;
mod lockstep;
mod odd_proc;
mod served;
mod shapes;
mod signals;
mod start;
mod stdio;
mod step_command;
mod stop;
mod terminal;
mod vm;
mod warden;
mod watch;
