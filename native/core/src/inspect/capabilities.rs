//! The capabilities of this host.

use crate::os::error::{Error, ErrorKind};
use crate::os::pid::Pid;
use crate::os::pidfd::PidFd;
use crate::procfs::host::Host;
use crate::procfs::parse::status;
use crate::runs::mark_loss::can_mark;
use crate::runs::run_dir::RunDir;
use serde::Serialize;
use std::path::Path;

/// The carriers and the ways to end a process that this host offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// `/proc` is there and shows this pid namespace.
    pub proc: bool,
    /// Leash can hold and signal processes by descriptor (Linux 5.3, and no filter against it).
    pub pidfd: bool,
    /// Descriptors of processes have unique inodes (Linux 6.9).
    pub pidfs: bool,
    /// Leash can read and set marks.
    pub mark: bool,
    /// The number of runs that can still nest below this process; `None` if it has no mark. A
    /// marked process is a worker of another run.
    pub nested_depth_left: Option<u8>,
    /// Leash can read this process's environment.
    pub environ: bool,
    /// `/proc/<pid>/task/<tid>/children` exists.
    pub children_file: bool,
    /// `/proc` hides other users' processes.
    pub hidepid: bool,
    /// This process may start programs as any user, and end them: it has CAP_SETUID, CAP_SETGID
    /// and CAP_KILL.
    pub set_user: bool,
    /// The capabilities that this process has, and that a program may keep (`CapPrm` of
    /// proc_pid_status(5)).
    pub own_capabilities: u64,
    /// Boot id and pid namespace are known, so Leash can tell owners apart.
    pub identity: bool,
    /// Leash can use the run directory.
    pub run_dir: bool,
    /// The reason why Leash cannot use the run directory.
    pub run_dir_error: Option<ErrorKind>,
}

/// CAP_KILL, CAP_SETGID and CAP_SETUID (linux/capability.h).
const SET_USER: u64 = 1 << 5 | 1 << 6 | 1 << 7;

/// Finds out what this host offers. With the path of a run directory, also checks that directory.
#[must_use]
pub fn capabilities(run_dir: Option<&Path>) -> Capabilities {
    let host = Host::current().ok();
    let me = Pid::current();
    let pidfd = PidFd::open(me).ok();
    let mut buffer = Vec::new();
    let dir: Option<Result<RunDir, Error>> = run_dir.map(RunDir::open);
    let limits = host.as_ref().and_then(|host| host.proc().limits(me, &mut buffer).ok());
    let mut set = |name: &[u8]| {
        host.as_ref()?.proc().read("self/status", 4096, &mut buffer).ok()?;
        status::capabilities(&buffer, name)
    };
    let effective = set(b"CapEff:").unwrap_or_default();
    let own_capabilities = set(b"CapPrm:").unwrap_or_default();
    let mut reads = |path: &str| {
        host.as_ref().is_some_and(|host| host.proc().read(path, 4096, &mut buffer).is_ok())
    };
    Capabilities {
        proc: host.is_some(),
        pidfs: pidfd.as_ref().is_some_and(|pidfd| pidfd.inode().is_some()),
        // Signal 0 has no effect on the process.
        pidfd: pidfd.as_ref().is_some_and(PidFd::can_signal),
        mark: host.as_ref().is_some_and(can_mark),
        nested_depth_left: limits.and_then(leash_tag::Mark::decode).map(leash_tag::Mark::depth),
        environ: reads("self/environ"),
        children_file: reads("thread-self/children"),
        hidepid: host.as_ref().is_some_and(Host::hides_processes),
        set_user: effective & SET_USER == SET_USER,
        own_capabilities,
        identity: host
            .as_ref()
            .is_some_and(|host| host.boot().is_some() && host.pid_ns().is_some()),
        run_dir: matches!(dir, Some(Ok(_))),
        run_dir_error: dir.and_then(Result::err).map(|error| error.kind()),
    }
}
