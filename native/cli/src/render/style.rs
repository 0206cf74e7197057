//! Colours and width of the output.
//!
//! A terminal gets both. A pipe or a file gets neither, so that a program reads whole lines.

use super::terminal;
use std::io::IsTerminal as _;

/// A colour of the terminal's own palette.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    /// The colour of ordinary text.
    Plain,
    /// Something is dead, or survived.
    Red,
    /// All is well.
    Green,
    /// The state is not known, or the output may lack something.
    Yellow,
    /// Not a colour: titles.
    Bold,
    /// Not a colour: the selected row.
    Reverse,
}

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Style {
    /// Whether there are colours.
    pub(crate) colours: bool,
    /// The number of columns that a line may take, `None` without a limit.
    pub(crate) width: Option<usize>,
}

impl Style {
    /// No colours and no limit, as in a pipe.
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self { colours: false, width: None };

    /// Returns the style of stdout: colours for a terminal that can show them, unless `NO_COLOR`
    /// is set (<https://no-color.org>).
    pub(crate) fn of_stdout() -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let colours = std::io::stdout().is_terminal() && !set("NO_COLOR") && !dumb;
        Self { colours, width: terminal::size().map(|(columns, _)| columns) }
    }

    /// Returns a text in a colour.
    pub(crate) fn paint(self, colour: Colour, text: &str) -> String {
        let code = match colour {
            _ if !self.colours => return text.to_owned(),
            Colour::Plain => return text.to_owned(),
            Colour::Red => 31,
            Colour::Green => 32,
            Colour::Yellow => 33,
            Colour::Bold => 1,
            Colour::Reverse => 7,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}
