//! The table of options, from which the parser, its errors and `--help` are made.

use core::ffi::CStr;
use leash_tag::stop_steps::{Steps, milliseconds};
use leash_tag::{RunId, WorkerNumber, parse_number};

use super::arg_error::ArgError;
use super::config::{Config, Stream};
use super::worker_limits::WorkerLimits;

/// Options of a shim with a worker.
pub(crate) const WORKER: u8 = 1;
/// Options that are allowed beside `--attach`. Such a process already has its streams, directory
/// and ids.
pub(crate) const ATTACH: u8 = 2;
/// Options that are allowed beside `--warden`.
pub(crate) const WARDEN: u8 = 4;
/// Options of every command line.
const ALL: u8 = WORKER | ATTACH | WARDEN;

/// One option.
#[derive(Debug)]
pub(crate) struct OptionSpec {
    /// The name, without dashes.
    pub(crate) name: &'static str,
    /// The kinds of command line that it belongs to.
    pub(crate) modes: u8,
    /// The accepted values. Empty for an option without a value.
    expected: &'static str,
}

macro_rules! options {
    (
        head $head:literal
        $(option $name:literal, $modes:expr, $expected:literal $(, $help:literal)?;)*
        foot $foot:literal
    ) => {
        /// All options, in the order of `--help`.
        pub(crate) const OPTIONS: &[OptionSpec] =
            &[$(OptionSpec { name: $name, modes: $modes, expected: $expected }),*];

        /// The output of `--help`.
        pub const HELP: &str = concat!($head, $($("\n", $help,)?)* "\n", $foot);
    };
}

