//! What `leash top` shows, and what a key changes. No key sends anything without a question.

use super::keys::Key as Pressed;
use super::rows::{Key, Order, Row};

/// The kind of table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Table {
    /// A row for each process.
    #[default]
    Processes,
    /// A row for each worker.
    Workers,
    /// The tree of `leash tree`.
    Tree,
}

/// The state between two frames.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// The kind of table.
    pub(crate) table: Table,
    /// The order of its rows.
    pub(crate) order: Order,
    /// The selected row.
    pub(crate) selected: Option<Key>,
    /// The row that the user is asked about.
    pub(crate) question: Option<Key>,
    /// What came of the last request, for the last line of the screen.
    pub(crate) message: Option<String>,
}

/// What a key asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Another frame.
    Draw,
    /// The end of the command.
    Quit,
    /// The end of what this row belongs to.
    End(Key),
}

impl View {
    /// Takes a key. `rows` are those of the last frame, in its order.
    pub(crate) fn press(&mut self, key: Pressed, rows: &[Row<'_>]) -> Wish {
        if let Some(asked) = self.question.take() {
            let is_yes = matches!(key, Pressed::Char('y' | 'Y'));
            return if is_yes { Wish::End(asked) } else { Wish::Draw };
        }
        self.message = None;
        match key {
            Pressed::Char('q' | 'Q') => return Wish::Quit,
            Pressed::Char('p') => self.table = Table::Processes,
            Pressed::Char('w') => self.table = Table::Workers,
            Pressed::Char('t') => self.table = Table::Tree,
            Pressed::Char('n') => self.order = Order::Number,
            Pressed::Char('c') => self.order = Order::Cpu,
            Pressed::Char('m') => self.order = Order::Memory,
            Pressed::Char('a') => self.order = Order::Age,
            Pressed::Char('k') if self.table != Table::Tree => {
                self.question = self.position(rows).map(|at| rows[at].key());
                if self.question.is_none() {
                    self.message = Some("select a row with the cursor keys first".to_owned());
                }
            }
            Pressed::Up => self.step(rows, |at| at.saturating_sub(1)),
            Pressed::Down => self.step(rows, |at| at + 1),
            Pressed::Escape => self.selected = None,
            Pressed::Char(_) => {}
        }
        Wish::Draw
    }

    /// Returns where the selected row is by now, if it is still there.
    pub(crate) fn position(&self, rows: &[Row<'_>]) -> Option<usize> {
        let selected = self.selected.as_ref()?;
        rows.iter().position(|row| row.key() == *selected)
    }

    fn step(&mut self, rows: &[Row<'_>], to: impl FnOnce(usize) -> usize) {
        let at = self.position(rows).map_or(0, to).min(rows.len().saturating_sub(1));
        self.selected = rows.get(at).map(Row::key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process_view::ProcessView;
    use crate::top::load::Load;
    use crate::top::rows::processes;

    #[test]
    fn only_a_yes_to_the_question_ends_anything_and_it_ends_the_row_that_was_asked_about() {
        let all = [ProcessView::example(10, 1, "a"), ProcessView::example(11, 1, "b")];
        let shown: Vec<_> = all.iter().collect();
        let rows = processes(&shown, &Load::default());
        let mut view = View::default();
        assert_eq!(view.press(Pressed::Char('k'), &rows), Wish::Draw);
        assert!(view.question.is_none() && view.message.is_some(), "nothing is selected");
        for key in [Pressed::Down, Pressed::Down, Pressed::Down, Pressed::Char('k')] {
            assert_eq!(view.press(key, &rows), Wish::Draw);
        }
        assert_eq!(view.question, Some(rows[1].key()));
        for no in ['n', 'q', 'k', ' '] {
            assert_eq!(view.press(Pressed::Char(no), &rows), Wish::Draw, "{no}");
            assert_eq!(view.question, None);
            view.press(Pressed::Char('k'), &rows);
        }
        // The row has moved meanwhile.
        assert_eq!(view.press(Pressed::Char('y'), &rows[..1]), Wish::End(rows[1].key()));
        assert_eq!(view.press(Pressed::Char('y'), &rows), Wish::Draw, "one yes for one question");
        assert_eq!(view.press(Pressed::Char('q'), &rows), Wish::Quit);
    }

    #[test]
    fn the_selection_stays_on_its_row_and_within_the_table() {
        let all = [ProcessView::example(10, 1, "a"), ProcessView::example(11, 1, "b")];
        let shown: Vec<_> = all.iter().collect();
        let rows = processes(&shown, &Load::default());
        let mut view = View::default();
        view.press(Pressed::Up, &rows);
        assert_eq!(view.position(&rows), Some(0));
        let turned = [rows[1].clone(), rows[0].clone()];
        assert_eq!(view.position(&turned), Some(1), "rows change places");
        view.press(Pressed::Down, &turned);
        assert_eq!(view.position(&turned), Some(1), "the last row");
        assert_eq!(view.position(&rows[1..]), None, "it has ended");
        view.press(Pressed::Down, &[]);
        assert_eq!(view.selected, None);
    }
}
