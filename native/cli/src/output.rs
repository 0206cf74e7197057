//! stdout and stderr.

use crate::exit::{Exit, Failure};
use std::io::Write as _;

/// Prints text whole.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        // `leash ps | head` has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::new(Exit::Unusable, format!("stdout: {error}"))),
    }
}

/// Prints lines, and each of them ends.
pub(crate) fn print_lines(lines: &[String]) -> Result<(), Failure> {
    print(&(lines.join("\n") + "\n"))
}

/// Prints a document in one line for each command: `jq` formats it better.
pub(crate) fn print_json(document: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(document)
        .map_err(|error| Failure::new(Exit::Unusable, format!("JSON: {error}")))?;
    print(&(text + "\n"))
}

/// A line on stderr. Where even that is closed nobody is left to tell.
pub(crate) fn complain(message: &str) {
    let _ = writeln!(std::io::stderr(), "leash: {message}");
}