options! {
head "usage: leash-shim --run-id=ID [OPTIONS] -- COMMAND [ARGS...]
       leash-shim --run-id=ID --attach=PID[:TICKS] [OPTIONS]
       leash-shim --run-id=ID --warden [--control=NAME] [--owner=PID:TICKS]

Starts COMMAND and ends when nothing of its process tree is left: children,
daemons, sessions of their own. The holder of the leash ends the tree by
letting go.

  leash-shim --run-id=s59m65f -- sleep 100

Every option is one argument. The first is always --run-id.
"
option "run-id", ALL, "7 characters of 0-9 and a-z",
"  --run-id=ID         the run: 7 characters of 0-9 and a-z";
option "worker", WORKER | ATTACH, "a number from 1 to 32766",
"  --worker=N          the worker's number within the run, 1 to 32766";
option "name", WORKER, "1 to 200 bytes",
"  --name=TEXT         1 to 200 bytes by which a detached tree is found again;
                      the third argument, where it is given";
option "channel", WORKER | ATTACH, "a descriptor",
"  --channel=FD        a socket that is leash and report at once, and on which
                      its other end may ask for the ladder or for SIGKILL";
option "leash", ALL, "a descriptor",
"  --leash=FD          end the tree when FD hangs up; it is never read";
option "owner", ALL, "PID:TICKS",
"  --owner=PID:TICKS   end the tree when that process ends; TICKS is field 22
                      of /proc/PID/stat";
option "report", ALL, "a descriptor",
"  --report=FD         write report frames to FD";
option "stdin", WORKER, "null, open, inherit or fd:N from 3 up",
"  --stdin=WHERE       null, inherit (default), fd:N from 3 up, or open: a
                      pipe that ends with the leash, or with us, and brings
                      nothing";
option "stdout", WORKER, "null, inherit, fd:N from 3 up or file:PATH",
"  --stdout=WHERE      null, inherit (default), fd:N from 3 up or file:PATH,
                      appended to";
option "stderr", WORKER, "null, inherit, stdout, fd:N from 3 up or file:PATH",
"  --stderr=WHERE      as --stdout, or stdout: the same place as stdout";
option "stop", WORKER | ATTACH, "SIGNAL:MS[@leader|group|tree], CMD:MS or STDIN:MS, at most 8 of them, separated by commas",
"  --stop=STEPS        the ladder: SIGNAL:MS[@TO], CMD:MS or STDIN:MS,
                      separated by commas, at most 8; MS may be inf; TO is
                      leader, group (default) or tree. Default
                      TERM:2000@group. SIGKILL always comes last. STDIN has
                      the VM close the command's stdin, and waits; by hand it
                      closes nothing";
option "step", WORKER | ATTACH, "a number of arguments, 1 to 32",
"  --step=COUNT ...    the next COUNT arguments (at most 32) are the command
                      of a CMD step; one --step for each, in order, behind
                      all other options";
option "linger", WORKER | ATTACH, "milliseconds",
"  --linger=MS         how long the children of a command that exited by itself
                      get before the ladder; default 200";
option "cd", WORKER, "a directory",
"  --cd=DIR            the command's working directory";
option "arg0", WORKER, "a name",
"  --arg0=NAME         the command's argv[0]";
option "uid", WORKER, "a user id",
"  --uid=N --gid=N --groups=N,N...
                      the command's ids; --uid without --groups: no
                      supplementary groups";
option "gid", WORKER, "a group id";
option "groups", WORKER, "at most 32 group ids, separated by commas";
option "capabilities", WORKER, "names of capabilities without cap_, separated by commas",
"  --capabilities=NAMES
                      capabilities(7) that the command keeps, without cap_,
                      separated by commas: its permitted, effective,
                      inheritable and ambient sets. Not for root, and the
                      bounding set stays. Without it, a change of ids leaves
                      the ambient set empty";
option "no-new-privs", WORKER, "",
"  --no-new-privs      no exec gives the command more rights, not even one of
                      a set-user-ID program";
option "umask", WORKER, "an octal number up to 777",
"  --umask=OCTAL       the command's umask, as umask(1p) takes it";
option "limits", WORKER, "NAME:VALUE, separated by commas",
"  --limits=LIMITS     NAME:VALUE, separated by commas: NOFILE, NPROC, CORE,
                      FSIZE, CPU, AS (setrlimit(2), soft and hard), NICE";
option "cgroup", WORKER, "the absolute path of a control group",
"  --cgroup=DIR        a control group (version 2), in which the command starts
                      and its tree stays; we stay outside. SIGKILL for the
                      tree is one for the group. If leash or owner ends
                      before the tree, we remove DIR when the tree is gone";
option "no-mark", WORKER, "",
"  --no-mark           leave RLIMIT_LOCKS alone";
option "on-hangup", WORKER, "stop or detach",
"  --on-hangup=WHAT    stop (default) or detach: the tree outlives leash and
                      owner";
option "on-exit", WORKER, "stop or keep",
"  --on-exit=WHAT      stop (default) or keep: what a command that exited by
                      itself leaves goes on, and no sweep ends it";
option "on-term", WORKER | ATTACH, "auto or ladder",
"  --on-term=WHAT      auto (default): while the leash holds, TERM from pid 0
                      or 1 is not for us; ladder: it is";
option "foreground", WORKER, "",
"  --foreground        stay in the terminal's session, with the command in our
                      process group: it reads the terminal, the keyboard's
                      signals are its own, and when it stops so do we";
option "controlling-tty", WORKER, "",
"  --controlling-tty   make the command's stdin, a terminal without a session,
                      the controlling terminal of the command's session, with
                      the command in its foreground; not beside --foreground";
option "attach", ATTACH, "PID or PID:TICKS, from 2 up",
"  --attach=PID[:TICKS]
                      instead of COMMAND, a process that is there already:
                      it and what it starts end as a command's tree does.
                      Beside it only run-id, worker, channel, leash, owner,
                      report, stop, step, linger and on-term";
option "warden", WARDEN, "",
"  --warden            no command: starts the shims that are asked for on
                      --control, and ends what is below one that was killed.
                      Once the owner has ended, SIGKILL to what has the run's
                      mark and no leash-shim, until nothing is left. Needs
                      --control or --owner; heeds no signal";
option "control", WARDEN, "1 to 100 characters",
"  --control=NAME      beside --warden: the abstract Unix socket on which the
                      owner listens, and asks for the shims of its run";
foot "  --help, --version   print this, or the version; as the only argument

Once COMMAND runs, its ARGS are wiped from our own command line, except with
--on-hangup=detach or --name.

signals to leash-shim:
  TERM, HUP, INT      begin the ladder; a second of them kills at once
  QUIT                kills at once, whatever was going on
  USR1, USR2, WINCH, CONT and all others
                      are passed on to the command, without --leash and
                      --channel only
  HUP, INT, QUIT that are ignored at the start (nohup, &) stay ignored, for us
  and for the command, without --leash and --channel only

exit status:
  0 to 255            the command's own; 0 of a process that was attached
  128+N               signal N ended the command
  127                 the command was not found
  126                 the command could not be executed
  125                 leash-shim itself failed; nothing was started
"
}

