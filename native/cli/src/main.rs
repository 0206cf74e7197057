//! `leash`: the command with which an operator inspects and ends runs from outside of every VM.
//!
//! `leash-core` makes every decision, from the records in the run directory and from `/proc`.
//! Nothing here decides which process may be ended.
//!
//! | what | where |
//! |---|---|
//! | the command line, exit statuses | [`args`], [`exit`] |
//! | a file for each subcommand | [`commands`] |
//! | the run directory, and everything at one moment | [`run_dir_location`], [`snapshot`] |
//! | sweeps, and the end of one run | [`cleanup`] |
//! | requests to living VMs | [`control`] |
//! | the parts of `leash top` | [`top`] |
//! | tables, colours, JSON, the terminal | [`render`] |
//!
//! [`run_view`] and [`process_view`] are what the tables and the JSON show. No file imports
//! another one in a circle (`tests/imports.rs`).
#![forbid(unsafe_code)]

mod args;
mod cleanup;
mod commands;
mod control;
mod exit;
mod process_stats;
mod process_view;
mod render;
mod run_dir_location;
mod run_view;
mod snapshot;
mod top;

use args::{Cli, Command};
use clap::Parser as _;
use commands::{generate, kill, ps, runs, stop, sweep, tree};
use exit::{Exit, Failure};
use run_dir_location::RunDirLocation;
use std::process::ExitCode;

/// Parses the command line, runs the subcommand, and turns a failure into a line on stderr.
fn main() -> ExitCode {
    let cli = Cli::parse();
    leash_core::reserve_descriptors();
    let exit = run(cli).unwrap_or_else(|failure| {
        render::output::complain(&failure.message);
        failure.exit
    });
    ExitCode::from(exit as u8)
}

/// Runs the subcommand.
fn run(cli: Cli) -> Result<Exit, Failure> {
    let location = RunDirLocation::find(cli.run_dir);
    match cli.command {
        Command::Ps(args) => ps::run(&location, &args),
        Command::Tree(args) => tree::run(&location, &args),
        Command::Runs(args) => runs::run(&location, &args),
        Command::Top(args) => commands::top::run(&location, &args),
        Command::Sweep(args) => sweep::run(&location, args),
        Command::Stop(args) => stop::run(&location, &args),
        Command::Kill(args) => kill::run(&location, &args),
        Command::Completions { shell } => generate::completions(shell),
        Command::Man { command } => generate::man(command.as_deref()),
    }
}
