//! `leash`: the command with which an operator inspects and ends runs from outside of every VM.
//!
//! `leash-core` makes every decision, from the records in the run directory and from `/proc`.
//! Nothing here decides which process may be ended.
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

use args::{Cli, Command};
use clap::Parser as _;
use commands::{generate, kill, ps, runs, stop, sweep, top, tree};
use exit::{Exit, Failure};
use run_dir_location::RunDirLocation;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    leash_core::reserve_descriptors();
    match run(cli) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            render::output::complain(&failure.message);
            failure.exit.into()
        }
    }
}

fn run(cli: Cli) -> Result<Exit, Failure> {
    let location = RunDirLocation::find(cli.run_dir);
    match cli.command {
        Command::Ps(args) => ps::run(&location, &args),
        Command::Tree(args) => tree::run(&location, &args),
        Command::Runs(args) => runs::run(&location, &args),
        Command::Top(args) => top::run(&location, &args),
        Command::Sweep(args) => sweep::run(&location, args),
        Command::Stop(args) => stop::run(&location, &args),
        Command::Kill(args) => kill::run(&location, &args),
        Command::Completions { shell } => generate::completions(shell),
        Command::Man { command } => generate::man(command.as_deref()),
    }
}
