//! From the command line to the exit status: the order of work.

use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use crate::args::{self, Config, Parsed, Wrong};
use crate::child::become_worker;
use crate::descendants::Inherited;
use crate::prepare::{self, Owner};
use crate::report::Report;
use crate::supervise::{Supervisor, Watched};
use crate::sys::{self, Fork, Vectors, signal};
use crate::{help, stdio};

/// The shim's own failure.
const OWN_FAILURE: u8 = 125;

const STAGE_FORK: u8 = 3;
const STAGE_PIPE: u8 = 2;
const STAGE_OWNER: u8 = 12;

/// Does everything; the result is the process's exit status.
#[must_use]
pub fn run(vectors: Vectors) -> u8 {
    match args::parse(vectors.args()) {
        Ok(Parsed::Run(config)) => start(vectors, &config),
        Ok(Parsed::Help) => print(help::TEXT),
        Ok(Parsed::Version) => print(help::VERSION),
        Err(wrong) => {
            complain(&wrong);
            OWN_FAILURE
        }
    }
}

fn print(text: &str) -> u8 {
    match rustix::io::write(sys::borrow(1), text.as_bytes()) {
        Ok(len) if len == text.len() => 0,
        _ => OWN_FAILURE,
    }
}

fn say(parts: &[&[u8]]) {
    for part in parts {
        let _ = rustix::io::write(sys::borrow(2), part);
    }
}

fn complain(wrong: &Wrong<'_>) {
    let expected = wrong.expected.as_bytes();
    say(&[b"leash-shim: ", wrong.option, b": expected ", expected, b", got: ", wrong.value, b"\n"]);
}

fn start(vectors: Vectors, config: &Config<'_>) -> u8 {
    prepare::standard_descriptors();
    prepare::close_others(config);
    // Inherited as ignored, SIGCHLD would make the kernel reap our children and lose their statuses.
    sys::default_disposition(signal::CHLD);
    sys::set_signal_mask(u64::MAX);

    let mark = prepare::mark(config);
    let subreaper = sys::become_subreaper().is_ok();
    if !config.foreground {
        // EPERM: we lead a group already, as every program that a VM starts does.
        let _ = rustix::process::setsid();
    }

    let leash = config.leash.map(sys::borrow);
    let report_fd = config.report.map(sys::borrow);
    for fd in [leash, report_fd].into_iter().flatten() {
        prepare::close_on_exec(fd);
    }
    let report = Report::new(report_fd);

    let owner = match prepare::owner(config.owner) {
        Owner::Watched(fd) => Some(fd),
        Owner::Unwatched => None,
        Owner::Gone => {
            report.start_failed(STAGE_OWNER, errno_u16(Errno::SRCH));
            return OWN_FAILURE;
        }
    };
    let flags = u8::from(subreaper) | u8::from(owner.is_some()) << 1 | u8::from(leash.is_some()) << 2;
    report.ready(rustix::process::getpid().as_raw_pid(), mark.code, mark.errno, flags);

    match launch(vectors, config, report, leash, owner) {
        Ok(mut supervisor) => supervisor.run(),
        Err((stage, errno)) => {
            report.start_failed(stage, errno_u16(errno));
            if config.report.is_none() {
                say(&[b"leash-shim: the command could not be started\n"]);
            }
            OWN_FAILURE
        }
    }
}

fn launch<'a>(
    vectors: Vectors,
    config: &'a Config<'a>,
    report: Report<'a>,
    leash: Option<BorrowedFd<'static>>,
    owner: Option<OwnedFd>,
) -> Result<Supervisor<'a>, stdio::Failed> {
    let signals = sys::signal_fd(u64::MAX).map_err(|e| (STAGE_PIPE, e))?;
    let inherited = Inherited::find();

    let mut watched = [const { None }; 2];
    if !config.detach {
        let [first, second] = &mut watched;
        *first = leash.as_ref().map(|fd| stdio::hangup(fd, PollFlags::empty()));
        *second = owner.as_ref().map(|fd| stdio::hangup(fd, PollFlags::IN));
    }
    let (fds, count) = compact(&watched);
    let fds = fds.as_ref().and_then(|fds| fds.get(..count)).unwrap_or_default();

    // Without pipes nothing is waited for; the look spares a worker that nobody would ever see.
    let mut look = fds.iter().cloned();
    if let Some(first) = look.next() {
        let mut pair = [first.clone(), look.next().unwrap_or(first)];
        if prepare::let_go(&mut pair) {
            return Err((STAGE_OWNER, Errno::SRCH));
        }
    }
    let ends = stdio::pipes(config, fds)?;

    let (failed, failure) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| (STAGE_PIPE, e))?;
    let shim = rustix::process::getpid();
    let leader = match sys::fork().map_err(|e| (STAGE_FORK, e))? {
        Fork::Child => become_worker(config, vectors, shim, ends, &failure),
        Fork::Parent(pid) => pid,
    };
    // The worker's ends must be the worker's alone, or its peer would never see the end of them.
    drop(ends);
    drop(failure);
    let_go_of_streams(config);
    // A supervisor must not keep a file system busy.
    let _ = rustix::process::chdir(c"/");

    let watched = Watched { signals, leash, owner, exec: Some(failed) };
    Ok(Supervisor::new(config, report, watched, inherited, leader))
}

fn compact<'a>(watched: &[Option<PollFd<'a>>; 2]) -> (Option<[PollFd<'a>; 2]>, usize) {
    match watched {
        [Some(a), Some(b)] => (Some([a.clone(), b.clone()]), 2),
        [Some(a), None] | [None, Some(a)] => (Some([a.clone(), a.clone()]), 1),
        [None, None] => (None, 0),
    }
}

/// By hand, stdin and stdout belong to the command: `producer | leash-shim … | consumer` has to see them close
/// when the command closes them.
fn let_go_of_streams(config: &Config<'_>) {
    if config.foreground {
        return;
    }
    let used = |number| config.leash == Some(number) || config.report == Some(number);
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    let Ok(null) = rustix::fs::open(c"/dev/null", flags, rustix::fs::Mode::empty()) else { return };
    if !used(0) {
        let _ = rustix::stdio::dup2_stdin(null.as_fd());
    }
    if !used(1) {
        let _ = rustix::stdio::dup2_stdout(null.as_fd());
    }
}

fn errno_u16(errno: Errno) -> u16 {
    u16::try_from(errno.raw_os_error()).unwrap_or(0)
}
