//! Output to stdout and stderr.
//!
//! Stdout has what was asked for. Stderr has everything else, each line with `leash: ` before it.

use crate::exit::{Exit, Failure};
use serde::Serialize;
use std::io::Write as _;
use std::path::Path;

/// Prints a text and flushes it.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        // The reader, for example of `leash ps | head`, has closed the pipe.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::new(Exit::Unusable, format!("stdout: {error}"))),
    }
}

/// Prints lines, each with a newline at its end.
pub(crate) fn print_lines(lines: &[String]) -> Result<(), Failure> {
    print(&lines.iter().map(|line| format!("{line}\n")).collect::<String>())
}

/// The keys that every document of `--json` begins with; see guides/cli.schema.json.
#[derive(Serialize)]
struct Document<T> {
    /// Goes up when a key changes its meaning or is removed.
    format: u32,
    run_dir: String,
    #[serde(flatten)]
    body: T,
}

/// Prints a document as one line of JSON; `jq` formats it better.
pub(crate) fn print_json(run_dir: &Path, body: impl Serialize) -> Result<(), Failure> {
    let document = Document { format: 1, run_dir: run_dir.display().to_string(), body };
    let text = serde_json::to_string(&document)
        .map_err(|error| Failure::new(Exit::Unusable, format!("JSON: {error}")))?;
    print(&(text + "\n"))
}

/// Writes a line to stderr. If stderr is closed, the line is lost.
pub(crate) fn complain(message: &str) {
    let _ = writeln!(std::io::stderr(), "leash: {message}");
}
