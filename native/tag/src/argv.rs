//! The argv carrier: exact arguments at exact positions.
//!
//! A command line is read as the list of arguments that the kernel keeps, never as text or as a
//! joined string. `grep -- --run-id=s59m65f` is an operator's grep.

use crate::{RunId, WorkerNumber};

/// The shim's file name, the last path component of its `argv[0]`.
pub const SHIM_NAME: &[u8] = b"leash-shim";

/// The arguments that identify a shim. Their writer always puts these two arguments first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ShimArgs {
    /// The run from `--run-id=ID`, the first argument.
    pub run: RunId,
    /// The worker from `--worker=N`, the second argument. `None` for a warden, and for a shim
    /// started by hand.
    pub worker: Option<WorkerNumber>,
    /// Whether the second argument is `--warden`. A warden is the whole run's, and not one
    /// worker's.
    pub warden: bool,
}

impl ShimArgs {
    /// Parses a command line as `/proc/<pid>/cmdline` gives it: arguments that each end in NUL.
    ///
    /// Returns `None` for any program but `leash-shim`, and if the first argument is not
    /// `--run-id=ID`.
    #[must_use]
    pub fn parse(cmdline: &[u8]) -> Option<Self> {
        let mut args = args(cmdline);
        let program = args.next()?;
        if program.rsplit(|&byte| byte == b'/').next()? != SHIM_NAME {
            return None;
        }
        let run = RunId::parse(args.next()?.strip_prefix(b"--run-id=")?)?;
        let second = args.next().unwrap_or_default();
        let worker = second.strip_prefix(b"--worker=").and_then(WorkerNumber::parse);
        Some(Self { run, worker, warden: second == b"--warden" })
    }
}

/// Returns the name of `--name=TEXT`. It counts only as the third argument, behind run and
/// worker.
#[must_use]
pub fn shim_name(cmdline: &[u8]) -> Option<&[u8]> {
    ShimArgs::parse(cmdline)?.worker?;
    args(cmdline).nth(3)?.strip_prefix(b"--name=").filter(|name| !name.is_empty())
}

/// Returns the arguments of a NUL-separated command line. Accepts a missing last NUL, because a
/// process may overwrite its own.
pub fn args(cmdline: &[u8]) -> impl Iterator<Item = &[u8]> {
    let body = cmdline.strip_suffix(b"\0").unwrap_or(cmdline);
    let empty = cmdline.is_empty();
    body.split(|&byte| byte == 0).filter(move |_| !empty)
}

/// Returns the value of `--name=VALUE` among a shim's own options.
///
/// These are the options before `--` and before the commands of its ladder (`--step=COUNT`). The
/// arguments of those commands may look like anything.
#[must_use]
pub fn shim_option<'a>(cmdline: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    args(cmdline)
        .skip(1)
        .take_while(|&arg| arg != b"--" && !arg.starts_with(b"--step="))
        .find_map(|arg| arg.strip_prefix(b"--")?.strip_prefix(name)?.strip_prefix(b"="))
}

