//! Lists the processes in the trees of a live run and what they use, for people and for limits on
//! trees.
//!
//! This ends nothing, so it reads as little as it can. It reads the mark of each process of
//! the machine, and one more file of each process in the trees that are asked for.

use crate::os::error::{Error, Result};
use crate::os::pid::Pid;
use crate::procfs::host::Host;
use crate::procfs::listing::{LISTING, each_process};
use crate::procfs::parse::cmdline;
use crate::procfs::parse::stat::Stat;
use crate::tags::shim::{is_named_shim, is_shim_of};
use leash_tag::{Limits, Mark, RunId};
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

/// The run, workers and shims to count.
#[derive(Clone, Copy, Debug)]
pub struct UsageQuery<'a> {
    /// The asking VM's own run.
    pub run: RunId,
    /// The workers whose trees are counted. Processes of other workers are passed over unread.
    pub workers: &'a HashSet<u16>,
    /// The shims of these workers, each with the worker's number. Shims are not counted
    /// themselves.
    pub shims: &'a HashMap<Pid, u16>,
    /// The highest number of processes for which command lines are read. If there are more, names
    /// take their place.
    pub commands: usize,
}

/// A process of a worker's tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessUsage {
    /// The worker's number.
    pub worker: u16,
    /// The process's number.
    pub pid: Pid,
    /// The parent: another process of the list, the shim, or the process that adopted this one.
    pub parent: Option<Pid>,
    /// The state letter of the thread group leader.
    pub state: char,
    /// The command line, or the name.
    pub command: String,
    /// Memory in RAM. Memory that several processes share counts for each of them.
    pub rss_bytes: u64,
    /// CPU time of the process and of the children that it waited for.
    pub cpu_ms: u64,
    /// The age of the process.
    pub age_ms: u64,
}

struct Visited {
    worker: Option<u16>,
    stat: Stat,
}

struct Count<'a> {
    host: &'a Host,
    query: &'a UsageQuery<'a>,
    /// The depth of a mark of this run's workers. A run inside of a worker has a smaller depth.
    depth: Option<u8>,
    marked_shims: HashSet<Pid>,
    /// Maps the marks of adopted trees to worker numbers of this run. An earlier run started
    /// these trees.
    adopted: HashMap<(RunId, u16), u16>,
    visited: HashMap<Pid, Visited>,
    buffer: Vec<u8>,
}

/// Looks at every process once, or twice if a shim of the run has no mark. Without a mark, only
/// the parents show which tree a process is in.
///
/// Leaves zombies out. A process that lost its mark is missed, unless its worker has no mark
/// either.
///
/// # Errors
///
/// The error of listing `/proc`.
pub fn usage(host: &Host, query: &UsageQuery<'_>) -> Result<Vec<ProcessUsage>> {
    let mut buffer = Vec::new();
    let own = host.proc().limits(host.me().pid, &mut buffer).unwrap_or(Limits::UNLIMITED);
    let depth = Mark::nested_in(own, query.run, None, false).ok().map(Mark::depth);
    let (marked_shims, adopted, visited) = (HashSet::new(), HashMap::new(), HashMap::new());
    let mut count = Count { host, query, depth, marked_shims, adopted, visited, buffer };
    count.note_adopted();
    each_process(host, LISTING, |pid| {
        count.look(pid);
        ControlFlow::Continue(())
    })
    .map_err(Error::of_file)?;
    if count.has_unmarked_shim() {
        each_process(host, LISTING, |pid| {
            count.look_at_unmarked(pid);
            ControlFlow::Continue(())
        })
        .map_err(Error::of_file)?;
    }
    Ok(count.usage())
}