/// The output of `--version`.
pub(crate) const VERSION: &str = concat!(leash_tag::build_mark!("leash-shim"), "\n");

/// The options that were given.
#[derive(Clone, Copy, Default)]
pub(crate) struct Given(u64);

impl Given {
    /// Notes an option. Returns `false` if it was given before.
    fn note(&mut self, index: usize) -> bool {
        let before = self.0;
        self.0 |= 1 << index;
        before != self.0
    }

    /// Returns the options that were given.
    fn all(self) -> impl Iterator<Item = &'static OptionSpec> {
        (0..).zip(OPTIONS).filter(move |(bit, _)| self.0 & 1 << bit != 0).map(|(_, spec)| spec)
    }

    /// Returns whether an option was given.
    pub(crate) fn has(self, name: &str) -> bool {
        self.all().any(|spec| spec.name == name)
    }

    /// Returns the first given option that does not belong to this kind of command line.
    pub(crate) fn first_outside(self, mode: u8) -> Option<&'static str> {
        self.all().find(|spec| spec.modes & mode == 0).map(|spec| spec.name)
    }
}

/// Reads one option, `--NAME` or `--NAME=VALUE`, into the settings.
pub(crate) fn read<'a>(
    config: &mut Config<'a>,
    given: &mut Given,
    arg: &'a CStr,
) -> Result<(), ArgError<'a>> {
    let bytes = arg.to_bytes();
    let unknown =
        ArgError { option: bytes, expected: "a known option, or -- and a command", value: bytes };
    let body = bytes.strip_prefix(b"--").ok_or(unknown)?;
    let name = body.split(|&byte| byte == b'=').next().unwrap_or_default();
    let index = OPTIONS.iter().position(|spec| spec.name.as_bytes() == name).ok_or(unknown)?;
    let spec = OPTIONS.get(index).ok_or(unknown)?;
    let option = bytes.get(..name.len() + 2).unwrap_or_default();
    if !given.note(index) {
        return Err(ArgError { option, expected: "to be given once", value: bytes });
    }
    let value = tail(arg, name.len() + 3);
    let expected = match (value, spec.expected) {
        (Some(_), "") => "no value",
        (None, "") => "",
        (None, _) => "a value: --name=value",
        (Some(_), expected) => expected,
    };
    let is_flag_right = value.is_some() != spec.expected.is_empty();
    let value = value.unwrap_or_default();
    is_flag_right.then(|| set(config, spec.name, value)).flatten().ok_or(ArgError {
        option,
        expected,
        value: value.to_bytes(),
    })
}

