//! The order of work, from the command line to the exit status.

use core::mem::ManuallyDrop;
use rustix::fd::{AsFd, AsRawFd};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use crate::args::{self, Config, Origin, Parsed, Stream};
use crate::foreign::Foreign;
use crate::prepare::{self, Owner};
use crate::proc_file::Proc;
use crate::reap::Reaper;
use crate::report::{Failed, Ready, Report, Stage};
use crate::spawn::{self, Launch};
use crate::supervise::Supervisor;
use crate::sys::{self, Vectors, signal};
use crate::watched::Watched;
use crate::{attach, help, say, warden};

/// The exit status if the shim itself fails.
const OWN_FAILURE: u8 = 125;

/// Does everything. Returns the exit status of the process.
#[must_use]
pub fn run(vectors: Vectors) -> u8 {
    match args::parse(vectors.args()) {
        Ok(Parsed::Run(config)) => start(vectors, &config),
        Ok(Parsed::Help) => print(help::TEXT),
        Ok(Parsed::Version) => print(help::VERSION),
        Err(wrong) => {
            say::wrong(&wrong);
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

fn start(vectors: Vectors, config: &Config<'static>) -> u8 {
    // This comes before anything is opened, so that nothing lands on 0 to 2 and no own descriptor
    // is closed.
    prepare::standard_descriptors();
    prepare::close_others(config);
    // If SIGCHLD were inherited as ignored, the kernel would reap the shim's children, and their
    // statuses would be lost.
    sys::default_disposition(signal::CHLD);
    // A blocked signal reaches the shim even if it is ignored. The VM's own requests have to
    // reach it. By hand, a signal that nohup(1) has turned off stays off.
    let by_hand = config.leash.is_none() && !config.warden;
    sys::set_signal_mask(if by_hand { !sys::turned_off() } else { u64::MAX });

    let ready = Ready::default();
    let report = Report::new(config.report.map(sys::borrow), &ready);
    // The end of the process closes all descriptors at once.
    let ended = match config.attach {
        None if config.warden => {
            warden::begin(config, report).map(|run| ManuallyDrop::new(run).run())
        }
        None => launch(vectors, config, report).map(|tree| ManuallyDrop::new(tree).run()),
        Some(target) => attach::begin(vectors, config, target, report)
            .map(|tree| ManuallyDrop::new(tree).run()),
    };
    ended.unwrap_or_else(|(stage, errno)| {
        let raw = u16::try_from(errno.raw_os_error()).unwrap_or(0);
        report.start_failed(stage as u8, raw);
        if config.report.is_none() {
            match config.attach {
                None if config.warden => say::no_warden(raw),
                None => say::start_failed(config.command.to_bytes(), stage as u8, raw),
                Some((pid, _)) => say::not_attached(pid, raw),
            }
        }
        OWN_FAILURE
    })
}

fn launch<'a>(
    vectors: Vectors,
    config: &'a Config<'static>,
    report: Report<'a>,
) -> Result<Supervisor<'a>, Failed> {
    let shim = rustix::process::getpid();
    let mark = prepare::mark(config);
    let subreaper = sys::become_subreaper().is_ok();
    if !config.foreground {
        // EPERM: the shim leads a group already, as every program that a VM starts does.
        let _ = rustix::process::setsid();
    }

    let signals = sys::signal_fd(u64::MAX).map_err(|errno| (Stage::Pipe, errno))?;
    let proc = Proc::open(shim);
    let owner = match prepare::owner(config.owner, proc.as_ref()) {
        Owner::Watched(fd) => Some(fd),
        Owner::Unwatched => None,
        Owner::Gone if config.detach => None,
        Owner::Gone => return Err((Stage::OwnerGone, Errno::SRCH)),
    };
    let mut watched = Watched::new(signals, config, owner);
    // If leash or owner are gone already, no worker is started. For a worker that outlives them,
    // the leash decides. Its start is not over, so its caller may have asked again.
    let is_let_go = if config.detach { watched.leash_let_go() } else { watched.let_go_within(0) };
    if is_let_go {
        return Err((Stage::OwnerGone, Errno::PIPE));
    }
    let foreign =
        Foreign::find(proc.as_ref(), mark.hard).map_err(|errno| (Stage::Fork, errno))?;

    let flags = u8::from(subreaper)
        | u8::from(watched.owner.is_some()) << 1
        | u8::from(watched.leash.is_some()) << 2;
    report.ready(shim.as_raw_pid(), mark.code, mark.errno, flags);

    let pipe = |flags| rustix::pipe::pipe_with(flags).map_err(|errno| (Stage::Pipe, errno));
    let open = (config.stdin == Stream::Open).then(|| pipe(PipeFlags::CLOEXEC)).transpose()?;
    let (theirs, stdin) = open.unzip();
    let (failed, failure) = pipe(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let launch = Launch {
        config: *config,
        vectors,
        shim,
        stdin: theirs.as_ref().map(AsRawFd::as_raw_fd),
        failure: failure.as_raw_fd(),
    };
    let child = spawn::start(launch).map_err(|errno| (Stage::Fork, errno))?;
    // The worker's ends must belong to the worker alone, or its peer would never see the end of
    // them.
    drop(theirs);
    drop(failure);
    for fd in config.workers_descriptors().filter_map(|fd| u32::try_from(fd).ok()) {
        sys::close_range(fd, fd);
    }
    let_go_of_streams(config);
    // A supervisor must not keep a file system busy.
    let _ = rustix::process::chdir(c"/");

    watched.exec = Some(failed);
    let reaper = Reaper::new(proc, foreign, child.pid());
    Ok(Supervisor::new(config, vectors, report, watched, child, reaper, stdin))
}

/// Lets go of stdin and stdout, which belong to the command. `producer | leash-shim … | consumer`
/// has to see them close when the command closes them. stderr stays, for the shim's own messages.
pub(crate) fn let_go_of_streams(config: &Config<'_>) {
    // A warden passes on streams that are `/dev/null` already.
    let is_warden = config.origin() == Origin::Warden;
    let used =
        |number| is_warden || config.leash == Some(number) || config.report == Some(number);
    // A process that outlives its VM must not keep the VM's stderr open, be it a pipe or a
    // terminal.
    let silent = (config.detach || config.warden) && config.report.is_some();
    if used(0) && used(1) && !silent {
        return;
    }
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    let Ok(null) = rustix::fs::open(c"/dev/null", flags, rustix::fs::Mode::empty()) else {
        return;
    };
    if !used(0) {
        let _ = rustix::stdio::dup2_stdin(null.as_fd());
    }
    if !used(1) {
        let _ = rustix::stdio::dup2_stdout(null.as_fd());
    }
    if silent {
        let _ = rustix::stdio::dup2_stderr(null.as_fd());
    }
}

/// Turns 0 to 2 to `/dev/null`.
pub(crate) fn silence() {
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    let Ok(null) = rustix::fs::open(c"/dev/null", flags, rustix::fs::Mode::empty()) else {
        return;
    };
    let _ = rustix::stdio::dup2_stdin(null.as_fd());
    let _ = rustix::stdio::dup2_stdout(null.as_fd());
    let _ = rustix::stdio::dup2_stderr(null.as_fd());
}
