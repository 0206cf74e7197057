//! Lists the processes that an attached process's end does not cover.

use crate::os::error::{Error, Result};
use crate::os::pid::Pid;
use crate::procfs::host::Host;
use crate::procfs::listing::{LISTING, each_process};
use crate::procfs::parse::cmdline;
use crate::procfs::parse::stat::Stat;
use crate::tags::carrier::Carrier;
use crate::tags::process_reader::ProcessReader;
use leash_tag::{Mark, RunId};
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

/// The reason why a process is not covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The process is in a session or process group of the tree, but below no process of the
    /// tree. Its parent ended before.
    Escaped,
    /// The process is below the attached one and could not be marked. It ends with the tree as
    /// long as it stays below.
    Unmarked,
}

/// A process that is not covered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotCovered {
    /// The process's number.
    pub pid: Pid,
    /// The command, as people read it.
    pub command: String,
    /// The reason.
    pub why: Why,
}

struct Entry {
    stat: Stat,
    mark: Option<Mark>,
}

/// Lists the processes that the attachment of a process does not cover, by number.
///
/// Looks once; the list is for people. None of these processes is signalled for it.
///
/// A daemon that made its own session before it left looks like any other process. The list lacks
/// it.
///
/// # Errors
///
/// `NoProc`, or the error of listing `/proc`.
pub fn not_covered(target: Pid, run: RunId, worker: u16) -> Result<Vec<NotCovered>> {
    let host = Host::current()?;
    let table = table(&host)?;
    let ours = |entry: &Entry| {
        entry.mark.is_some_and(|mark| {
            mark.run() == run && mark.worker().is_some_and(|it| it.get() == worker)
        })
    };
    let below = below(target, &table);
    let marked = table.iter().filter(|(_, entry)| ours(entry)).map(|(pid, _)| *pid);
    let tree: HashSet<Pid> = below.iter().copied().chain(marked).chain([target]).collect();
    let of_tree =
        |leader: u32| Pid::from_u32(leader).is_some_and(|leader| tree.contains(&leader));
    let why = |pid: &Pid, entry: &Entry| {
        if tree.contains(pid) {
            // A mark of another run or worker: that run or worker covers the process.
            (entry.mark.is_none()).then_some(Why::Unmarked)
        } else {
            let escaped = of_tree(entry.stat.session) || of_tree(entry.stat.group);
            (escaped && host.refusal_of_user_process(*pid).is_none()).then_some(Why::Escaped)
        }
    };
    let found = table.iter().filter_map(|(pid, entry)| Some((*pid, why(pid, entry)?)));
    let mut found: Vec<_> =
        found.map(|(pid, why)| NotCovered { pid, command: command(&host, pid), why }).collect();
    found.sort_unstable_by_key(|entry| entry.pid);
    Ok(found)
}

fn table(host: &Host) -> Result<HashMap<Pid, Entry>> {
    let mut reader = ProcessReader::new(host, &[]);
    let mut buffer = Vec::new();
    let mut table = HashMap::new();
    each_process(host, LISTING, |pid| {
        if let Ok(stat) = host.stat(pid, &mut buffer) {
            if !stat.kernel_thread && !host.has_ended(pid, stat.state) {
                let mark = reader
                    .read_mark(pid)
                    .ok()
                    .and_then(|mark: Carrier<Mark>| mark.present().copied());
                table.insert(pid, Entry { stat, mark });
            }
        }
        ControlFlow::Continue(())
    })
    .map_err(Error::of_file)?;
    Ok(table)
}

fn below(target: Pid, table: &HashMap<Pid, Entry>) -> HashSet<Pid> {
    let mut children: HashMap<Pid, Vec<Pid>> = HashMap::new();
    for (pid, entry) in table {
        if let Some(parent) = entry.stat.parent {
            children.entry(parent).or_default().push(*pid);
        }
    }
    let (mut found, mut next) = (HashSet::new(), vec![target]);
    while let Some(parent) = next.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            found.insert(child);
            next.push(child);
        }
    }
    found
}

fn command(host: &Host, pid: Pid) -> String {
    let (mut line, mut buffer) = (Vec::new(), Vec::new());
    let _ = host.proc().read_of(pid, "cmdline", cmdline::READ_LIMIT, &mut line);
    let name = host.stat(pid, &mut buffer).map(|stat| stat.comm).unwrap_or_default();
    cmdline::shown(&line, &name)
}
