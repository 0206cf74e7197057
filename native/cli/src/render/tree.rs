//! Runs, their shims and the processes below them, drawn as a tree.
//!
//! The tree has only processes of the run. A parent outside of it is not drawn.

use super::style::{Colour, Style};
use super::table::{cut, length};
use super::text::{age, count, harmless, or_dash, size, verdict};
use crate::process_view::ProcessView;
use crate::run_view::{OwnerView, RunView};
use crate::snapshot::Snapshot;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// The limit of the indentation, in columns. Below that depth no reader can tell the levels
/// apart.
const DEEPEST: usize = 96;

/// Draws all runs of a snapshot.
pub(crate) fn lines(snapshot: &Snapshot, style: Style) -> Vec<String> {
    let drawn = snapshot.runs.iter().flat_map(|run| {
        let own = snapshot.processes.iter().filter(|process| process.is_of(&run.run_id));
        draw(run, &own.collect::<Vec<_>>(), style)
    });
    drawn.collect()
}

/// Draws a run and the processes below it. A process without a parent in the run stands at the
/// top: the warden, shims that are not its children, and orphans.
fn draw(run: &RunView, processes: &[&ProcessView], style: Style) -> Vec<String> {
    let status = run.status_cell();
    let mut parts = vec![format!("owner {}", or_dash(run.owner.map(OwnerView::text)))];
    for (name, value) in [("app", &run.app), ("node", &run.node), ("since", &run.since)] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            parts.push(format!("{name} {}", harmless(value)));
        }
    }
    parts.push(count(run.processes, "process", "processes"));
    let rest = run.run_id.len() + status.text.len() + 3;
    let width = style.width.unwrap_or(usize::MAX).saturating_sub(rest);
    let mut lines = vec![format!(
        "{} {}  {}",
        style.paint(Colour::Bold, &run.run_id),
        style.paint(status.colour, &status.text),
        cut(&parts.join(", "), width)
    )];
    let known: HashSet<_> = processes.iter().map(|process| process.pid).collect();
    let mut children: HashMap<u32, Vec<&ProcessView>> = HashMap::new();
    let mut roots = Vec::new();
    for process in processes {
        match process.ppid.filter(|parent| known.contains(parent)) {
            Some(parent) => children.entry(parent).or_default().push(process),
            None => roots.push(*process),
        }
    }
    // The parents were read one after the other, and a pid may have been reused in between. So
    // parents can form a circle, which no root reaches. `drawn` makes sure that no process is
    // drawn twice.
    let mut drawn = HashSet::new();
    descend(&mut lines, roots, &children, style, &mut drawn);
    for process in processes {
        descend(&mut lines, vec![process], &children, style, &mut drawn);
    }
    lines
}

/// Walks down without recursion: a chain of processes can be longer than the stack is deep.
fn descend<'a>(
    lines: &mut Vec<String>,
    roots: Vec<&'a ProcessView>,
    children: &HashMap<u32, Vec<&'a ProcessView>>,
    style: Style,
    drawn: &mut HashSet<u32>,
) {
    // The first of the siblings is on top of the stack. The last one is drawn as the last.
    let push = |stack: &mut Vec<_>, siblings: &[&'a ProcessView], indent: &Rc<str>| {
        let ordered = siblings.iter().enumerate().rev();
        stack.extend(ordered.map(|(i, one)| (*one, Rc::clone(indent), i + 1 == siblings.len())));
    };
    let mut stack = Vec::new();
    push(&mut stack, &roots, &Rc::from(""));
    while let Some((process, indent, is_last)) = stack.pop() {
        if !drawn.insert(process.pid) {
            continue;
        }
        let (elbow, below) = if is_last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        let text = format!("{indent}{elbow}{}", label(process));
        let text = cut(&text, style.width.unwrap_or(usize::MAX));
        lines.push(style.paint(process.status_cell().colour, &text));
        let Some(children) = children.get(&process.pid) else { continue };
        let deeper =
            if length(&indent) < DEEPEST { Rc::from(format!("{indent}{below}")) } else { indent };
        push(&mut stack, children, &deeper);
    }
}

/// Returns what stands beside the lines of the tree.
fn label(process: &ProcessView) -> String {
    let worker = or_dash(process.worker);
    let ProcessView { pid, state, .. } = process;
    // The arguments of the shim repeat what the rest of the tree shows.
    if process.warden {
        return format!("{pid} {state} warden");
    }
    if process.shim {
        return format!("{pid} {state} shim of worker {worker}{}", called(process));
    }
    let stats = format!("{}, {}", age(process.age_ms), or_dash(process.rss_bytes.map(size)));
    format!("{pid} {state} [{worker}, {}, {stats}] {}", verdict(process.verdict), process.command)
}

/// Returns name and group of a worker, as they follow its number.
fn called(process: &ProcessView) -> String {
    match (&process.name, &process.group) {
        (Some(name), Some(group)) => format!(", {name} of {group}"),
        (Some(name), None) => format!(", {name}"),
        (None, Some(group)) => format!(", of {group}"),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_view::tests::report;
    use leash_core::{OwnerState, Source, Verdict};

    fn run() -> RunView {
        let (state, source) = (OwnerState::Alive, Source::Record);
        let owner = Some(OwnerView { pid: 90, start_ticks: 1, state, source });
        RunView { owner, processes: 3, ..RunView::new(&report(Verdict::Live, ""), None) }
    }

    fn process(pid: u32, ppid: u32, shim: bool) -> ProcessView {
        let worker = Some(1);
        ProcessView { worker, shim, ..ProcessView::example(pid, ppid, &format!("c{pid}")) }
    }

    fn drawn(processes: &[ProcessView]) -> Vec<String> {
        draw(&run(), &processes.iter().collect::<Vec<_>>(), Style::PLAIN)
    }

    #[test]
    fn shims_stand_below_the_run_and_processes_below_their_parents() {
        let name = Some("App.W".to_owned());
        let processes = [
            ProcessView { name, group: Some(":pool".into()), ..process(10, 90, true) },
            process(11, 10, false),
            process(12, 11, false),
            process(13, 10, false),
        ];
        assert_eq!(
            drawn(&processes),
            [
                "s59m65f alive  owner 90, app shop, 3 processes",
                "└─ 10 S shim of worker 1, App.W of :pool",
                "   ├─ 11 S [1, live, 5s, 2K] c11",
                "   │  └─ 12 S [1, live, 5s, 2K] c12",
                "   └─ 13 S [1, live, 5s, 2K] c13",
            ]
        );
    }

    #[test]
    fn a_warden_is_no_shim() {
        let warden = ProcessView { worker: None, warden: true, ..process(9, 90, true) };
        let lines = drawn(&[warden, process(10, 90, true)]);
        assert_eq!(
            lines.get(1..),
            Some(&["├─ 9 S warden".to_owned(), "└─ 10 S shim of worker 1".to_owned()][..])
        );
    }

    #[test]
    fn a_circle_of_parents_is_drawn_once_and_ends() {
        let lines =
            drawn(&[process(10, 11, false), process(11, 10, false), process(12, 12, false)]);
        for pid in [10, 11, 12] {
            let label = format!("─ {pid} S");
            assert_eq!(lines.iter().filter(|line| line.contains(&label)).count(), 1, "{lines:?}");
        }
    }

    #[test]
    fn a_chain_as_deep_as_processes_can_be_is_drawn() {
        let chain: Vec<_> = (10..30_010).map(|pid| process(pid, pid - 1, false)).collect();
        let lines = drawn(&chain);
        assert_eq!(lines.len(), 30_001);
        assert!(lines.iter().all(|line| line.len() < 200));
    }
}
