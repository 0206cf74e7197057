//! The command line. `help` says what each option does, and a test checks that the two agree.

use core::ffi::CStr;
use leash_tag::{RunId, WorkerNumber};

use crate::blocks::Blocks;
use crate::limits::Limits;
use crate::sys::signal;

/// The most steps of a ladder.
pub const MAX_STEPS: usize = 8;

/// The most supplementary groups.
pub const MAX_GROUPS: usize = 32;

/// The place that one of the worker's standard streams goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream<'a> {
    /// The stream of the shim itself.
    Inherit,
    /// `/dev/null`.
    Null,
    /// A pipe whose other end the shim holds and never writes to (stdin only).
    Open,
    /// The same place as stdout (stderr only).
    Stdout,
    /// A descriptor that was passed to the shim, and that only the worker keeps.
    Descriptor(i32),
    /// Appended to this file.
    File(&'a CStr),
}

/// The processes that get a step's signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// The worker alone.
    Leader,
    /// The worker's process group.
    Group,
    /// Every descendant.
    Tree,
}

/// The action of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "a signal's number, and who gets it")]
pub enum Act {
    /// Sends a signal.
    Signal { number: u8, to: To },
    /// Runs the next command of [`Config::step`].
    Command,
    /// Tells the VM to close the worker's stdin. If the VM is gone, the stdin is closed already.
    CloseStdin,
}

impl Act {
    /// Returns the number that reports use: the signal's number, 0 for a command, 255 for the end
    /// of stdin.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Signal { number, .. } => number,
            Self::Command => 0,
            Self::CloseStdin => 255,
        }
    }
}

/// One step of the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The action.
    pub act: Act,
    /// Milliseconds to wait for the effect, `None` for ever.
    pub wait: Option<u32>,
}

/// The steps of the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps {
    steps: [Step; MAX_STEPS],
    len: usize,
}

impl Steps {
    const DEFAULT: Self = {
        let step =
            Step { act: Act::Signal { number: signal::TERM, to: To::Group }, wait: Some(2_000) };
        Self { steps: [step; MAX_STEPS], len: 1 }
    };

    /// Returns the step at an index.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Step> {
        self.steps.get(..self.len)?.get(index).copied()
    }

    fn count(&self, act: Act) -> usize {
        self.steps.iter().take(self.len).filter(|step| step.act == act).count()
    }

    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let mut steps = Self { len: 0, ..Self::DEFAULT };
        for step in text.split(|&byte| byte == b',') {
            *steps.steps.get_mut(steps.len)? = parse_step(step)?;
            steps.len += 1;
        }
        Some(steps)
    }
}

/// A user to become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// `--uid`.
    pub uid: Option<u32>,
    /// `--gid`.
    pub gid: Option<u32>,
    groups: Option<([u32; MAX_GROUPS], usize)>,
}

impl Ids {
    /// Returns the value of `--groups`. With `--uid` and without `--groups` the result is empty,
    /// since the shim's own groups are not that user's.
    #[must_use]
    pub fn groups(&self) -> Option<&[u32]> {
        match &self.groups {
            Some((groups, len)) => groups.get(..*len),
            None => self.uid.map(|_| &[][..]),
        }
    }
}

/// The starter of the shim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A shell, a unit, a container.
    Hand,
    /// The VM's fork server.
    Port,
    /// The run's warden.
    Warden,
}

