//! Children that the shim has before it has a worker: the program that executed it had them.
//!
//! A process cannot give its children away, and a shim ends and reaps all of its own. So it forks
//! once. The child becomes the shim, and this process stays the parent of both.
//!
//! In the foreground both are in one group. A signal that a process sends to that group reaches
//! the shim twice.

use leash_tag::signal;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use crate::cli::config::Config;
use crate::os::vectors::Vectors;
use crate::os::wait::{self, Waited};
use crate::os::{child, descriptors, process, signals};

/// Forks if there are children already. Returns the exit status of the process that stays behind,
/// and `None` in the process that becomes the shim. All signals are blocked.
///
/// # Errors
///
/// The error of waitid(2), since the end of a worker could not be noticed then; `EAGAIN` at a
/// limit on processes.
pub(crate) fn leave_behind(vectors: Vectors, config: &Config<'_>) -> Result<Option<u8>, Errno> {
    if !wait::has_children()? {
        return Ok(None);
    }
    let parent = process::own_pid();
    let Some(shim) = child::fork()? else {
        // TERM begins the ladder.
        return process::die_with(parent, Signal::TERM).map(|()| None);
    };
    // The shim's streams must end when the shim and its worker let go of them, and no file system
    // may be kept busy.
    descriptors::close_range(0, u32::MAX);
    let _ = rustix::process::chdir(c"/");
    let signals = signals::signal_fd(u64::MAX)?;
    // Programs that look for shims must find the other one alone.
    vectors.wipe(1);
    loop {
        let _ = rustix::event::poll(&mut [PollFd::new(&signals, PollFlags::IN)], None);
        for pending in signals::take(&signals) {
            // The terminal has sent its signals to the shim as well, which is in one group with
            // this process then.
            let is_told = config.foreground && pending.is_from_kernel();
            if pending.number != signal::CHLD && !is_told && !config.is_broadcast(pending) {
                let _ = signals::kill(shim, pending.number);
            }
        }
        // The shell looks at this process, as it looks at a shim without children.
        if config.foreground && wait::has_stopped(shim) {
            signals::stop_for_the_shell();
        }
        if let Some(status) = reap_all(shim) {
            return Ok(Some(status));
        }
    }
}

/// Reaps the children that have ended. Returns the shim's status if it is among them.
fn reap_all(shim: Pid) -> Option<u8> {
    while let Waited::Ended(pid, ended) = wait::peek_any() {
        wait::reap(pid);
        if pid == shim {
            return Some(ended.code());
        }
    }
    None
}
