//! Colours, for output to a terminal.

use std::io::IsTerminal as _;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    Plain,
    Red,
    Green,
    Yellow,
    Bold,
}

/// The choice between output with colours and without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Paint(pub(crate) bool);

impl Paint {
    /// Returns colours for a terminal that can show them, unless `NO_COLOR` is set
    /// (<https://no-color.org>).
    pub(crate) fn of_stdout() -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self(std::io::stdout().is_terminal() && !set("NO_COLOR") && !dumb)
    }

    pub(crate) fn text(self, colour: Colour, text: &str) -> String {
        let code = match colour {
            _ if !self.0 => return text.to_owned(),
            Colour::Plain => return text.to_owned(),
            Colour::Red => 31,
            Colour::Green => 32,
            Colour::Yellow => 33,
            Colour::Bold => 1,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}