/// Sets what one option says. Returns `None` for a value of another form.
fn set<'a>(config: &mut Config<'a>, name: &str, value: &'a CStr) -> Option<()> {
    let text = value.to_bytes();
    match name {
        "run-id" => config.run = RunId::parse(text)?,
        "worker" => config.worker = Some(WorkerNumber::parse(text)?),
        "name" => config.name = Some(of_length(text, 200)?),
        "channel" => {
            config.leash = Some(descriptor(text)?);
            (config.report, config.channel) = (config.leash, true);
        }
        "control" => config.control = Some(of_length(text, 100)?),
        "leash" => config.leash = Some(descriptor(text)?),
        "report" => config.report = Some(descriptor(text)?),
        "owner" => config.owner = Some(owner(text)?),
        "attach" => config.attach = Some(target(text)?),
        "stdin" if text == b"open" => config.stdin = Stream::Open,
        "stdin" => {
            let stream = stream(value)?;
            config.stdin = (!matches!(stream, Stream::File(_))).then_some(stream)?;
        }
        "stdout" => config.stdout = stream(value)?,
        "stderr" if text == b"stdout" => config.stderr = Stream::Stdout,
        "stderr" => config.stderr = stream(value)?,
        "stop" => config.stop = Steps::parse(text)?,
        "linger" => config.linger = milliseconds(text)?,
        "cd" => config.cd = Some(value).filter(|dir| !dir.is_empty()),
        "arg0" => config.arg0 = Some(value),
        "uid" | "gid" | "groups" | "capabilities" | "umask" | "no-new-privs" => {
            config.identity.read(name, text)?;
        }
        "limits" => config.limits = WorkerLimits::parse(text)?,
        "cgroup" => {
            config.cgroup = Some(text.starts_with(b"/").then_some(value)?);
        }
        "no-mark" => config.mark = false,
        "foreground" => config.foreground = true,
        "controlling-tty" => config.controlling_tty = true,
        "warden" => config.warden = true,
        "on-hangup" => config.detach = is_second(text, b"stop", b"detach")?,
        "on-exit" => config.keep = is_second(text, b"stop", b"keep")?,
        "on-term" => config.ladder_on_any_term = is_second(text, b"auto", b"ladder")?,
        _ => return None,
    }
    Some(())
}

/// Returns the part of an argument from an index on.
fn tail(arg: &CStr, from: usize) -> Option<&CStr> {
    CStr::from_bytes_with_nul(arg.to_bytes_with_nul().get(from..)?).ok()
}

/// Returns a text of at least one byte and at most that many.
fn of_length(text: &[u8], most: usize) -> Option<&[u8]> {
    (1..=most).contains(&text.len()).then_some(text)
}

/// Returns which of two words a text is.
fn is_second(text: &[u8], first: &[u8], second: &[u8]) -> Option<bool> {
    (text == first || text == second).then_some(text == second)
}

/// Parses the number of a descriptor. No process has that many.
fn descriptor(text: &[u8]) -> Option<i32> {
    parse_number(text).filter(|fd| (0..1_000_000).contains(fd))
}

/// Parses `PID:TICKS`.
fn owner(text: &[u8]) -> Option<(i32, u64)> {
    let colon = text.iter().position(|&byte| byte == b':')?;
    let pid = parse_number(text.get(..colon)?).filter(|&pid| pid > 0)?;
    Some((pid, parse_number(text.get(colon + 1..)?)?))
}

/// Parses `PID` or `PID:TICKS`.
fn target(text: &[u8]) -> Option<(i32, Option<u64>)> {
    let (pid, ticks) = match parse_number(text) {
        Some(pid) => (pid, None),
        None => owner(text).map(|(pid, ticks)| (pid, Some(ticks)))?,
    };
    (pid > 1).then_some((pid, ticks))
}

/// Parses what all three standard streams have in common.
fn stream(value: &CStr) -> Option<Stream<'_>> {
    let text = value.to_bytes();
    match text {
        b"null" => return Some(Stream::Null),
        b"inherit" => return Some(Stream::Inherit),
        _ => {}
    }
    if let Some(fd) = text.strip_prefix(b"fd:") {
        return descriptor(fd).filter(|&fd| fd > 2).map(Stream::Descriptor);
    }
    let path = tail(value, text.strip_prefix(b"file:").map(|_| 5)?)?;
    (!path.is_empty()).then_some(Stream::File(path))
}
