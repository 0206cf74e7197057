//! The ladders of the trees that are being ended.

use crate::cleanup::stage::{Due, Stage};
use crate::cleanup::target::Tree;
use crate::tags::ladder::Ladder;
use std::collections::HashMap;
use std::time::{Duration, Instant};

// As long as a ladder that waits for ever.
const FOR_EVER: Duration = Duration::from_secs(1 << 30);

/// One ladder for all trees, and when it began for each.
#[derive(Debug)]
pub(crate) struct Ladders {
    ladder: Ladder,
    began: HashMap<Tree, Instant>,
}

impl Ladders {
    /// No tree is on the ladder yet.
    pub(crate) fn new(ladder: Ladder) -> Self {
        Self { ladder, began: HashMap::new() }
    }

    /// Begins the ladder of a tree, unless it has begun.
    pub(crate) fn begin(&mut self, tree: Tree, now: Instant) {
        self.began.entry(tree).or_insert(now);
    }

    /// Leads a tree to the end of its ladder, where SIGKILL is due.
    pub(crate) fn skip(&mut self, tree: Tree, now: Instant) {
        let whole = self.ladder.total().unwrap_or(FOR_EVER);
        self.began.insert(tree, now.checked_sub(whole).unwrap_or(now));
    }

    /// The trees whose ladder has begun, each with the step that is on now: `None` if SIGKILL is
    /// due.
    pub(crate) fn steps(&self, now: Instant) -> impl Iterator<Item = (Tree, Option<Due>)> {
        self.began.iter().map(move |(tree, began)| {
            let step = self.ladder.at(now.saturating_duration_since(*began));
            (*tree, step.map(|(step, signal, _)| Stage::step(step, signal, now)))
        })
    }

    /// As [`Stage::due`], for a process of a tree.
    pub(crate) fn due(
        &self,
        tree: Tree,
        stage: Stage,
        now: Instant,
        is_last: bool,
    ) -> Option<Due> {
        stage.due(&self.ladder, self.began(tree, now), now, is_last)
    }

    /// As [`Stage::next`], for a process of a tree.
    pub(crate) fn next(&self, tree: Tree, stage: Stage, now: Instant) -> Option<Instant> {
        stage.next(&self.ladder, self.began(tree, now), now)
    }

    fn began(&self, tree: Tree, now: Instant) -> Instant {
        self.began.get(&tree).copied().unwrap_or(now)
    }
}
