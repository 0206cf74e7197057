//! What turns data into text, and text into output.

pub(crate) mod output;
pub(crate) mod processes;
pub(crate) mod report;
pub(crate) mod style;
pub(crate) mod table;
pub(crate) mod terminal;
pub(crate) mod text;
pub(crate) mod tree;
pub(crate) mod workers;
