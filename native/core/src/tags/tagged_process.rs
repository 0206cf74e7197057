//! One process as a pass saw it, with everything that it says about its run.

use crate::os::pid::Pid;
use crate::os::user_ids::Uids;
use crate::procfs::host::Host;
use crate::procfs::identity::Identity;
use crate::runs::owner::OwnerRef;
use crate::tags::carrier::Carrier;
use crate::tags::shim::ShimDescription;
use leash_tag::{Mark, OwnerTag, RunId};

/// A process and its carriers.
#[derive(Clone, Debug)]
pub struct TaggedProcess {
    /// The identity. A pass reads the inode only if `/proc` hides the process, whose start is
    /// then unknown.
    pub identity: Identity,
    /// The parent, if this namespace shows one.
    pub parent: Option<Pid>,
    /// The state letter of the leader. `Z` only if other threads of the process still run; `?` if
    /// `/proc` hides the process.
    pub state: char,
    /// The user ids; `None` if they could not be read.
    pub uids: Option<Uids>,
    /// The command as people read it, at most 200 characters.
    pub command: String,
    /// The mark.
    pub mark: Carrier<Mark>,
    /// The environment tag.
    pub env: Carrier<OwnerTag>,
    /// The arguments of its command line, if it is a shim.
    pub shim: Option<ShimDescription>,
    /// The run whose record names this very command.
    pub recorded: Option<Recorded>,
    /// Whether it is a thread of the kernel.
    pub kernel_thread: bool,
}

/// A run whose record names a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The run.
    pub run: RunId,
    /// The worker.
    pub worker: Option<u16>,
    /// The time when the line was recorded, in the machine's clock ticks.
    pub at_ticks: Option<u64>,
}

impl TaggedProcess {
    /// Whether it is this user's, by all its user ids. Only such a process is believed, and
    /// counts as a shim.
    ///
    /// Any process can imitate arguments, environment and mark. A process of this user that does
    /// so could as well signal everything that we may.
    pub(crate) fn is_of(&self, uid: u32) -> bool {
        self.uids.is_some_and(|uids| uids.are(uid))
    }

    /// Returns the shim that this process is.
    ///
    /// The process's command line says so, its mark or environment names the same run, and it is
    /// this user's. A warden has neither mark nor environment tag. The program that it executes
    /// proves that it is one.
    pub(crate) fn shim_of(&self, uid: u32) -> Option<&ShimDescription> {
        let is_named = |run| {
            self.mark.present().is_some_and(|mark| mark.run() == run)
                || self.env.present().is_some_and(|env| env.run == run)
        };
        self.shim
            .as_ref()
            .filter(|shim| self.is_of(uid) && (shim.is_warden || is_named(shim.args.run)))
    }

    /// Returns the owner that a shim's own command line names.
    ///
    /// Another carrier must name the process as a shim of this user too, or the program that it
    /// executes must prove it a warden.
    ///
    /// The command line names neither namespace nor boot. A shim that we see runs in this boot.
    /// Its number counts as one of our namespace only if the shim is in our namespace.
    #[must_use]
    pub fn owner_in_argv(&self, host: &Host) -> Option<OwnerRef> {
        let (pid, start_ticks) = self.shim_of(host.uid())?.owner?;
        let pid_ns = host.pid_ns()?;
        let ours = host.proc().namespace(&format!("{}/ns/pid", self.identity.pid)) == Ok(pid_ns);
        ours.then_some(OwnerRef { pid, start_ticks, pid_ns, boot: host.boot()? })
    }

    /// Returns the worker that the carriers name within a run: the mark's, else the
    /// environment's, else the command line's.
    #[must_use]
    pub fn worker_in(&self, run: RunId) -> Option<u16> {
        let mark =
            self.mark.present().filter(|mark| mark.run() == run).and_then(|mark| mark.worker());
        let env = || self.env.present().filter(|env| env.run == run).map(|env| env.worker);
        let shim = || {
            self.shim
                .as_ref()
                .filter(|shim| shim.args.run == run)
                .and_then(|shim| shim.args.worker)
        };
        let recorded = || {
            self.recorded.filter(|recorded| recorded.run == run).and_then(|found| found.worker)
        };
        mark.or_else(env).or_else(shim).map(|worker| worker.get()).or_else(recorded)
    }

    /// Returns every run that any carrier names, each once.
    #[must_use]
    pub fn runs(&self) -> Vec<RunId> {
        let mut runs = Vec::with_capacity(1);
        let named = [
            self.mark.present().map(|mark| mark.run()),
            self.env.present().map(|env| env.run),
            self.shim.as_ref().map(|shim| shim.args.run),
            self.recorded.map(|recorded| recorded.run),
        ];
        for run in named.into_iter().flatten() {
            if !runs.contains(&run) {
                runs.push(run);
            }
        }
        runs
    }

    /// Returns the names of the carriers, for a report.
    #[must_use]
    pub fn carrier_names(&self) -> Vec<&'static str> {
        let mut names = Vec::with_capacity(2);
        let mut add = |name, here: bool| {
            if here {
                names.push(name);
            }
        };
        add("mark", self.mark.present().is_some());
        add("mark_unreadable", self.mark.is_unreadable());
        add("env", self.env.present().is_some());
        add("env_unreadable", self.env.is_unreadable());
        add("argv", self.shim.is_some() || self.recorded.is_some());
        names
    }
}