/// The settings of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is the option of its name, which help describes")]
pub struct Config<'a> {
    pub run: RunId,
    pub worker: Option<WorkerNumber>,
    /// For a later search by name; nothing here uses it.
    pub name: Option<&'a [u8]>,
    pub leash: Option<i32>,
    pub owner: Option<(i32, u64)>,
    pub report: Option<i32>,
    /// Leash and report are one socket, on which the VM also sends requests.
    pub channel: bool,
    pub stdin: Stream<'a>,
    pub stdout: Stream<'a>,
    pub stderr: Stream<'a>,
    pub stop: Steps,
    pub step: Blocks,
    pub linger: u32,
    pub cd: Option<&'a CStr>,
    pub arg0: Option<&'a CStr>,
    pub ids: Ids,
    pub limits: Limits,
    pub mark: bool,
    pub detach: bool,
    /// The processes that a worker leaves when it exits by itself go on.
    pub keep: bool,
    pub ladder_on_any_term: bool,
    pub foreground: bool,
    /// A process that was not started by this shim, and its start ticks. There is no command
    /// then.
    pub attach: Option<(i32, Option<u64>)>,
    /// No tree of its own: the process starts the run's shims, and ends what they leave.
    pub warden: bool,
    /// The name of the socket on which the VM asks its warden for shims.
    pub control: Option<&'a [u8]>,
    /// The command's index in the argument vector.
    pub command_index: usize,
    /// The command.
    pub command: &'a CStr,
}

impl Config<'_> {
    /// Returns the starter of this shim.
    pub(crate) fn origin(&self) -> Origin {
        match self.leash {
            _ if self.channel => Origin::Warden,
            Some(_) => Origin::Port,
            None => Origin::Hand,
        }
    }

    /// Returns the descriptors beside 0 to 2 that were passed to the shim: leash, report, and the
    /// worker's own.
    pub(crate) fn descriptors(&self) -> [Option<i32>; 5] {
        let of = |stream| match stream {
            Stream::Descriptor(fd) => Some(fd),
            _ => None,
        };
        let all = [self.leash, self.report, of(self.stdin), of(self.stdout), of(self.stderr)];
        all.map(|fd| fd.filter(|&fd| fd > 2))
    }

    /// Returns the descriptors that are the worker's own.
    pub(crate) fn workers_descriptors(&self) -> impl Iterator<Item = i32> + use<> {
        self.descriptors().into_iter().skip(2).flatten()
    }
}

/// A parsed command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "one value, on the stack, once")]
pub enum Parsed<'a> {
    /// A worker to start.
    Run(Config<'a>),
    /// `--help`.
    Help,
    /// `--version`.
    Version,
}

/// The error of a command line: `leash-shim: OPTION: expected EXPECTED, got: VALUE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrong<'a> {
    /// The option, or the text at the place of an option.
    pub option: &'a [u8],
    /// The accepted values.
    pub expected: &'static str,
    /// The given value.
    pub value: &'a [u8],
}

/// All options, with and without values, in the order of PROTOCOL.md.
pub const OPTIONS: [&str; 27] = [
    "run-id",
    "worker",
    "name",
    "channel",
    "leash",
    "owner",
    "report",
    "control",
    "stdin",
    "stdout",
    "stderr",
    "stop",
    "step",
    "linger",
    "cd",
    "arg0",
    "uid",
    "gid",
    "groups",
    "no-mark",
    "on-hangup",
    "on-exit",
    "limits",
    "on-term",
    "foreground",
    "attach",
    "warden",
];

/// The options that are allowed beside `--attach`.
const BESIDE_ATTACH: [&str; 11] = [
    "run-id", "worker", "channel", "leash", "owner", "report", "stop", "step", "linger",
    "on-term", "attach",
];

/// The options that are allowed beside `--warden`.
const BESIDE_WARDEN: [&str; 6] = ["run-id", "warden", "leash", "owner", "report", "control"];

