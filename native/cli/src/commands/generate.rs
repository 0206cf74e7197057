//! Completions and manual pages, for packagers of the command.

use crate::args::Cli;
use crate::exit::{Exit, Failure};
use crate::render::output::print;
use clap::CommandFactory as _;

/// Prints a completion script.
pub(crate) fn completions(shell: clap_complete::Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "leash", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}

/// Prints a manual page of `leash` or of a subcommand.
pub(crate) fn man(of: Option<&str>) -> Result<Exit, Failure> {
    let page = page(of).ok_or_else(|| Failure::new(Exit::Usage, "there is no such command"))?;
    print(&page)?;
    Ok(Exit::Done)
}

/// Returns a manual page, `None` if there is no such subcommand.
fn page(of: Option<&str>) -> Option<String> {
    let mut root = Cli::command();
    // Without this, the pages of the subcommands lack the global options.
    root.build();
    let command = match of {
        None => root,
        Some(name) => root.find_subcommand(name)?.clone(),
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page).ok()?;
    String::from_utf8(page).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_page_of_each_command_that_people_use() {
        let whole = page(None).unwrap();
        for name in ["ps", "tree", "runs", "top", "sweep", "stop", "kill"] {
            assert!(whole.contains(&format!("leash\\-{name}(1)")), "{name}");
            assert!(page(Some(name)).unwrap().contains("\\-\\-run\\-dir"), "{name}");
        }
        assert!(!whole.contains("completions"));
        assert_eq!(page(Some("dance")), None);
    }
}
