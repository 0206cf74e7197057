//! Identifies processes, and opens them by identity.

use crate::os::error::{Error, ErrorKind, Result};
use crate::os::pid::Pid;
use crate::os::pidfd::PidFd;
use crate::procfs::host::Host;
use crate::procfs::identity::Identity;
use crate::procfs::root::PidStatus;

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

    /// Whether a process is known to have ended, even if it cannot be opened.
    pub(crate) fn is_over(&self, identity: &Identity) -> bool {
        match self.open(identity) {
            Ok(_) => false,
            Err(error) if error.is_gone() => true,
            Err(_) => match self.proc().pid_status(identity.pid) {
                PidStatus::Free => true,
                PidStatus::Unheld => self.stat(identity.pid, &mut Vec::new()).is_ok_and(|stat| {
                    stat.start_ticks != identity.start_ticks || stat.is_ended()
                }),
                PidStatus::Process(_) | PidStatus::Thread | PidStatus::Unknown => false,
            },
        }
    }

    /// Whether nothing of a process in this state runs any more. A leader shown as `Z` may have
    /// living threads.
    pub(crate) fn has_ended(&self, pid: Pid, state: char) -> bool {
        match state {
            'X' | 'x' => true,
            'Z' => match self.proc().pid_status(pid) {
                PidStatus::Process(Some(pidfd)) => pidfd.is_ended(),
                PidStatus::Process(None) | PidStatus::Free => true,
                PidStatus::Unheld => {
                    self.stat(pid, &mut Vec::new()).is_ok_and(|stat| stat.is_ended())
                }
                PidStatus::Thread | PidStatus::Unknown => false,
            },
            _ => false,
        }
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
        pidfd.signal(crate::os::signal::Signal::KILL).unwrap();
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
        assert!(pidfd.signal(crate::os::signal::Signal::KILL).unwrap_err().is_gone());
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
