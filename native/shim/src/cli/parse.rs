//! Parsing a command line.

use core::ffi::CStr;
use leash_tag::RunId;
use leash_tag::stop_steps::{MAX_STEPS, StepKind};

use super::arg_error::ArgError;
use super::config::{Config, Stream};
use super::options::{self, ATTACH, Given, WARDEN, WORKER};

/// A parsed command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "one value, on the stack, once")]
pub enum Parsed<'a> {
    /// A worker to start, a process to attach, or a warden.
    Run(Config<'a>),
    /// `--help`.
    Help,
    /// `--version`.
    Version,
}

/// Reads an argument vector, program name included.
///
/// # Errors
///
/// [`ArgError`] for the first argument that is wrong.
pub fn parse<'a>(args: impl Iterator<Item = &'a CStr>) -> Result<Parsed<'a>, ArgError<'a>> {
    let mut args = args.enumerate().skip(1).peekable();
    let first = args.peek().map_or(&b""[..], |(_, arg)| arg.to_bytes());
    if let b"--help" | b"--version" = first {
        return match args.nth(1) {
            None if first == b"--help" => Ok(Parsed::Help),
            None => Ok(Parsed::Version),
            Some((_, more)) => Err(ArgError {
                option: first,
                expected: "to be the only argument",
                value: more.to_bytes(),
            }),
        };
    }
    // The option itself is read below, with all others.
    let Some(run) = RunId::from_number(1).filter(|_| first.starts_with(b"--run-id=")) else {
        let expected = "--run-id=ID as the first argument";
        return Err(ArgError { option: b"--run-id", expected, value: first });
    };

    let (mut config, mut given, mut ended) = (Config::new(run), Given::default(), false);
    while let Some((index, arg)) = args.next() {
        if arg.to_bytes() == b"--" {
            ended = true;
            break;
        }
        if config.step.take(index, arg, &mut args)? {
            continue;
        }
        // Other programs look for `--warden` at this place. If they missed it, they would take
        // the warden for a shim and wait for it.
        if arg.to_bytes() == b"--warden" && index != 2 {
            return Err(ArgError::of(b"--warden", "to be the second argument"));
        }
        if config.step.count() > 0 {
            let expected = "another one, or --, after its arguments";
            return Err(ArgError { option: b"--step", expected, value: arg.to_bytes() });
        }
        options::read(&mut config, &mut given, arg)?;
    }
    check(&config, given, ended)?;
    if config.warden || config.attach.is_some() {
        return Ok(Parsed::Run(config));
    }
    let (index, command) = args.next().ok_or(ArgError::of(b"--", "a command after it"))?;
    if command.is_empty() {
        return Err(ArgError::of(b"COMMAND", "a name or path"));
    }
    (config.command_index, config.command) = (index, command);
    Ok(Parsed::Run(config))
}

