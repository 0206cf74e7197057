//! Tables with columns.
//!
//! ```text
//! RUN      IS    WORKER   PID  COMMAND
//! s59m65f  live       3  4712  python3 worker.py
//! ```
//!
//! Every column is as wide as its widest cell, and two blanks stand between two of them.

use super::style::{Colour, Style};

/// A field of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    /// The text, which has no control characters.
    pub(crate) text: String,
    /// The colour of all of it.
    pub(crate) colour: Colour,
}

impl Cell {
    /// Returns a cell in a colour.
    pub(crate) fn new(text: impl Into<String>, colour: Colour) -> Self {
        Self { text: text.into(), colour }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::new(text, Colour::Plain)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

/// Lays rows out below their titles. If the style has a width, each line is cut to it. The last
/// column is not padded.
///
/// A title that begins with `>` stands on the right of its column, with the cells below it.
pub(crate) fn lines<const N: usize>(
    columns: [&str; N],
    rows: &[[Cell; N]],
    style: Style,
) -> Vec<String> {
    let titles = columns.map(|title| title.trim_start_matches('>'));
    let mut widths = titles.map(length);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = length(&cell.text).max(*width);
        }
    }
    let titles = titles.map(|title| Cell::new(title, Colour::Bold));
    std::iter::once(&titles).chain(rows).map(|row| line(row, columns, widths, style)).collect()
}

/// Lays out one row.
fn line<const N: usize>(
    row: &[Cell; N],
    columns: [&str; N],
    widths: [usize; N],
    style: Style,
) -> String {
    let mut line = String::new();
    let mut left = style.width.unwrap_or(usize::MAX);
    for (index, ((cell, title), width)) in row.iter().zip(columns).zip(widths).enumerate() {
        if index > 0 {
            let gap = left.min(2);
            line.extend(std::iter::repeat_n(' ', gap));
            left -= gap;
        }
        let is_last = index + 1 == N;
        // The text is cut before it is coloured, so that every colour is reset.
        let text = cut(&cell.text, left);
        let shown = length(&text);
        let fill = if is_last { 0 } else { (width.min(left)).saturating_sub(shown) };
        let blanks = " ".repeat(fill);
        let text = style.paint(cell.colour, &text);
        let is_right = title.starts_with('>');
        line.extend(if is_right { [blanks, text] } else { [text, blanks] });
        left -= shown + fill;
    }
    line.truncate(line.trim_end_matches(' ').len());
    line
}

/// Returns the number of columns that a text takes.
pub(crate) fn length(text: &str) -> usize {
    text.chars().count()
}

/// Returns at most `width` characters. If the text is longer, the last of them is an ellipsis.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if length(text) <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain((width > 0).then_some('…')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [&str; 3] = ["A", ">NUM", "REST"];

    fn row(a: &str, number: &str, rest: &str) -> [Cell; 3] {
        [a.into(), number.into(), rest.into()]
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [row("aaaa", "1", "x"), row("ü", "12345", "a longer rest")];
        let shown = lines(COLUMNS, &rows, Style::PLAIN);
        assert_eq!(shown, ["A       NUM  REST", "aaaa      1  x", "ü     12345  a longer rest"]);
    }

    #[test]
    fn a_line_is_cut_to_the_width_and_colours_take_no_room() {
        let mut rows = [row("aaaa", "1", "0123456789")];
        rows[0][2].colour = Colour::Red;
        let shown = lines(COLUMNS, &rows, Style { colours: true, width: Some(15) });
        assert_eq!(shown[1], "aaaa    1  \x1b[31m012…\x1b[0m");
        for width in 0..40 {
            for line in lines(COLUMNS, &rows, Style { colours: false, width: Some(width) }) {
                assert!(length(&line) <= width, "{width}: {line:?}");
            }
        }
    }
}