/// Reads an argument vector, program name included.
///
/// # Errors
///
/// [`Wrong`] for the first argument that is wrong.
pub fn parse<'a>(args: impl Iterator<Item = &'a CStr>) -> Result<Parsed<'a>, Wrong<'a>> {
    let mut args = args.enumerate().skip(1).peekable();
    match args.peek().map(|(_, arg)| arg.to_bytes()) {
        Some(option @ (b"--help" | b"--version")) => {
            return match args.nth(1) {
                None if option == b"--help" => Ok(Parsed::Help),
                None => Ok(Parsed::Version),
                Some((_, more)) => Err(Wrong {
                    option,
                    expected: "to be the only argument",
                    value: more.to_bytes(),
                }),
            };
        }
        Some(first) if first.starts_with(b"--run-id=") => {}
        other => {
            let value = other.unwrap_or_default();
            return Err(Wrong {
                option: b"--run-id",
                expected: "--run-id=ID as the first argument",
                value,
            });
        }
    }

    let mut config = Config {
        // The first option is `--run-id`, so this is replaced below.
        run: RunId::from_number(1).ok_or(Wrong { option: b"", expected: "", value: b"" })?,
        worker: None,
        name: None,
        leash: None,
        owner: None,
        report: None,
        channel: false,
        stdin: Stream::Inherit,
        stdout: Stream::Inherit,
        stderr: Stream::Inherit,
        stop: Steps::DEFAULT,
        step: Blocks::default(),
        linger: 200,
        cd: None,
        arg0: None,
        ids: Ids::default(),
        limits: Limits::default(),
        mark: true,
        detach: false,
        keep: false,
        ladder_on_any_term: false,
        foreground: false,
        attach: None,
        warden: false,
        control: None,
        command_index: 0,
        command: c"",
    };
    let mut seen = 0u32;

    let mut ended = false;
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
            return Err(Wrong {
                option: b"--warden",
                expected: "to be the second argument",
                value: b"",
            });
        }
        if config.step.count() > 0 {
            let expected = "another one, or --, after its arguments";
            return Err(Wrong { option: b"--step", expected, value: arg.to_bytes() });
        }
        option(&mut config, &mut seen, arg)?;
    }
    if config.channel && (given(seen, "leash") || given(seen, "report")) {
        return Err(Wrong {
            option: b"--channel",
            expected: "no --leash and no --report beside it",
            value: b"",
        });
    }
    if config.control.is_some() && !config.warden {
        return Err(Wrong {
            option: b"--control",
            expected: "to be given beside --warden",
            value: b"",
        });
    }
    if config.step.count() != config.stop.count(Act::Command) {
        return Err(Wrong {
            option: b"--step",
            expected: "one for each CMD of --stop",
            value: b"",
        });
    }
    if config.warden {
        return warden(config, seen, ended);
    }
    if config.attach.is_some() {
        if config.stop.count(Act::CloseStdin) > 0 {
            let expected = "no STDIN beside --attach, whose stdin is not the VM's";
            return Err(Wrong { option: b"--stop", expected, value: b"" });
        }
        return without_command(config, ended, "no command beside --attach", || {
            first_beside(seen, &BESIDE_ATTACH)
                .map(|name| (name, "not to be given beside --attach"))
        });
    }

    let Some((index, command)) = args.next() else {
        return Err(Wrong { option: b"--", expected: "a command after it", value: b"" });
    };
    if command.is_empty() {
        return Err(Wrong { option: b"COMMAND", expected: "a name or path", value: b"" });
    }
    config.command_index = index;
    config.command = command;
    Ok(Parsed::Run(config))
}

/// Accepts a command line without a command. An attached process already has its streams,
/// directory and ids, and a warden has no worker.
fn without_command<'a>(
    config: Config<'a>,
    has_command: bool,
    expected: &'static str,
    wrong: impl FnOnce() -> Option<(&'static str, &'static str)>,
) -> Result<Parsed<'a>, Wrong<'a>> {
    if has_command {
        return Err(Wrong { option: b"--", expected, value: b"--" });
    }
    match wrong() {
        Some((name, expected)) => Err(Wrong { option: name.as_bytes(), expected, value: b"" }),
        None => Ok(Parsed::Run(config)),
    }
}

fn given(seen: u32, option: &str) -> bool {
    OPTIONS.iter().position(|name| *name == option).is_some_and(|index| seen & (1 << index) != 0)
}

/// Returns the first given option that is not allowed.
fn first_beside(seen: u32, allowed: &[&str]) -> Option<&'static str> {
    let given = OPTIONS.iter().enumerate().filter(|(index, _)| seen & (1 << index) != 0);
    given.map(|(_, name)| *name).find(|name| !allowed.contains(name))
}

fn warden(config: Config<'_>, seen: u32, has_command: bool) -> Result<Parsed<'_>, Wrong<'_>> {
    let ownerless = config.owner.is_none() && config.control.is_none();
    without_command(config, has_command, "no command beside --warden", || {
        let other = first_beside(seen, &BESIDE_WARDEN)
            .map(|name| (name, "not to be given beside --warden"));
        other.or_else(|| {
            ownerless.then_some(("owner", "PID:TICKS beside --warden, unless --control is given"))
        })
    })
}

