//! How a shim is told from other processes. No other file knows this.
//!
//! | evidence | proves | read by |
//! |---|---|---|
//! | name | nothing, but no shim lacks it: only the program itself can change it | [`is_named_shim`] |
//! | command line | whose shim it says it is | [`ShimDescription::parse`], [`is_shim_of`] |
//! | program | that it executes a file of the shim's name | [`runs_shim`] |
//! | user, and mark or environment of the same run | that it is ours | [`TaggedProcess::shim_of`] |
//!
//! [`TaggedProcess::shim_of`]: crate::tags::tagged_process::TaggedProcess::shim_of

use crate::os::pid::Pid;
use crate::procfs::host::Host;
use crate::procfs::parse::cmdline::READ_LIMIT;
use crate::tags::ladder::Ladder;
use leash_tag::argv::{self, ShimArgs};
use leash_tag::{RunId, WorkerNumber, parse_number};
use std::time::Duration;

const LINGER: Duration = Duration::from_millis(200);

/// A shim's own command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShimDescription {
    /// Run and worker.
    pub args: ShimArgs,
    /// `--owner`, its ticks as the machine counts them; `None` if the shim's clock is not known.
    pub owner: Option<(Pid, u64)>,
    /// The longest time that it may need after its leash is gone: its whole ladder and its
    /// linger. `None` if there is no limit, and for a warden, which waits for the shims.
    pub patience: Option<Duration>,
    /// Whether it is a warden by the program that it executes.
    pub is_warden: bool,
}

impl ShimDescription {
    /// Reads a command line of a process; `None` if it is no shim's.
    pub(crate) fn parse(host: &Host, pid: Pid, cmdline: &[u8]) -> Option<Self> {
        let args = ShimArgs::parse(cmdline)?;
        let option = |name: &[u8]| argv::shim_option(cmdline, name);
        let owner = option(b"owner").and_then(|value| {
            let colon = value.iter().position(|&byte| byte == b':')?;
            let ticks = parse_number(value.get(colon + 1..)?)?;
            // The ticks count in the shim's own time namespace.
            let clock = host.clock_of(pid)?;
            Some((Pid::parse(value.get(..colon)?)?, clock.to_machine(ticks)))
        });
        let linger =
            option(b"linger").and_then(parse_number).map_or(LINGER, Duration::from_millis);
        let patience = Ladder::time_of_shim(option(b"stop").unwrap_or(b"TERM:2000@group"))
            .filter(|_| !args.warden)
            .map(|time| time.saturating_add(linger));
        let is_warden = args.warden && runs_shim(host, pid);
        Some(Self { args, owner, patience, is_warden })
    }
}

/// Whether the name that the kernel keeps of a process is the shim's.
pub(crate) fn is_named_shim(comm: &[u8]) -> bool {
    comm == argv::SHIM_NAME
}

/// Whether a process says that it is the shim of this worker. After the end of a shim, another
/// process may have its number.
pub(crate) fn is_shim_of(
    host: &Host,
    pid: Pid,
    (run, worker): (RunId, u16),
    buffer: &mut Vec<u8>,
) -> bool {
    host.proc().read_of(pid, "cmdline", READ_LIMIT, buffer).is_ok()
        && ShimArgs::parse(buffer).is_some_and(|args| {
            args.run == run && args.worker.map(WorkerNumber::get) == Some(worker)
        })
}

/// Whether a process executes the shim. Any process can imitate the arguments. If a release was
/// replaced meanwhile, the link says that the file is deleted.
pub(crate) fn runs_shim(host: &Host, pid: Pid) -> bool {
    host.proc().link(&format!("{pid}/exe")).is_ok_and(|path| {
        let path = path.strip_suffix(b" (deleted)").unwrap_or(&path);
        path.rsplit(|&byte| byte == b'/').next() == Some(argv::SHIM_NAME)
    })
}
