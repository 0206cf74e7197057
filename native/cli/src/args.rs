//! The command line.

use clap::{Args, Parser, Subcommand};
use leash_core::Ladder;
use leash_tag::RunId;
use std::path::PathBuf;
use std::time::Duration;

/// Stands behind the help.
const EXIT_STATUS: &str = "\
Exit status:
  0  done
  1  something is left, or it could not be proven that nothing is; what was asked for is not known;
     or a VM did not answer
  2  usage, and `leash top` without a terminal
  3  refused: the run is not provably dead, or several runs have what is to be stopped
  4  the run directory or /proc cannot be used, or the kernel does not permit it

Environment:
  LEASH_RUN_DIR      the run directory; else $RUNTIME_DIRECTORY/leash, else /tmp/leash-<uid>,
                     or /tmp/leash-<uid>.<n> where that is not this user's
  NO_COLOR           no colours; there are none but on a terminal anyway";

/// The long help of `leash stop`.
const STOP: &str = "\
Asks the living VMs to end a worker or a group, each with its own ladder, and waits until nothing of them is left.

NAME is a worker's registered name or a group, as `Leash.list/0` shows it: MyApp.Embedder, :pool or pool, \"gpu\" or gpu, \
{MyApp.Pool, 3}. Where several living runs have it, nothing is stopped without --run or --all-runs. Where no living run has it, \
what dead ones left is ended, as `leash sweep` does.

A worker under a supervisor that restarts it is started again.";

/// What follows the command's name in the output of `--version`.
fn version() -> &'static str {
    let mark = leash_tag::build_mark!("leash");
    mark.strip_prefix("leash ").unwrap_or(mark)
}

/// Looks at the runs of Leash on this machine, and ends what dead ones left.
#[derive(Debug, Parser)]
#[command(name = "leash", version = version(), after_help = EXIT_STATUS, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// Where the records of runs are kept
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) run_dir: Option<PathBuf>,
    /// What to do
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists the processes of workers
    Ps(PsArgs),
    /// Draws runs, their shims and the processes below them
    Tree(TreeArgs),
    /// Lists runs, and whether they are alive
    Runs(RunsArgs),
    /// Shows `leash ps` again and again, until q or ctrl-c
    Top(TopArgs),
    /// Ends what provably dead runs left, as every start of Leash does
    Sweep(SweepArgs),
    /// Asks the living VMs to end a worker or a group
    #[command(long_about = STOP)]
    Stop(StopArgs),
    /// Ends what one dead run left
    Kill(KillArgs),
    /// Prints a completion script
    #[command(hide = true)]
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
    /// Prints a manual page
    #[command(hide = true)]
    Man {
        /// Of which command; default: of `leash` itself
        command: Option<String>,
    },
}

/// The arguments of `leash ps`.
#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Processes and runs of all users, as far as they can be read
    #[arg(long, short)]
    pub(crate) all: bool,
    /// Shims, too
    #[arg(long)]
    pub(crate) shims: bool,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// The arguments of `leash tree`.
#[derive(Debug, Args)]
pub(crate) struct TreeArgs {
    /// Only this run
    pub(crate) run_id: Option<RunId>,
    /// Processes and runs of all users, as far as they can be read
    #[arg(long, short)]
    pub(crate) all: bool,
}

/// The arguments of `leash runs`.
#[derive(Debug, Args)]
pub(crate) struct RunsArgs {
    /// Processes and runs of all users, as far as they can be read
    #[arg(long, short)]
    pub(crate) all: bool,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// The arguments of `leash top`.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Processes and runs of all users, as far as they can be read
    #[arg(long, short)]
    pub(crate) all: bool,
    /// Shims, too
    #[arg(long)]
    pub(crate) shims: bool,
    /// Seconds between two looks, 0.1 to 3600
    #[arg(long, short, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    pub(crate) interval: Duration,
}

