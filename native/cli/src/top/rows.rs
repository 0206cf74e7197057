//! What the table of `leash top` lists: processes, or workers with the sums of their trees.

use super::load::Load;
use crate::process_view::ProcessView;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// A row: a process, or the tree of a worker.
#[derive(Clone, Debug)]
pub(crate) struct Row<'a> {
    /// The process, or the oldest one of the tree.
    pub(crate) process: &'a ProcessView,
    /// Whether the row is a tree.
    pub(crate) is_tree: bool,
    /// The number of processes.
    pub(crate) count: usize,
    /// Per mille of one CPU; `None` before the second look.
    pub(crate) load: Option<u64>,
    /// The memory in RAM. Pages that processes share count for each of them.
    pub(crate) rss_bytes: Option<u64>,
}

/// The order of the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Order {
    /// By run, worker and pid.
    #[default]
    Number,
    /// The largest share of a CPU first.
    Cpu,
    /// The most memory first.
    Memory,
    /// The youngest first.
    Age,
}

impl Row<'_> {
    /// Returns what identifies the row from one look to the next.
    pub(crate) fn key(&self) -> Key {
        let ProcessView { run_id, worker, pid, .. } = self.process;
        let pid = (!self.is_tree).then_some(*pid);
        Key { run_id: run_id.clone(), worker: *worker, pid }
    }
}

/// A row from one look to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// The run.
    pub(crate) run_id: Option<String>,
    /// The worker.
    pub(crate) worker: Option<u16>,
    /// The process. A tree goes on as the same one when its processes change.
    pub(crate) pid: Option<u32>,
}

/// Returns a row for each process.
pub(crate) fn processes<'a>(shown: &[&'a ProcessView], load: &Load) -> Vec<Row<'a>> {
    let row = |process: &&'a ProcessView| Row {
        process,
        is_tree: false,
        count: 1,
        load: load.of(process),
        rss_bytes: process.rss_bytes,
    };
    shown.iter().map(row).collect()
}

/// Returns a row for each worker, and one for each run's processes without a worker's number. The
/// oldest process, which started the others, stands for all.
pub(crate) fn workers<'a>(shown: &[&'a ProcessView], load: &Load) -> Vec<Row<'a>> {
    let mut trees: BTreeMap<(&Option<String>, Option<u16>), Row<'a>> = BTreeMap::new();
    for one in processes(shown, load) {
        let key = (&one.process.run_id, one.process.worker);
        let Some(tree) = trees.get_mut(&key) else {
            trees.insert(key, Row { is_tree: true, ..one });
            continue;
        };
        // Ages were read one after the other, and the starts of two processes can be the same.
        let began = |process: &ProcessView| (process.start_ticks, process.pid);
        if began(one.process) < began(tree.process) {
            tree.process = one.process;
        }
        tree.count += 1;
        tree.load = sum(tree.load, one.load);
        tree.rss_bytes = sum(tree.rss_bytes, one.rss_bytes);
    }
    trees.into_values().collect()
}

fn sum(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    a.map_or(b, |a| Some(a.saturating_add(b.unwrap_or(0))))
}

/// Sorts rows. Equal ones stay in the order of their numbers.
pub(crate) fn sort(rows: &mut [Row<'_>], order: Order) {
    match order {
        Order::Number => {}
        Order::Cpu => rows.sort_by_key(|row| Reverse(row.load)),
        Order::Memory => rows.sort_by_key(|row| Reverse(row.rss_bytes)),
        Order::Age => rows.sort_by_key(|row| row.process.age_ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, worker: u16, age_ms: u64, rss: Option<u64>) -> ProcessView {
        let (worker, start_ticks) = (Some(worker), Some(100 - age_ms));
        let process = ProcessView::example(pid, 1, "x");
        ProcessView { worker, age_ms, start_ticks, rss_bytes: rss, ..process }
    }

    #[test]
    fn a_worker_is_the_sum_of_its_tree_and_is_called_by_its_oldest_process() {
        let all =
            [process(10, 1, 3, Some(5)), process(11, 1, 9, None), process(12, 2, 4, Some(1))];
        let shown: Vec<_> = all.iter().collect();
        let rows = workers(&shown, &Load::default());
        let seen: Vec<_> =
            rows.iter().map(|row| (row.process.pid, row.count, row.rss_bytes)).collect();
        assert_eq!(seen, [(11, 2, Some(5)), (12, 1, Some(1))]);
    }

    #[test]
    fn a_tree_stays_the_same_row_when_its_processes_change() {
        let before = [process(10, 1, 3, None), process(11, 1, 3, None)];
        let keys = |all: &[ProcessView]| {
            let shown: Vec<_> = all.iter().collect();
            workers(&shown, &Load::default()).iter().map(Row::key).collect::<Vec<_>>()
        };
        let later = [process(11, 1, 4, None), process(10, 1, 3, None)];
        assert_eq!(keys(&before), keys(&later));
        assert_eq!(keys(&before), keys(&later[..1]));
        let shown: Vec<_> = before.iter().collect();
        assert_ne!(processes(&shown, &Load::default())[0].key(), keys(&before)[0]);
    }

    #[test]
    fn rows_stand_in_the_order_that_is_asked_for() {
        let all =
            [process(10, 1, 3, Some(5)), process(11, 1, 9, None), process(12, 2, 1, Some(7))];
        let shown: Vec<_> = all.iter().collect();
        let pids = |order| {
            let mut rows = processes(&shown, &Load::default());
            sort(&mut rows, order);
            rows.iter().map(|row| row.process.pid).collect::<Vec<_>>()
        };
        assert_eq!(pids(Order::Number), [10, 11, 12]);
        assert_eq!(pids(Order::Memory), [12, 10, 11]);
        assert_eq!(pids(Order::Age), [12, 10, 11]);
        assert_eq!(pids(Order::Cpu), [10, 11, 12], "without a rate nothing moves");
    }
}
