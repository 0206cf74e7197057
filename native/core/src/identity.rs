//! Identifies one process, and not the next process with its number.

use crate::error::{Error, ErrorKind, Result};
use crate::host::Host;
use crate::proc_root::Holder;
use crate::{Pid, PidFd};
use serde::Serialize;

/// Number, start and, where the kernel has it, the pidfs inode of a process.
///
/// The start counts ticks of 10 ms, so a number that is reused within one tick would pass. The
/// inode, which Linux 6.9 brought, never repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Identity {
    /// The number.
    pub pid: Pid,
    /// Field 22 of `/proc/<pid>/stat`, as the machine's own clock counts it.
    pub start_ticks: u64,
    /// The inode of its pidfd.
    pub pidfs_inode: Option<u64>,
}

/// Returns the identity of the process that has a number at the call.
///
/// # Errors
///
/// `Gone` if no process has it. `Unknown` if `/proc` hides the process, or if the number is a
/// thread's.
pub fn identify(pid: Pid) -> Result<Identity> {
    Host::current()?.identify(pid).map(|(identity, _)| identity)
}

/// Opens processes by identity.
#[derive(Debug)]
pub struct Handle;

impl Handle {
    /// Opens a descriptor of exactly this process. The descriptor is opened, then compared, then
    /// seen still alive.
    ///
    /// # Errors
    ///
    /// `Gone` if the process has ended, also as an unreaped zombie. `Reused` if another process
    /// has the number. `Unknown` if `/proc` does not say which process has the number.
    pub fn open(identity: &Identity) -> Result<PidFd> {
        Host::current()?.open(identity)
    }
}

impl Host {
    /// Returns identity and descriptor of the process that has a number at the call.
    ///
    /// # Errors
    ///
    /// As [`identify`].
    pub fn identify(&self, pid: Pid) -> Result<(Identity, PidFd)> {
        let pidfd = PidFd::open(pid)?;
        match self.stat(pid, &mut Vec::new()) {
            Ok(stat) => {
                let identity =
                    Identity { pid, start_ticks: stat.start_ticks, pidfs_inode: pidfd.inode() };
                Ok((identity, pidfd))
            }
            Err(_) if pidfd.is_ended() => Err(Error::new(ErrorKind::Gone).about(pid)),
            Err(_) => Err(Error::new(ErrorKind::Unknown).about(pid)),
        }
    }

    /// As [`Handle::open`].
    ///
    /// # Errors
    ///
    /// As [`Handle::open`].
    pub fn open(&self, identity: &Identity) -> Result<PidFd> {
        let pid = identity.pid;
        let (now, pidfd) = self.identify(pid)?;
        // The order matters. The stat file was read by number after the descriptor was opened. So
        // if the descriptor's process has not ended by now, that file was its own.
        let ended = pidfd.is_ended();
        if !now.is(identity) {
            return Err(Error::new(ErrorKind::Reused).about(pid));
        }
        if ended {
            return Err(Error::new(ErrorKind::Gone).about(pid));
        }
        Ok(pidfd)
    }
}

impl Host {
    /// Whether a process is known to have ended, even if it cannot be opened.
    pub(crate) fn is_over(&self, identity: &Identity) -> bool {
        match self.open(identity) {
            Ok(_) => false,
            Err(error) if error.is_gone() => true,
            Err(_) => match self.proc().holder(identity.pid) {
                Holder::Free => true,
                Holder::Unheld => self.stat(identity.pid, &mut Vec::new()).is_ok_and(|stat| {
                    stat.start_ticks != identity.start_ticks || stat.is_ended()
                }),
                Holder::Process(_) | Holder::Thread | Holder::Unknown => false,
            },
        }
    }
}

impl Identity {
    /// The start of a process that `/proc` hides, because nothing tells the real one.
    ///
    /// No process has this start, and it is no age. A hidden process counts as older than
    /// nothing.
    pub const UNKNOWN_START: u64 = u64::MAX;

    /// The start, if it is known.
    #[must_use]
    pub fn known_start(&self) -> Option<u64> {
        (self.start_ticks != Self::UNKNOWN_START).then_some(self.start_ticks)
    }

    /// Whether both are the same process. The inode decides only if both have one.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        let inodes = match (self.pidfs_inode, other.pidfs_inode) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        self.pid == other.pid && self.start_ticks == other.start_ticks && inodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_is_itself_until_it_ends_and_no_other() {
        let mut child = Command::new("sleep").arg("20").spawn().unwrap();
        let identity = identify(Pid::from_u32(child.id()).unwrap()).unwrap();
        let pidfd = Handle::open(&identity).unwrap();
        assert!(!pidfd.is_ended());
        for other in [
            Identity { start_ticks: identity.start_ticks + 1, ..identity },
            Identity {
                pidfs_inode: identity.pidfs_inode.map(|inode| inode + 1),
                start_ticks: 0,
                ..identity
            },
        ] {
            assert_eq!(Handle::open(&other).unwrap_err().kind(), ErrorKind::Reused);
        }
        pidfd.signal(crate::Signal::KILL).unwrap();
        while !pidfd.is_ended() {
            std::thread::yield_now();
        }
        assert_eq!(
            Handle::open(&identity).unwrap_err().kind(),
            ErrorKind::Gone,
            "a zombie is gone"
        );
        child.wait().unwrap();
        assert_eq!(Handle::open(&identity).unwrap_err().kind(), ErrorKind::Gone);
        assert!(pidfd.signal(crate::Signal::KILL).unwrap_err().is_gone());
    }

    #[test]
    fn a_thread_is_no_process() {
        let (give, take) = std::sync::mpsc::channel();
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            give.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            let _ = wait.recv();
        });
        let tid = Pid::new(take.recv().unwrap()).unwrap();
        assert_eq!(identify(tid).unwrap_err().kind(), ErrorKind::Unknown);
        drop(stop);
        thread.join().unwrap();
    }
}