/// The arguments of `leash sweep`.
#[derive(Debug, Args)]
pub(crate) struct SweepArgs {
    /// Sends nothing and says what would be ended
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Only runs whose record names this application
    #[arg(long, value_name = "NAME")]
    pub(crate) app: Option<String>,
    /// How hard, and how long
    #[command(flatten)]
    pub(crate) hard: Hard,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// The arguments of `leash stop`.
#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// A worker's registered name, or a group
    #[arg(value_parser = asked)]
    pub(crate) name: String,
    /// Only in this run
    #[arg(long = "run", value_name = "RUN_ID")]
    pub(crate) run_id: Option<RunId>,
    /// In every run that has it
    #[arg(long, conflicts_with = "run_id")]
    pub(crate) all_runs: bool,
    /// Milliseconds until what is left of all of them gets SIGKILL
    #[arg(long, value_name = "MS", default_value = "5000", value_parser = milliseconds)]
    pub(crate) deadline: Duration,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// The arguments of `leash kill`.
#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// The run
    pub(crate) run_id: RunId,
    /// Sends SIGTERM to the VM of a live run, and ends what the VM leaves
    #[arg(long)]
    pub(crate) force: bool,
    /// Ends also what outlives its VM on purpose: detached workers and what `on_exit: :keep` kept
    #[arg(long)]
    pub(crate) outliving: bool,
    /// How hard, and how long
    #[command(flatten)]
    pub(crate) hard: Hard,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// How hard, and how long.
#[derive(Clone, Debug, Args)]
pub(crate) struct Hard {
    /// Milliseconds for everything; living shims get what their own ladders take, at most this
    #[arg(long, value_name = "MS", default_value = "10000", value_parser = milliseconds)]
    pub(crate) deadline: Duration,
    /// What processes without a living shim get before SIGKILL: SIGNAL:MS, separated by commas
    #[arg(long, value_name = "STEPS", default_value = "TERM:2000", value_parser = ladder)]
    pub(crate) stop: Ladder,
}

/// A request is one line. A VM takes at most this much of it (`lib/leash/control.ex`).
const MOST_NAME: usize = 1000;

/// Parses the name of a worker or group.
fn asked(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > MOST_NAME || text.contains(['\n', '\0']) {
        return Err(format!("a name of 1 to {MOST_NAME} bytes in one line is expected"));
    }
    Ok(text.to_owned())
}

/// Parses an interval.
fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 =
        text.parse().map_err(|_| "a number such as 2 or 0.5 is expected".to_owned())?;
    if !(0.1..=3600.0).contains(&number) {
        return Err("0.1 to 3600 is expected".to_owned());
    }
    Ok(Duration::from_secs_f64(number))
}

/// The upper bound of the shim's own options.
const MOST_MS: u64 = i32::MAX as u64;

/// Parses a deadline.
fn milliseconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(number) if number <= MOST_MS => Ok(Duration::from_millis(number)),
        _ => Err(format!("0 to {MOST_MS} is expected")),
    }
}

/// Parses steps before SIGKILL.
fn ladder(text: &str) -> Result<Ladder, String> {
    let wrong = || "steps such as INT:500,TERM:2000 are expected".to_owned();
    // Only a shim knows the scope of a step. Without a shim, each process of the run gets the
    // signal.
    if text.contains('@') {
        return Err(wrong());
    }
    Ladder::parse_shim(text.as_bytes()).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_run_id_that_is_none_is_a_usage_error() {
        for bad in ["", "-1", "0", "0000000", "S59M65F", "s59m65", "s59m65ff", "s59m65\n"] {
            let error = Cli::try_parse_from(["leash", "kill", bad]).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{bad:?}");
        }
        assert!(Cli::try_parse_from(["leash", "kill", "s59m65f"]).is_ok());
    }

    #[test]
    fn times_and_ladders_outside_their_bounds_are_usage_errors() {
        for bad in [
            &["sweep", "--deadline", "-1"][..],
            &["sweep", "--deadline", "2147483648"],
            &["sweep", "--deadline", "soon"],
            &["sweep", "--stop", "TERM"],
            &["sweep", "--stop", "NONE:5"],
            &["sweep", "--stop", "TERM:5@leader"],
            &["stop", ""],
            &["stop", "a\nb"],
            &["stop", "a", "--deadline", "-1"],
            &["stop", "a", "--all-runs", "--run", "s59m65f"],
            &["top", "--interval", "0"],
            &["top", "--interval", "NaN"],
            &["top", "--interval", "inf"],
        ] {
            let line = std::iter::once("leash").chain(bad.iter().copied());
            assert_eq!(Cli::try_parse_from(line).unwrap_err().exit_code(), 2, "{bad:?}");
        }
        assert_eq!(milliseconds("2147483647"), Ok(Duration::from_millis(2_147_483_647)));
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
    }

    #[test]
    fn the_help_says_every_exit_status() {
        let help = Cli::command().render_help().to_string();
        for exit in crate::exit::Exit::ALL {
            assert!(help.contains(&format!("\n  {}  ", exit as u8)), "{exit:?}");
        }
    }
}