fn option<'a>(config: &mut Config<'a>, seen: &mut u32, arg: &'a CStr) -> Result<(), Wrong<'a>> {
    let bytes = arg.to_bytes();
    let unknown =
        Wrong { option: bytes, expected: "a known option, or -- and a command", value: bytes };
    let body = bytes.strip_prefix(b"--").ok_or(unknown)?;
    let name = body.split(|&byte| byte == b'=').next().unwrap_or_default();
    let index = OPTIONS.iter().position(|option| option.as_bytes() == name).ok_or(unknown)?;
    let option = bytes.get(..name.len() + 2).unwrap_or_default();

    if *seen & (1 << index) != 0 {
        return Err(Wrong { option, expected: "to be given once", value: bytes });
    }
    *seen |= 1 << index;

    let value = arg
        .to_bytes_with_nul()
        .get(name.len() + 3..)
        .and_then(|value| CStr::from_bytes_with_nul(value).ok());
    let text = value.map(CStr::to_bytes).unwrap_or_default();
    let wrong = |expected| Wrong { option, expected, value: text };

    if value.is_some() == matches!(name, b"no-mark" | b"foreground" | b"warden") {
        return Err(wrong(if value.is_some() { "no value" } else { "a value: --name=value" }));
    }

    match name {
        b"run-id" => {
            config.run = RunId::parse(text).ok_or(wrong("7 characters of 0-9 and a-z"))?
        }
        b"worker" => {
            config.worker =
                Some(WorkerNumber::parse(text).ok_or(wrong("a number from 1 to 32766"))?);
        }
        b"name" => {
            let fits = !text.is_empty() && text.len() <= 200;
            config.name = Some(fits.then_some(text).ok_or(wrong("1 to 200 bytes"))?);
        }
        b"channel" => {
            let fd = descriptor(text).ok_or(wrong("a descriptor"))?;
            (config.leash, config.report, config.channel) = (Some(fd), Some(fd), true);
        }
        b"control" => {
            let fits = !text.is_empty() && text.len() <= 100;
            config.control = Some(fits.then_some(text).ok_or(wrong("1 to 100 characters"))?);
        }
        b"leash" => config.leash = Some(descriptor(text).ok_or(wrong("a descriptor"))?),
        b"report" => config.report = Some(descriptor(text).ok_or(wrong("a descriptor"))?),
        b"owner" => config.owner = Some(owner(text).ok_or(wrong("PID:TICKS"))?),
        b"attach" => {
            config.attach = Some(target(text).ok_or(wrong("PID or PID:TICKS, from 2 up"))?)
        }
        b"stdin" => {
            config.stdin = stream(value, false)
                .filter(|stream| !matches!(stream, Stream::File(_)))
                .or((text == b"open").then_some(Stream::Open))
                .ok_or(wrong("null, open, inherit or fd:N from 3 up"))?;
        }
        b"stdout" => {
            config.stdout = stream(value, false)
                .ok_or(wrong("null, inherit, fd:N from 3 up or file:PATH"))?;
        }
        b"stderr" => {
            config.stderr = stream(value, true)
                .ok_or(wrong("null, inherit, stdout, fd:N from 3 up or file:PATH"))?;
        }
        b"stop" => {
            config.stop = Steps::parse(text).ok_or(wrong(
                "SIGNAL:MS[@leader|group|tree], CMD:MS or STDIN:MS, at most 8 of them, separated by commas",
            ))?;
        }
        b"linger" => config.linger = milliseconds(text).ok_or(wrong("milliseconds"))?,
        b"cd" => config.cd = value.filter(|dir| !dir.is_empty()),
        b"arg0" => config.arg0 = value,
        b"uid" => config.ids.uid = Some(number(text).ok_or(wrong("a user id"))?),
        b"gid" => config.ids.gid = Some(number(text).ok_or(wrong("a group id"))?),
        b"groups" => {
            config.ids.groups =
                Some(groups(text).ok_or(wrong("at most 32 group ids, separated by commas"))?);
        }
        b"limits" => {
            config.limits =
                Limits::parse(text).ok_or(wrong("NAME:VALUE, separated by commas"))?;
        }
        b"no-mark" => config.mark = false,
        b"foreground" => config.foreground = true,
        b"warden" => config.warden = true,
        b"on-hangup" => {
            config.detach = match text {
                b"stop" => false,
                b"detach" => true,
                _ => return Err(wrong("stop or detach")),
            }
        }
        b"on-exit" => {
            config.keep = match text {
                b"stop" => false,
                b"keep" => true,
                _ => return Err(wrong("stop or keep")),
            }
        }
        b"on-term" => {
            config.ladder_on_any_term = match text {
                b"auto" => false,
                b"ladder" => true,
                _ => return Err(wrong("auto or ladder")),
            }
        }
        _ => return Err(unknown),
    }
    Ok(())
}