impl Count<'_> {
    /// Notes the trees that this run adopted. If a shim has the mark of another run, that run
    /// started it, unless another process has the shim's number by now.
    fn note_adopted(&mut self) {
        for (pid, worker) in self.query.shims {
            let Some(mark) = self.mark(*pid).filter(|mark| mark.run() != self.query.run) else {
                continue;
            };
            if let Some(number) = mark.worker() {
                if is_shim_of(self.host, *pid, (mark.run(), number.get()), &mut self.buffer) {
                    self.adopted.insert((mark.run(), number.get()), *worker);
                }
            }
        }
    }

    fn worker(&self, mark: Mark) -> Option<u16> {
        let number = mark.worker()?.get();
        if mark.run() == self.query.run {
            Some(number)
        } else {
            self.adopted.get(&(mark.run(), number)).copied()
        }
    }

    fn look(&mut self, pid: Pid) {
        // A process that sets its own mark at this moment has another one at the second look.
        for _ in 0..3 {
            let Some(mark) = self.mark(pid) else { return };
            if self.look_at(pid, mark) {
                return;
            }
        }
    }

    fn look_at(&mut self, pid: Pid, mark: Mark) -> bool {
        let worker = self.worker(mark);
        if worker.is_some_and(|worker| !self.query.workers.contains(&worker)) {
            return true;
        }
        if worker.is_some() && self.query.shims.get(&pid) == worker.as_ref() {
            self.marked_shims.insert(pid);
            return true;
        }
        // The tree of a worker may hold another run. Only the parents of its processes show that.
        let may_be_nested = || self.depth.is_some_and(|depth| mark.depth() < depth);
        if worker.is_some() || mark.run() == self.query.run || may_be_nested() {
            return self.visit(pid, Some(mark), worker);
        }
        true
    }

    fn look_at_unmarked(&mut self, pid: Pid) {
        if !self.visited.contains_key(&pid)
            && !self.query.shims.contains_key(&pid)
            && self.mark(pid).is_none()
        {
            self.visit(pid, None, None);
        }
    }

    /// Reads the process between two looks at its mark. If the mark changes in between, returns
    /// `false`. Both looks then see one process, or two of the same tree.
    fn visit(&mut self, pid: Pid, mark: Option<Mark>, worker: Option<u16>) -> bool {
        let Ok(stat) = self.host.stat(pid, &mut self.buffer) else { return true };
        if stat.kernel_thread || self.host.has_ended(pid, stat.state) {
            return true;
        }
        let is_same = self.mark(pid) == mark;
        if is_same {
            self.visited.insert(pid, Visited { worker, stat });
        }
        is_same
    }

    fn mark(&mut self, pid: Pid) -> Option<Mark> {
        Mark::decode(self.host.proc().limits(pid, &mut self.buffer).ok()?)
    }

    /// Checks the command lines, because other processes may have the numbers of ended shims by
    /// now.
    fn has_unmarked_shim(&mut self) -> bool {
        let unmarked: Vec<_> =
            self.query.shims.iter().filter(|(pid, _)| !self.marked_shims.contains(pid)).collect();
        unmarked.into_iter().any(|(pid, worker)| {
            is_shim_of(self.host, *pid, (self.query.run, *worker), &mut self.buffer)
        })
    }

    fn usage(mut self) -> Vec<ProcessUsage> {
        let workers = self.workers();
        let now = self.host.clock().machine_now();
        let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
        let second = self.host.clock().ticks(1).max(1);
        let ms = |ticks: u64| ticks.saturating_mul(1000) / second;
        let mut usage: Vec<_> = self
            .visited
            .iter()
            .filter_map(|(pid, visited)| {
                let worker = *workers.get(pid)?;
                let is_shim = is_named_shim(&visited.stat.comm)
                    && !visited.stat.parent.is_some_and(|parent| workers.contains_key(&parent));
                (!is_shim).then(|| ProcessUsage {
                    worker,
                    pid: *pid,
                    parent: visited.stat.parent,
                    state: visited.stat.state,
                    command: cmdline::shown(&visited.stat.comm, b""),
                    rss_bytes: visited.stat.rss_pages.saturating_mul(page),
                    cpu_ms: ms(visited.stat.cpu_ticks),
                    age_ms: ms(now.saturating_sub(visited.stat.start_ticks)),
                })
            })
            .collect();
        usage.sort_unstable_by_key(|process| (process.worker, process.pid));
        if usage.len() <= self.query.commands {
            for process in &mut usage {
                if let Some(command) = self.command(process.pid) {
                    process.command = command;
                }
            }
        }
        usage
    }

    /// The worker of each process: by its mark, else by the nearest ancestor that has a mark or
    /// is a shim.
    fn workers(&self) -> HashMap<Pid, u16> {
        let mut known: HashMap<Pid, Option<u16>> = HashMap::new();
        let mut way = Vec::new();
        for pid in self.visited.keys() {
            let mut next = Some(*pid);
            let found = loop {
                let Some(here) = next else { break None };
                if let Some(known) = known.get(&here) {
                    break *known;
                }
                let Some(visited) = self.visited.get(&here) else {
                    break self.query.shims.get(&here).copied();
                };
                // Parents were read one after the other, so they can form a circle. A circle
                // leads to no worker.
                if way.contains(&here) {
                    break None;
                }
                way.push(here);
                if visited.worker.is_some() {
                    break visited.worker;
                }
                next = visited.stat.parent;
            };
            known.extend(way.drain(..).map(|pid| (pid, found)));
        }
        known.into_iter().filter_map(|(pid, worker)| Some((pid, worker?))).collect()
    }

    fn command(&mut self, pid: Pid) -> Option<String> {
        self.host.proc().read_of(pid, "cmdline", cmdline::READ_LIMIT, &mut self.buffer).ok()?;
        let line = std::mem::take(&mut self.buffer);
        let stat = self.host.stat(pid, &mut self.buffer).ok()?;
        // The start is read after the line. If the start is the known one, the line is of that
        // process too.
        let is_same = self
            .visited
            .get(&pid)
            .is_some_and(|visited| visited.stat.start_ticks == stat.start_ticks);
        is_same.then(|| cmdline::shown(&line, &stat.comm))
    }
}
