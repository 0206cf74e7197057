//! From clone to exec: the child becomes the worker.
//!
//! The order matters. The session comes first, so that the group exists before it is signalled.
//! The ids come before the death signal, because a change of ids clears it (prctl(2)). The death
//! signal comes before the look at the parent, which closes the race with a parent that died in
//! between. The signal mask comes last, so that no signal is delivered to half a worker.

use core::convert::Infallible;
use core::ffi::CStr;
use rustix::fd::BorrowedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, FdFlags};
use rustix::process::Pid;

use crate::args::{Config, Origin, Stream};
use crate::report::{Failed, Stage};
use crate::sys::{self, Child, Memory, Vectors, signal};

type Outcome = Result<(), Failed>;

/// The data that the child needs.
pub(crate) struct Launch {
    pub(crate) config: Config<'static>,
    pub(crate) vectors: Vectors,
    pub(crate) shim: Pid,
    /// The worker's end of an open stdin.
    pub(crate) stdin: Option<i32>,
    /// The descriptor for a failure, as stage and errno; exec closes it.
    pub(crate) failure: i32,
}

/// Starts the child.
///
/// Until its exec the child works in the shim's own memory, as after vfork(2). But the shim goes
/// on, so that an exec that hangs does not make it deaf. A child that changes its ids gets a copy
/// instead. Otherwise a program that may trace the new user's processes could write to the memory
/// of a shim with the old rights.
pub(crate) fn start(launch: Launch) -> Result<Child, Errno> {
    let ids = &launch.config.ids;
    let changes = ids.uid.is_some() || ids.gid.is_some() || ids.groups().is_some();
    let memory = if changes { Memory::Own } else { Memory::Shared };
    sys::start_child(memory, move || become_worker(&launch))
}

/// Runs in the child. Returns an exit status, and only if the child did not become the worker.
fn become_worker(launch: &Launch) -> u8 {
    let Err((stage, errno)) = prepare(launch).and_then(|()| exec(&launch.config, launch.vectors));
    let raw = u16::try_from(errno.raw_os_error()).unwrap_or(0);
    let [high, low] = raw.to_be_bytes();
    let _ = rustix::io::write(sys::borrow(launch.failure), &[stage as u8, high, low]);
    match (stage, errno) {
        (Stage::Exec, Errno::NOENT) => 127,
        (Stage::Exec, _) => 126,
        _ => 125,
    }
}

fn prepare(launch: &Launch) -> Outcome {
    let config = &launch.config;
    session(config).map_err(|e| (Stage::Setsid, e))?;
    config.limits.set().map_err(|e| (Stage::Limits, e))?;
    sys::become_user(config.ids.groups(), config.ids.gid, config.ids.uid)
        .map_err(|e| (Stage::Ids, e))?;
    sys::die_with_parent().map_err(|e| (Stage::Pdeathsig, e))?;
    if rustix::process::getppid() != Some(launch.shim) {
        return Err((Stage::Pdeathsig, Errno::SRCH));
    }
    streams(config, launch.stdin)?;
    if let Some(directory) = config.cd {
        rustix::process::chdir(directory).map_err(|e| (Stage::Chdir, e))?;
    }
    reset_signals(config.origin());
    Ok(())
}

/// Sets signal dispositions and mask as a program expects them.
pub(crate) fn reset_signals(origin: Origin) {
    reset_dispositions(origin);
    sys::set_signal_mask(0);
}

/// Resets the dispositions. The VM's fork server ignores SIGPIPE and SIGFPE, and an ignored
/// signal stays ignored across exec. By hand, a signal that nohup(1) has turned off stays off.
/// The warden has reset its own dispositions once and for all.
pub(crate) fn reset_dispositions(origin: Origin) {
    for number in (1..=signal::MAX).filter(|_| origin != Origin::Warden) {
        if !(origin == Origin::Hand && sys::is_turned_off(number)) {
            sys::default_disposition(number);
        }
    }
}

/// Begins a session, except in the foreground. There the program stays in the shim's group, so it
/// has the terminal when the shim has it. The signals of keyboard and shell to the group reach
/// both.
fn session(config: &Config<'_>) -> Result<(), Errno> {
    if !config.foreground {
        rustix::process::setsid()?;
    }
    Ok(())
}