fn stream(value: Option<&CStr>, is_stderr: bool) -> Option<Stream<'_>> {
    let value = value?;
    match value.to_bytes() {
        b"null" => Some(Stream::Null),
        b"inherit" => Some(Stream::Inherit),
        text if text.starts_with(b"fd:") => {
            descriptor(text.get(3..)?).filter(|&fd| fd > 2).map(Stream::Descriptor)
        }
        b"stdout" if is_stderr => Some(Stream::Stdout),
        text => {
            text.strip_prefix(b"file:").filter(|path| !path.is_empty())?;
            let path = value.to_bytes_with_nul().get(b"file:".len()..)?;
            CStr::from_bytes_with_nul(path).ok().map(Stream::File)
        }
    }
}

fn parse_step(text: &[u8]) -> Option<Step> {
    let mut fields = text.splitn(2, |&byte| byte == b':');
    let name = fields.next()?;
    let mut rest = fields.next()?.splitn(2, |&byte| byte == b'@');
    let wait = match rest.next()? {
        b"inf" => None,
        ms => Some(milliseconds(ms)?),
    };
    let to = rest.next();
    let other = match name {
        b"CMD" => Some(Act::Command),
        b"STDIN" => Some(Act::CloseStdin),
        _ => None,
    };
    if let Some(act) = other {
        return to.is_none().then_some(Step { act, wait });
    }
    let to = match to {
        None | Some(b"group") => To::Group,
        Some(b"leader") => To::Leader,
        Some(b"tree") => To::Tree,
        Some(_) => return None,
    };
    Some(Step { act: Act::Signal { number: signal_number(name)?, to }, wait })
}

const SIGNALS: [(&[u8], u8); 16] = [
    (b"HUP", 1),
    (b"INT", 2),
    (b"QUIT", 3),
    (b"ABRT", 6),
    (b"KILL", 9),
    (b"USR1", 10),
    (b"SEGV", 11),
    (b"USR2", 12),
    (b"PIPE", 13),
    (b"ALRM", 14),
    (b"TERM", 15),
    (b"CONT", 18),
    (b"STOP", 19),
    (b"TSTP", 20),
    (b"WINCH", 28),
    (b"PWR", 30),
];

fn signal_number(text: &[u8]) -> Option<u8> {
    let name = text.strip_prefix(b"SIG").unwrap_or(text);
    if let Some((_, number)) = SIGNALS.iter().find(|(known, _)| *known == name) {
        return Some(*number);
    }
    u8::try_from(number(text)?).ok().filter(|number| (1..=signal::MAX).contains(number))
}

fn number(text: &[u8]) -> Option<u32> {
    core::str::from_utf8(text).ok().filter(|text| !text.starts_with('+'))?.parse().ok()
}

fn milliseconds(text: &[u8]) -> Option<u32> {
    number(text).filter(|&ms| ms <= i32::MAX as u32)
}

fn descriptor(text: &[u8]) -> Option<i32> {
    number(text).and_then(|fd| i32::try_from(fd).ok()).filter(|&fd| fd < 1_000_000)
}

