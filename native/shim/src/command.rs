//! The commands that are steps of the ladder (`CMD:MS` in `--stop=`): started, reaped, killed.
//!
//! A command is a child of the shim in a session of its own, with the mark and the environment.
//! If the shim is killed, the command dies by its death signal. The processes that it started are
//! found by their tags like the rest of the tree. The command is not the worker, so it does not
//! get the worker's ids, limits and streams.

use core::convert::Infallible;
use core::ffi::CStr;
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, FdFlags};
use rustix::process::Pid;

use crate::args::{Act, Config, MAX_STEPS, Origin};
use crate::blocks::Block;
use crate::report::{Ended, Report, Stage};
use crate::spawn;
use crate::sys::{self, Child, Memory, Vectors, Waited, signal};

/// The data that a command's child needs.
pub(crate) struct Launch {
    pub(crate) vectors: Vectors,
    pub(crate) block: Block,
    pub(crate) shim: Pid,
    /// The value of `--cd`: the command works in that directory too.
    pub(crate) directory: Option<&'static CStr>,
    /// Whether descriptor 2 is stderr, and not leash or report.
    pub(crate) stderr: bool,
    /// The starter of this shim.
    pub(crate) origin: Origin,
}

impl Launch {
    /// Returns the launch data of a step's command.
    pub(crate) fn of(config: &Config<'static>, vectors: Vectors, index: u8) -> Option<Self> {
        Some(Self {
            vectors,
            block: block(config, vectors, index)?,
            shim: rustix::process::getpid(),
            directory: config.cd,
            stderr: ![config.leash, config.report].contains(&Some(2)),
            origin: config.origin(),
        })
    }
}

fn block(config: &Config<'_>, vectors: Vectors, index: u8) -> Option<Block> {
    let is_command =
        |at: &usize| config.stop.get(*at).is_some_and(|step| step.act == Act::Command);
    config.step.nth((0..usize::from(index)).filter(is_command).count(), vectors.args())
}

/// The outcome of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The command never ran; the errno.
    NotStarted(u8),
    /// The command ran.
    Ended(Ended),
}

impl Outcome {
    pub(crate) fn not_started(errno: Errno) -> Self {
        Self::NotStarted(u8::try_from(errno.raw_os_error()).unwrap_or(u8::MAX))
    }

    /// Reports the outcome to the VM. If there is no VM and the command could not be started,
    /// prints that on stderr.
    pub(crate) fn tell(
        self,
        index: u8,
        report: Report<'_>,
        config: &Config<'_>,
        vectors: Vectors,
    ) {
        report.command(index, self);
        if let (Self::NotStarted(errno), None) = (self, config.report) {
            let program =
                block(config, vectors, index).and_then(|block| vectors.args().nth(block.first));
            let program = program.map_or(&b"--step"[..], CStr::to_bytes);
            crate::say::start_failed(program, Stage::Exec as u8, u16::from(errno));
        }
    }

    pub(crate) fn succeeded(self) -> bool {
        self == Self::Ended(Ended { how: Ended::EXITED, value: 0 })
    }
}

enum Place {
    Empty,
    Runs(Child),
    /// Reaped, and not reported yet.
    Ended(Outcome),
}

impl Place {
    fn reap(&mut self) -> bool {
        let Self::Runs(child) = self else { return false };
        let ended = match sys::peek(child.pid()) {
            Waited::Ended(_, ended) => ended,
            Waited::NotYet => return false,
            // The kernel reaped the child without the shim, so its pid is free.
            Waited::NoChild => Ended { how: Ended::KILLED, value: signal::KILL },
        };
        // The exit status of a child that did not reach its exec is the errno. Once the child is
        // reaped, nothing says any more whether it did.
        let outcome = match ended {
            Ended { how: Ended::EXITED, value } if !child.executed() => {
                Outcome::NotStarted(value)
            }
            ended => Outcome::Ended(ended),
        };
        let _ = sys::reap(child.pid());
        *self = Self::Ended(outcome);
        true
    }
}

/// The commands of all steps. If a command cannot die because it hangs in the kernel, the next
/// one starts all the same. The stack of the hanging one stays until it ends.
pub(crate) struct Commands {
    places: [Place; MAX_STEPS],
    used: bool,
}