/// Sets up the worker's streams. Exec closes all descriptors that are opened for them.
fn streams(config: &Config<'_>, open_stdin: Option<i32>) -> Outcome {
    let mut null = None;
    stream(0, config.stdin, open_stdin, &mut null).map_err(|e| (Stage::Stdin, e))?;
    stream(1, config.stdout, None, &mut null).map_err(|e| (Stage::Stdout, e))?;
    stream(2, config.stderr, None, &mut null).map_err(|e| (Stage::Stderr, e))
}

fn stream(
    number: u8,
    target: Stream<'_>,
    open_stdin: Option<i32>,
    null: &mut Option<BorrowedFd<'static>>,
) -> Result<(), Errno> {
    let fd = match target {
        // The leash may be the worker's stdin too, and close-on-exec was set for the leash.
        Stream::Inherit => {
            return rustix::io::fcntl_setfd(sys::borrow(i32::from(number)), FdFlags::empty());
        }
        // The number is above 2, so the copy is another descriptor, without close-on-exec.
        Stream::Descriptor(fd) => sys::borrow(fd),
        Stream::Open => open_stdin.map(sys::borrow).ok_or(Errno::BADF)?,
        Stream::Stdout => sys::borrow(1),
        Stream::Null => match *null {
            Some(fd) => fd,
            None => *null.insert(open(c"/dev/null", OFlags::RDWR)?),
        },
        Stream::File(path) => {
            open(path, OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::NOCTTY)?
        }
    };
    match number {
        0 => rustix::stdio::dup2_stdin(fd),
        1 => rustix::stdio::dup2_stdout(fd),
        _ => rustix::stdio::dup2_stderr(fd),
    }
}

fn open(path: &CStr, flags: OFlags) -> Result<BorrowedFd<'static>, Errno> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o666)).map(sys::keep)
}

fn exec(config: &Config<'_>, vectors: Vectors) -> Result<Infallible, Failed> {
    let run = |path: &CStr| vectors.exec(path, config.command_index, config.arg0);
    Err((Stage::Exec, execute(config.command, vectors, run)))
}

/// Executes a command as execvp(3) does. A command without a slash is looked up in PATH, and
/// EACCES on the way is remembered.
pub(crate) fn execute(command: &CStr, vectors: Vectors, run: impl Fn(&CStr) -> Errno) -> Errno {
    if command.to_bytes().contains(&b'/') {
        return run(command);
    }
    look_up(command.to_bytes(), vectors, run)
}

/// Looks up a command in PATH. If it were inlined, its buffer would cost a page even where
/// nothing is looked up.
#[inline(never)]
fn look_up(command: &[u8], vectors: Vectors, run: impl Fn(&CStr) -> Errno) -> Errno {
    let mut result = Errno::NOENT;
    let mut buffer = [0u8; 4096];
    for directory in vectors
        .env(b"PATH")
        .unwrap_or(b"/usr/local/bin:/usr/bin:/bin")
        .split(|&byte| byte == b':')
    {
        let Some(path) = join(&mut buffer, directory, command) else { continue };
        match run(path) {
            Errno::NOENT | Errno::NOTDIR => {}
            Errno::ACCESS => result = Errno::ACCESS,
            other => return other,
        }
    }
    result
}

fn join<'a>(buffer: &'a mut [u8; 4096], directory: &[u8], name: &[u8]) -> Option<&'a CStr> {
    let directory = if directory.is_empty() { &b"."[..] } else { directory };
    let mut len = 0usize;
    for part in [directory, b"/", name, b"\0"] {
        let end = len.checked_add(part.len())?;
        buffer.get_mut(len..end)?.copy_from_slice(part);
        len = end;
    }
    CStr::from_bytes_with_nul(buffer.get(..len)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_joined_or_refused_where_it_does_not_fit() {
        let mut buffer = [b'x'; 4096];
        assert_eq!(join(&mut buffer, b"/usr/bin", b"ls"), Some(c"/usr/bin/ls"));
        assert_eq!(join(&mut buffer, b"/bin", b"ls"), Some(c"/bin/ls"));
        assert_eq!(join(&mut buffer, b"", b"ls"), Some(c"./ls"));
        assert_eq!(join(&mut buffer, &[b'd'; 4094], b"ls"), None);
        assert_eq!(join(&mut buffer, &[b'd'; 4090], b"12345"), None, "no room for the NUL");
    }
}