fn owner(text: &[u8]) -> Option<(i32, u64)> {
    let mut fields = text.splitn(2, |&byte| byte == b':');
    let pid = i32::try_from(number(fields.next()?)?).ok().filter(|&pid| pid > 0)?;
    let ticks =
        core::str::from_utf8(fields.next()?).ok().filter(|text| !text.starts_with('+'))?;
    Some((pid, ticks.parse().ok()?))
}

/// Parses `PID` or `PID:TICKS`.
fn target(text: &[u8]) -> Option<(i32, Option<u64>)> {
    let (pid, ticks) = if text.contains(&b':') {
        owner(text).map(|(pid, ticks)| (pid, Some(ticks)))?
    } else {
        (i32::try_from(number(text)?).ok()?, None)
    };
    (pid > 1).then_some((pid, ticks))
}

fn groups(text: &[u8]) -> Option<([u32; MAX_GROUPS], usize)> {
    let mut groups = [0; MAX_GROUPS];
    let mut len = 0;
    if text.is_empty() {
        return Some((groups, 0));
    }
    for group in text.split(|&byte| byte == b',') {
        *groups.get_mut(len)? = number(group)?;
        len += 1;
    }
    Some((groups, len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::ffi::CString;
    use std::string::String;
    use std::vec::Vec;

    fn with<T>(args: &[&str], check: impl FnOnce(Result<Parsed<'_>, Wrong<'_>>) -> T) -> T {
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

    fn step(number: u8, wait: Option<u32>, to: To) -> Step {
        Step { act: Act::Signal { number, to }, wait }
    }

    #[test]
    fn the_shortest_command_line_has_the_documented_defaults() {
        config(&[], |config| {
            assert_eq!(config.stop.get(0), Some(step(15, Some(2000), To::Group)));
            assert_eq!(config.stop.get(1), None);
            assert_eq!((config.linger, config.command_index), (200, 3));
            assert!(config.mark && !config.detach && !config.foreground);
        });
    }

    #[test]
    fn the_ladder_is_read_step_by_step() {
        config(&["--stop=INT:500@leader,15:1500,KILL:0@tree,34:inf"], |config| {
            let steps: Vec<_> = (0..5).map_while(|index| config.stop.get(index)).collect();
            assert_eq!(
                steps,
                [
                    step(2, Some(500), To::Leader),
                    step(15, Some(1500), To::Group),
                    step(9, Some(0), To::Tree),
                    step(34, None, To::Group),
                ]
            );
        });
    }

    #[test]
    fn a_step_may_be_a_command() {
        let args =
            ["--stop=CMD:5000,TERM:2000,CMD:inf", "--step=2", "rm", "--", "--step=1", "sync"];
        config(&args, |config| {
            assert_eq!(config.stop.get(0), Some(Step { act: Act::Command, wait: Some(5000) }));
            assert_eq!(config.stop.get(1), Some(step(15, Some(2000), To::Group)));
            assert_eq!(config.stop.get(2), Some(Step { act: Act::Command, wait: None }));
            assert_eq!((config.step.count(), config.command), (2, c"cat"));
        });
    }

    #[test]
    fn a_step_may_be_the_end_of_stdin() {
        config(&["--stop=STDIN:500,TERM:2000,STDIN:inf"], |config| {
            assert_eq!(config.stop.get(0), Some(Step { act: Act::CloseStdin, wait: Some(500) }));
            assert_eq!(config.stop.get(2), Some(Step { act: Act::CloseStdin, wait: None }));
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
            config(args, |config| assert_eq!(config.ids.groups(), groups, "{args:?}"));
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
            (&["--run-id=s59m65f", "--linger", "--", "x"], "--linger"),
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
    fn help_names_every_option() {
        for option in OPTIONS {
            assert!(crate::help::TEXT.contains(&std::format!("--{option}")), "{option}");
            assert!(
                include_str!("../../PROTOCOL.md").contains(&std::format!("--{option}")),
                "{option}"
            );
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
            let option = std::format!("--{}={value}", OPTIONS[index]);
            with(&["--run-id=s59m65f", &option, "--", "x"], |_| ());
        }
    }
}
