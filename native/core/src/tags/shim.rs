//! A shim as its command line and its program describe it.

use crate::os::pid::Pid;
use crate::procfs::host::Host;
use crate::procfs::text::decimal;
use crate::tags::ladder::Ladder;
use leash_tag::argv::{self, ShimArgs};
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
            let ticks = decimal(value.get(colon + 1..)?)?;
            // The ticks count in the shim's own time namespace.
            let clock = host.clock_of(pid)?;
            Some((Pid::parse(value.get(..colon)?)?, clock.to_machine(ticks)))
        });
        let linger = option(b"linger").and_then(decimal).map_or(LINGER, Duration::from_millis);
        let patience = Ladder::time_of_shim(option(b"stop").unwrap_or(b"TERM:2000@group"))
            .filter(|_| !args.warden)
            .map(|time| time.saturating_add(linger));
        let is_warden = args.warden && runs_shim(host, pid);
        Some(Self { args, owner, patience, is_warden })
    }
}

/// Whether a process executes the shim. Any process can imitate the arguments. If a release was
/// replaced meanwhile, the link says that the file is deleted.
pub(crate) fn runs_shim(host: &Host, pid: Pid) -> bool {
    host.proc().link(&format!("{pid}/exe")).is_ok_and(|path| {
        let path = path.strip_suffix(b" (deleted)").unwrap_or(&path);
        path.rsplit(|&byte| byte == b'/').next() == Some(argv::SHIM_NAME)
    })
}
