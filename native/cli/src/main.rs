//! `leash`: the command with which an operator inspects and ends runs from outside of every VM.
//!
//! `leash-core` makes every decision, from the records in the run directory and from `/proc`.
//! Nothing here decides which process may be ended.
#![forbid(unsafe_code)]

mod args;
mod control;
mod exit;
mod generate;
mod hunting;
mod kill;
mod look;
mod output;
mod paint;
mod place;
mod process_view;
mod ps;
mod run_view;
mod runs;
mod stop;
mod sweep;
mod table;
mod terminal;
mod text;
mod top;
mod tree;
mod vitals;
mod vm;

use args::{Cli, Command};
use clap::Parser as _;
use exit::{Exit, Failure};
use place::Place;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    leash_core::reserve_descriptors();
    match run(cli) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            output::complain(&failure.message);
            failure.exit.into()
        }
    }
}

fn run(cli: Cli) -> Result<Exit, Failure> {
    let place = Place::find(cli.run_dir);
    match cli.command {
        Command::Ps(args) => ps::run(&place, &args),
        Command::Tree(args) => tree::run(&place, &args),
        Command::Runs(args) => runs::run(&place, &args),
        Command::Top(args) => top::run(&place, &args),
        Command::Sweep(args) => sweep::run(&place, args),
        Command::Stop(args) => stop::run(&place, &args),
        Command::Kill(args) => kill::run(&place, &args),
        Command::Completions { shell } => generate::completions(shell),
        Command::Man { command } => generate::man(command.as_deref()),
    }
}