/// Checks that the options go together.
fn check(config: &Config<'_>, given: Given, has_command: bool) -> Result<(), ArgError<'static>> {
    let (mode, no_command, outside) = match config.attach {
        _ if config.warden => {
            (WARDEN, "no command beside --warden", "not to be given beside --warden")
        }
        Some(_) => (ATTACH, "no command beside --attach", "not to be given beside --attach"),
        None => (WORKER, "", ""),
    };
    let steps = |kind| config.stop.count(kind, MAX_STEPS);
    let (option, expected): (&str, _) =
        if config.channel && (given.has("leash") || given.has("report")) {
            ("--channel", "no --leash and no --report beside it")
        } else if config.control.is_some() && !config.warden {
            ("--control", "to be given beside --warden")
        } else if config.step.count() != steps(StepKind::Command) {
            ("--step", "one for each CMD of --stop")
        } else if mode == ATTACH && steps(StepKind::CloseStdin) > 0 {
            ("--stop", "no STDIN beside --attach, whose stdin is not the VM's")
        } else if mode != WORKER && has_command {
            return Err(ArgError { option: b"--", expected: no_command, value: b"--" });
        } else if let Some(name) = given.first_outside(mode) {
            (name, outside)
        } else if config.controlling_tty && config.foreground {
            ("--controlling-tty", "no --foreground beside it")
        } else if config.controlling_tty && matches!(config.stdin, Stream::Null | Stream::Open) {
            ("--controlling-tty", "a terminal as --stdin: inherit or fd:N")
        } else if mode == WARDEN && config.owner.is_none() && config.control.is_none() {
            ("owner", "PID:TICKS beside --warden, unless --control is given")
        } else {
            return Ok(());
        };
    Err(ArgError::of(option.as_bytes(), expected))
}

#[cfg(test)]
mod tests {
    use super::super::options::OPTIONS;
    use super::*;
    use leash_tag::stop_steps::Steps;
    use proptest::prelude::*;
    use std::ffi::CString;
    use std::string::String;
    use std::vec::Vec;

    fn with<T>(args: &[&str], check: impl FnOnce(Result<Parsed<'_>, ArgError<'_>>) -> T) -> T {
        let owned: Vec<CString> =
            ["leash-shim"].iter().chain(args).map(|arg| CString::new(*arg).unwrap()).collect();
        check(parse(owned.iter().map(CString::as_c_str)))
    }

    fn config<T>(args: &[&str], check: impl FnOnce(Config<'_>) -> T) -> T {
        let all: Vec<&str> =
            ["--run-id=s59m65f"].iter().chain(args).copied().chain(["--", "cat"]).collect();
        with(&all, |parsed| match parsed {
            Ok(Parsed::Run(config)) => check(config),
            other => panic!("{args:?}: {other:?}"),
        })
    }

    fn raw(groups: &[rustix::process::Gid]) -> Vec<u32> {
        groups.iter().map(|gid| gid.as_raw()).collect()
    }

    #[test]
    fn the_shortest_command_line_has_the_documented_defaults() {
        config(&[], |config| {
            assert_eq!(config.stop, Steps::DEFAULT);
            assert_eq!((config.linger, config.command_index), (200, 3));
            assert!(config.mark && !config.detach && !config.foreground);
        });
    }

    #[test]
    fn a_step_may_be_a_command() {
        let args =
            ["--stop=CMD:5000,TERM:2000,CMD:inf", "--step=2", "rm", "--", "--step=1", "sync"];
        config(&args, |config| {
            assert_eq!((config.step.count(), config.command), (2, c"cat"));
        });
    }

    #[test]
    fn another_user_has_no_groups_but_those_that_are_given() {
        for (args, groups) in [
            (&[][..], None),
            (&["--gid=7"], None),
            (&["--uid=7"], Some(&[][..])),
            (&["--uid=7", "--groups="], Some(&[])),
            (&["--uid=7", "--groups=1,2"], Some(&[1, 2])),
            (&["--groups=3"], Some(&[3])),
        ] {
            config(args, |config| {
                assert_eq!(
                    config.identity.groups().map(raw),
                    groups.map(<[u32]>::to_vec),
                    "{args:?}"
                )
            });
        }
    }

    #[test]
    fn a_process_that_is_there_takes_no_command() {
        for (text, expected) in [("7", (7, None)), ("4711:123", (4711, Some(123)))] {
            let option = std::format!("--attach={text}");
            with(&["--run-id=s59m65f", "--worker=3", &option, "--stop=TERM:1"], |parsed| {
                match parsed {
                    Ok(Parsed::Run(config)) => assert_eq!(config.attach, Some(expected)),
                    other => panic!("{other:?}"),
                }
            });
        }
    }

    #[test]
    fn a_warden_takes_no_command() {
        with(
            &["--run-id=s59m65f", "--warden", "--leash=0", "--report=1", "--owner=7:1"],
            |parsed| match parsed {
                Ok(Parsed::Run(config)) => assert!(config.warden && config.owner == Some((7, 1))),
                other => panic!("{other:?}"),
            },
        );
    }

    #[test]
    fn a_channel_is_leash_and_report_and_the_workers_own_are_named() {
        config(&["--channel=3", "--stdin=fd:4", "--stdout=fd:5", "--stderr=fd:6"], |config| {
            assert_eq!((config.leash, config.report, config.channel), (Some(3), Some(3), true));
            assert_eq!(config.descriptors(), [3, 3, 4, 5, 6].map(Some));
            assert_eq!(config.workers_descriptors().collect::<Vec<_>>(), [4, 5, 6]);
        });
        for (args, option) in [
            (["--channel=3", "--leash=0"], "--channel"),
            (["--report=1", "--channel=3"], "--channel"),
            (["--stdin=fd:2", "--worker=1"], "--stdin"),
            (["--stdout=fd:", "--worker=1"], "--stdout"),
            (["--control=x", "--worker=1"], "--control"),
            (["--warden", "--control="], "--control"),
        ] {
            let all = ["--run-id=s59m65f", args[0], args[1], "--", "cat"];
            with(&all, |parsed| match parsed {
                Err(wrong) => assert_eq!(wrong.option, option.as_bytes(), "{args:?}"),
                Ok(_) => panic!("{args:?}"),
            });
        }
    }

    #[test]
    fn a_value_may_hold_any_byte() {
        config(&["--cd=/a=b --c", "--stdout=file:/x=y", "--arg0="], |config| {
            assert_eq!(config.cd, Some(c"/a=b --c"));
            assert_eq!(config.stdout, Stream::File(c"/x=y"));
            assert_eq!(config.arg0, Some(c""));
        });
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (args, option) in [
            (&["--worker=1"][..], "--run-id"),
            (&["--help", "x"], "--help"),
            (&[], "--run-id"),
            (&["--run-id=S59M65F", "--", "x"], "--run-id"),
            (&["--run-id=s59m65f"], "--"),
            (&["--run-id=s59m65f", "--"], "--"),
            (&["--run-id=s59m65f", "--", ""], "COMMAND"),
            (&["--run-id=s59m65f", "x"], "x"),
            (&["--run-id=s59m65f", "--colour=1", "--", "x"], "--colour=1"),
            (&["--run-id=s59m65f", "--worker=0", "--", "x"], "--worker"),
            (&["--run-id=s59m65f", "--worker=1", "--worker=1", "--", "x"], "--worker"),
            (&["--run-id=s59m65f", "--name=", "--", "x"], "--name"),
            (&["--run-id=s59m65f", "--leash=-1", "--", "x"], "--leash"),
            (&["--run-id=s59m65f", "--owner=0:1", "--", "x"], "--owner"),
            (&["--run-id=s59m65f", "--owner=1", "--", "x"], "--owner"),
            (&["--run-id=s59m65f", "--stdin=file:/x", "--", "x"], "--stdin"),
            (&["--run-id=s59m65f", "--stdout=pipe", "--", "x"], "--stdout"),
            (&["--run-id=s59m65f", "--stdout=open", "--", "x"], "--stdout"),
            (&["--run-id=s59m65f", "--stderr=open", "--", "x"], "--stderr"),
            (&["--run-id=s59m65f", "--stdout=stdout", "--", "x"], "--stdout"),
            (&["--run-id=s59m65f", "--stop=", "--", "x"], "--stop"),
            (&["--run-id=s59m65f", "--stop=TERM", "--", "x"], "--stop"),
            (&["--run-id=s59m65f", "--stop=0:1", "--", "x"], "--stop"),
            (&["--run-id=s59m65f", "--stop=TERM:1@all", "--", "x"], "--stop"),
            (&["--run-id=s59m65f", "--stop=CMD:1@leader", "--step=1", "y", "--", "x"], "--stop"),
            (&["--run-id=s59m65f", "--stop=STDIN:1@leader", "--", "x"], "--stop"),
            (&["--run-id=s59m65f", "--stop=STDIN", "--", "x"], "--stop"),
            (&["--run-id=s59m65f", "--attach=7", "--stop=TERM:1,STDIN:1"], "--stop"),
            (&["--run-id=s59m65f", "--stop=CMD:1", "--", "x"], "--step"),
            (&["--run-id=s59m65f", "--step=1", "y", "--", "x"], "--step"),
            (
                &[
                    "--run-id=s59m65f",
                    "--stop=CMD:1",
                    "--step=1",
                    "y",
                    "--step=1",
                    "z",
                    "--",
                    "x",
                ],
                "--step",
            ),
            (&["--run-id=s59m65f", "--stop=CMD:1,CMD:1", "--step=1", "y", "--", "x"], "--step"),
            (&["--run-id=s59m65f", "--stop=CMD:1", "--step=0", "--", "x"], "--step"),
            (&["--run-id=s59m65f", "--stop=CMD:1", "--step=33", "y", "--", "x"], "--step"),
            (&["--run-id=s59m65f", "--stop=CMD:1", "--step=9", "y", "--", "x"], "--step"),
            (&["--run-id=s59m65f", "--stop=CMD:1", "--step=3", "y", "--", "x"], "--"),
            (&["--run-id=s59m65f", "--stop=CMD:1", "--step=1", "y", "z", "--", "x"], "--step"),
            (
                &["--run-id=s59m65f", "--stop=CMD:1", "--step=1", "y", "--linger=1", "--", "x"],
                "--step",
            ),
            (&["--run-id=s59m65f", "--stop=CMD:1", "--step=1", "", "--", "x"], "--step"),
            (&["--run-id=s59m65f", "--step", "y", "--", "x"], "--step"),
            (&["--run-id=s59m65f", "--no-mark=1", "--", "x"], "--no-mark"),
            (&["--run-id=s59m65f", "--cgroup=leash", "--", "x"], "--cgroup"),
            (&["--run-id=s59m65f", "--cgroup=", "--", "x"], "--cgroup"),
            (&["--run-id=s59m65f", "--attach=7", "--cgroup=/sys"], "cgroup"),
            (&["--run-id=s59m65f", "--warden", "--owner=7:1", "--cgroup=/sys"], "cgroup"),
            (&["--run-id=s59m65f", "--linger", "--", "x"], "--linger"),
            (&["--run-id=s59m65f", "--controlling-tty=1", "--", "x"], "--controlling-tty"),
            (
                &["--run-id=s59m65f", "--controlling-tty", "--foreground", "--", "x"],
                "--controlling-tty",
            ),
            (
                &["--run-id=s59m65f", "--controlling-tty", "--stdin=null", "--", "x"],
                "--controlling-tty",
            ),
            (
                &["--run-id=s59m65f", "--stdin=open", "--controlling-tty", "--", "x"],
                "--controlling-tty",
            ),
            (&["--run-id=s59m65f", "--attach=7", "--controlling-tty"], "controlling-tty"),
            (&["--run-id=s59m65f", "--uid=4294967295", "--", "x"], "--uid"),
            (&["--run-id=s59m65f", "--capabilities=cap_kill", "--", "x"], "--capabilities"),
            (&["--run-id=s59m65f", "--umask=9", "--", "x"], "--umask"),
            (&["--run-id=s59m65f", "--no-new-privs=1", "--", "x"], "--no-new-privs"),
            (&["--run-id=s59m65f", "--on-hangup=keep", "--", "x"], "--on-hangup"),
            (&["--run-id=s59m65f", "--attach=0:1"], "--attach"),
            (&["--run-id=s59m65f", "--attach=1"], "--attach"),
            (&["--run-id=s59m65f", "--attach=-7:1"], "--attach"),
            (&["--run-id=s59m65f", "--attach=7:"], "--attach"),
            (&["--run-id=s59m65f", "--attach=7", "--", "x"], "--"),
            (&["--run-id=s59m65f", "--attach=7", "x"], "x"),
            (&["--run-id=s59m65f", "--attach=7", "--no-mark"], "no-mark"),
            (&["--run-id=s59m65f", "--stdin=null", "--attach=7"], "stdin"),
            (&["--run-id=s59m65f", "--attach=7", "--on-hangup=detach"], "on-hangup"),
            (&["--run-id=s59m65f", "--warden"], "owner"),
            (&["--run-id=s59m65f", "--owner=7:1", "--warden"], "--warden"),
            (&["--run-id=s59m65f", "--warden=1", "--owner=7:1"], "--warden"),
            (&["--run-id=s59m65f", "--warden", "--owner=7:1", "--worker=1"], "worker"),
            (&["--run-id=s59m65f", "--warden", "--owner=7:1", "--no-mark"], "no-mark"),
            (&["--run-id=s59m65f", "--warden", "--owner=7:1", "--attach=7"], "attach"),
            (&["--run-id=s59m65f", "--warden", "--owner=7:1", "--", "x"], "--"),
            (&["--run-id=s59m65f", "--warden", "--owner=7:1", "x"], "x"),
        ] {
            with(args, |parsed| {
                let wrong = parsed.expect_err("must be refused");
                assert_eq!(String::from_utf8_lossy(wrong.option), option, "{args:?}");
                assert!(!wrong.expected.is_empty());
            });
        }
    }

    #[test]
    fn the_protocol_and_help_name_every_option() {
        for spec in OPTIONS {
            let option = std::format!("--{}", spec.name);
            assert!(options::HELP.contains(&option), "{option}");
            assert!(include_str!("../../../PROTOCOL.md").contains(&option), "{option}");
        }
    }

    proptest! {
        #[test]
        fn no_command_line_panics(args in proptest::collection::vec("[ -~]{0,24}", 0..8)) {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            with(&args, |_| ());
        }

        #[test]
        fn no_option_value_panics(index in 0..OPTIONS.len(), value in "[ -~]{0,24}") {
            let option = std::format!("--{}={value}", OPTIONS[index].name);
            with(&["--run-id=s59m65f", &option, "--", "x"], |_| ());
        }
    }
}