impl Commands {
    pub(crate) fn new() -> Self {
        Self { places: [const { Place::Empty }; MAX_STEPS], used: false }
    }

    /// Starts the command of a step. The child works in the shim's own memory, like the worker,
    /// since it changes no ids.
    pub(crate) fn start(&mut self, index: u8, launch: Launch) -> Result<(), Errno> {
        let place = self.places.get_mut(usize::from(index)).ok_or(Errno::INVAL)?;
        let child = sys::start_child(Memory::Shared, move || become_command(&launch))?;
        *place = Place::Runs(child);
        self.used = true;
        Ok(())
    }

    /// Sends SIGKILL to the commands that run, and to their groups. A group's number stays theirs
    /// until its leader is reaped.
    pub(crate) fn kill(&self) {
        for pid in self.running() {
            // Before its setsid, the child is in the shim's group and leads none.
            let _ = sys::kill_group(pid, signal::KILL);
            let _ = sys::kill(pid, signal::KILL);
        }
    }

    fn running(&self) -> impl Iterator<Item = Pid> {
        self.places.iter().filter(|_| self.used).filter_map(|place| match place {
            Place::Runs(child) => Some(child.pid()),
            _ => None,
        })
    }

    /// Reaps the command with this pid if it has ended. Returns `None` if the pid is not a
    /// command's.
    pub(crate) fn reap(&mut self, pid: Pid) -> Option<bool> {
        if !self.used {
            return None;
        }
        let is_it =
            |place: &&mut Place| matches!(place, Place::Runs(child) if child.pid() == pid);
        self.places.iter_mut().find(is_it).map(Place::reap)
    }

    /// Reaps the commands that have ended, and no other child.
    pub(crate) fn reap_all(&mut self) {
        for place in self.places.iter_mut().filter(|_| self.used) {
            let _ = place.reap();
        }
    }

    /// Returns a command that has ended since the last call, and its step.
    pub(crate) fn take_ended(&mut self) -> Option<(u8, Outcome)> {
        if !self.used {
            return None;
        }
        let ended = self.places.iter_mut().enumerate().find_map(|(index, place)| match place {
            Place::Ended(outcome) => Some((index, *outcome, place)),
            _ => None,
        });
        let (index, outcome, place) = ended?;
        *place = Place::Empty;
        Some((u8::try_from(index).ok()?, outcome))
    }
}

/// Runs in the child. Returns the errno, and only if the child did not become the command.
fn become_command(launch: &Launch) -> u8 {
    let Err(errno) = prepare(launch).and_then(|()| exec(launch));
    u8::try_from(errno.raw_os_error()).unwrap_or(u8::MAX)
}

/// Prepares the child, in the order for which `spawn` gives the reasons.
fn prepare(launch: &Launch) -> Result<(), Errno> {
    rustix::process::setsid()?;
    sys::die_with_parent()?;
    if rustix::process::getppid() != Some(launch.shim) {
        return Err(Errno::SRCH);
    }
    streams(launch.stderr)?;
    // The directory may be gone with the tree that is being ended, but the command has to run all
    // the same. A relative path is skipped, since the shim has changed its own directory.
    let directory = launch.directory.filter(|path| path.to_bytes().starts_with(b"/"));
    if directory.is_none_or(|path| rustix::process::chdir(path).is_err()) {
        let _ = rustix::process::chdir(c"/");
    }
    spawn::reset_signals(launch.origin);
    Ok(())
}

fn streams(keep_stderr: bool) -> Result<(), Errno> {
    let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map(sys::keep)?;
    rustix::stdio::dup2_stdin(null)?;
    rustix::stdio::dup2_stdout(null)?;
    if keep_stderr {
        return rustix::io::fcntl_setfd(sys::borrow(2), FdFlags::empty());
    }
    rustix::stdio::dup2_stderr(null)
}

fn exec(launch: &Launch) -> Result<Infallible, Errno> {
    let Launch { vectors, block, .. } = *launch;
    let program = vectors.args().nth(block.first).ok_or(Errno::NOENT)?;
    Err(spawn::execute(program, vectors, |path| vectors.exec_block(path, block)))
}