/// Returns the run id that a flag gives, as `FLAG ID` or `FLAG=ID`, in arguments that follow the
/// program.
///
/// `flag` is compared whole. The first well-formed occurrence counts.
#[must_use]
pub fn flag_value<'a>(args: impl Iterator<Item = &'a [u8]>, flag: &[u8]) -> Option<RunId> {
    if flag.is_empty() {
        return None;
    }
    let mut previous_is_flag = false;
    for arg in args {
        let found = if previous_is_flag {
            RunId::parse(arg)
        } else {
            arg.strip_prefix(flag).and_then(|rest| rest.strip_prefix(b"=")).and_then(RunId::parse)
        };
        if found.is_some() {
            return found;
        }
        previous_is_flag = arg == flag;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn id(text: &str) -> RunId {
        text.parse().unwrap()
    }

    fn line(args: &[&str]) -> Vec<u8> {
        args.iter().flat_map(|arg| arg.bytes().chain([0])).collect()
    }

    #[test]
    fn reads_a_shim_by_exact_positions() {
        let ours = ShimArgs { run: id("s59m65f"), worker: WorkerNumber::new(3), warden: false };
        let shim = |args: &[&str]| ShimArgs::parse(&line(args));
        assert_eq!(
            shim(&["/x/leash-shim", "--run-id=s59m65f", "--worker=3", "--", "cat"]),
            Some(ours)
        );
        assert_eq!(
            shim(&["leash-shim", "--run-id=s59m65f", "--", "--worker=3"]),
            Some(ShimArgs { worker: None, ..ours })
        );
        assert_eq!(
            shim(&["leash-shim", "--run-id=s59m65f", "--warden", "--leash=0"]),
            Some(ShimArgs { worker: None, warden: true, ..ours })
        );
        for other in [
            &["grep", "--run-id=s59m65f"][..],
            &["leash-shim", "--", "--run-id=s59m65f"],
            &["leash-shim", "x", "--run-id=s59m65f"],
            &["leash-shim", "--run-id=s59m65f,"],
            &["leash-shim --run-id=s59m65f"],
            &["not-leash-shim", "--run-id=s59m65f"],
            &["/leash-shim/x", "--run-id=s59m65f"],
            &["leash-shim"],
        ] {
            assert_eq!(shim(other), None, "{other:?}");
        }
        assert_eq!(ShimArgs::parse(b""), None);
    }

    #[test]
    fn options_end_at_the_double_dash() {
        let cmdline = line(&[
            "leash-shim",
            "--run-id=s59m65f",
            "--stop=TERM:2000",
            "--",
            "x",
            "--owner=1:2",
        ]);
        assert_eq!(shim_option(&cmdline, b"stop"), Some(&b"TERM:2000"[..]));
        assert_eq!(shim_option(&cmdline, b"owner"), None);
        assert_eq!(shim_option(&cmdline, b"sto"), None);
    }

    #[test]
    fn a_name_is_the_third_argument_or_none() {
        let name = |args: &[&str]| shim_name(&line(args)).map(<[u8]>::to_vec);
        assert_eq!(
            name(&["leash-shim", "--run-id=s59m65f", "--worker=3", "--name=A b", "--", "x"]),
            Some(b"A b".to_vec())
        );
        for other in [
            &["leash-shim", "--run-id=s59m65f", "--worker=3", "--leash=0", "--name=A", "--", "x"]
                [..],
            &["leash-shim", "--run-id=s59m65f", "--worker=3", "--name=", "--", "x"],
            &["leash-shim", "--run-id=s59m65f", "--name=A", "--worker=3", "--", "x"],
            &["leash-shim", "--run-id=s59m65f", "--worker=3", "--", "--name=A"],
            &["grep", "--run-id=s59m65f", "--worker=3", "--name=A"],
        ] {
            assert_eq!(name(other), None, "{other:?}");
        }
    }

    #[test]
    fn options_end_at_a_command_of_the_ladder() {
        let step = [
            "leash-shim",
            "--run-id=s59m65f",
            "--stop=CMD:1",
            "--step=2",
            "x",
            "--owner=1:2",
            "--",
            "y",
        ];
        let cmdline = line(&step);
        assert_eq!(shim_option(&cmdline, b"stop"), Some(&b"CMD:1"[..]));
        assert_eq!(shim_option(&cmdline, b"owner"), None);
    }

    #[test]
    fn a_flag_is_compared_whole_and_its_id_too() {
        let value =
            |args: &[&str]| flag_value(args.iter().map(|arg| arg.as_bytes()), b"--run-id");
        assert_eq!(value(&["--run-id", "s59m65f"]), Some(id("s59m65f")));
        assert_eq!(value(&["-x", "--run-id=s59m65f"]), Some(id("s59m65f")));
        assert_eq!(value(&["--run-id"]), None);
        assert_eq!(value(&["--run-id="]), None);
        assert_eq!(
            value(&["--run-id", "--run-id=s59m65f"]),
            None,
            "the flag's value is taken, not searched"
        );
        assert_eq!(value(&["--run-ids=s59m65f"]), None);
        assert_eq!(value(&["x--run-id=s59m65f"]), None);
        assert_eq!(value(&["--run-id=s59m65ff"]), None);
        assert_eq!(value(&["--run-id s59m65f"]), None);
        assert_eq!(flag_value([&b"=s59m65f"[..]].into_iter(), b""), None);
    }

    #[test]
    fn an_empty_command_line_has_no_arguments() {
        assert_eq!(args(b"").count(), 0);
        assert_eq!(args(b"\0").count(), 1);
        assert_eq!(args(b"a\0\0b\0").count(), 3);
        assert_eq!(args(b"a\0b").count(), 2);
    }

    proptest! {
        #[test]
        fn no_command_line_panics(cmdline in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = ShimArgs::parse(&cmdline);
            let _ = shim_option(&cmdline, b"stop");
            let _ = flag_value(args(&cmdline), b"--run-id");
        }
    }
}
