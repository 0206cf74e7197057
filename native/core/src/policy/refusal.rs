//! Processes that Leash never signals.

use crate::os::error::Result;
use crate::os::pid::Pid;
use crate::procfs::host::Host;
use serde::Serialize;
use std::fmt;

/// The reason why a process is never signalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// Pid 1.
    Pid1,
    /// The calling process.
    Vm,
    /// The parent, grandparent and so on of the calling process.
    Ancestor,
    /// A thread of the kernel.
    KernelThread,
}

/// Returns why this process must not be signalled; `None` if it may be.
///
/// # Errors
///
/// `NoProc` if `/proc` cannot tell the ancestors.
pub fn refusal(pid: Pid) -> Result<Option<Refusal>> {
    if let Some(refusal) = by_number(pid, Pid::current()) {
        return Ok(Some(refusal));
    }
    Ok(Host::current()?.refusal(pid))
}

fn by_number(pid: Pid, me: Pid) -> Option<Refusal> {
    if pid.is_init() {
        Some(Refusal::Pid1)
    } else if pid == me {
        Some(Refusal::Vm)
    } else {
        None
    }
}

impl Host {
    /// Returns why this host's process must not signal a process; `None` if it may.
    #[must_use]
    pub fn refusal(&self, pid: Pid) -> Option<Refusal> {
        self.refusal_of_user_process(pid).or_else(|| {
            let stat = self.stat(pid, &mut Vec::new()).ok()?;
            stat.kernel_thread.then_some(Refusal::KernelThread)
        })
    }

    pub(crate) fn refusal_of_user_process(&self, pid: Pid) -> Option<Refusal> {
        let ancestor = || self.ancestors().contains(&pid).then_some(Refusal::Ancestor);
        by_number(pid, self.me().pid).or_else(ancestor)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pid1 => "pid 1 is never signalled",
            Self::Vm => "this process does not signal itself",
            Self::Ancestor => "an ancestor of this process is never signalled",
            Self::KernelThread => "a kernel thread is never signalled",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pid_1_self_and_ancestors_are_refused_and_a_child_is_not() {
        let parent = Pid::from_u32(std::os::unix::process::parent_id()).unwrap();
        assert_eq!(refusal(Pid::new(1).unwrap()).unwrap(), Some(Refusal::Pid1));
        assert_eq!(refusal(Pid::current()).unwrap(), Some(Refusal::Vm));
        assert!(refusal(parent).unwrap().is_some());
        let mut child = std::process::Command::new("sleep").arg("20").spawn().unwrap();
        let answer = refusal(Pid::from_u32(child.id()).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(answer.unwrap(), None);
    }
}
