//! Names the processes that may be of a dead run although no carrier of them names it.
//!
//! Below `sudo` or a login shell, a process has another user, no mark and a new environment. If
//! VM, shim and warden are killed at once, then only its control group and its ancestors are left
//! to tell. That is enough to name the process, and not enough to end it.

use crate::cleanup::engine::Engine;
use crate::cleanup::report::Match;
use crate::cleanup::target::key;
use crate::policy::verdict::Verdict;
use crate::tags::process_reader::{ProcessReader, Skipped};
use crate::tags::scan::{Incomplete, Scan};
use std::sync::Arc;

impl Engine {
    /// Lists such processes as kept, and keeps the records of their runs.
    ///
    /// If the environment of one cannot be read, then it may name the run, and the pass has a
    /// hole.
    pub(crate) fn name_untagged(&mut self, result: &mut Scan) {
        let runs = self.judgements.dead_runs(&self.spec.kind);
        if runs.is_empty() {
            return;
        }
        let host = Arc::clone(&self.host);
        let mut reader = ProcessReader::new(&host, &[]);
        for pid in std::mem::take(&mut result.untagged) {
            let process = match reader.read_untagged_env(pid) {
                Ok(process) => process,
                Err(Skipped::Failed(errno)) => {
                    result.failed(&host, errno);
                    continue;
                }
                Err(Skipped::Gone | Skipped::Zombie | Skipped::Untagged) => continue,
            };
            let policy = &self.judgements.policy;
            let Some(&run) = runs.iter().find(|run| policy.may_have_lost(&process, **run)) else {
                continue;
            };
            let why = if process.env.is_unreadable() {
                result.miss(Incomplete::Unreadable);
                "its environment cannot be read, and it may descend from the run"
            } else {
                "it may descend from the run, but no carrier of it names a run"
            };
            self.named.push(run);
            let found = Match::new(&process, Some(run), Verdict::Unproven, why.to_owned());
            self.targets.keep(key(&process.identity), found);
        }
    }
}
