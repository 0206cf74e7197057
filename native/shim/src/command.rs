//! The commands that are steps of the ladder (`CMD:MS` in `--stop=`): started, reaped, killed.
//!
//! A command is a child of ours in a session of its own. It carries the mark and the environment, so that when
//! we are killed it dies by its death signal, and what it started is found by its tags like the rest of the tree. It
//! is not the worker: the worker's ids, limits and streams are not for it.

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

/// What a command's child needs.
pub(crate) struct Launch {
    pub(crate) vectors: Vectors,
    pub(crate) block: Block,
    pub(crate) shim: Pid,
    /// `--cd`, where the command is to work in it too.
    pub(crate) directory: Option<&'static CStr>,
    /// Whether 2 is stderr, and not leash or report.
    pub(crate) stderr: bool,
    /// What has started us.
    pub(crate) origin: Origin,
}

impl Launch {
    /// The command of a step.
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

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It never ran; the errno.
    NotStarted(u8),
    /// It ran.
    Ended(Ended),
}

impl Outcome {
    pub(crate) fn not_started(errno: Errno) -> Self {
        Self::NotStarted(u8::try_from(errno.raw_os_error()).unwrap_or(u8::MAX))
    }

    /// Says it to the VM, or where there is none, and it could not be started, to whoever reads stderr.
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
    /// Reaped, and nobody was told yet.
    Ended(Outcome),
}

impl Place {
    fn reap(&mut self) -> bool {
        let Self::Runs(child) = self else { return false };
        let ended = match sys::peek(child.pid()) {
            Waited::Ended(_, ended) => ended,
            Waited::NotYet => return false,
            // Somebody made the kernel reap for us: the number is nobody's any more.
            Waited::NoChild => Ended { how: Ended::KILLED, value: signal::KILL },
        };
        // What a child says that did not come to its exec is why; once it is reaped nobody could tell.
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

/// The commands of all steps. One that cannot die (it hangs in the kernel) does not keep the next from starting,
/// and until it does its stack stays.
pub(crate) struct Commands {
    places: [Place; MAX_STEPS],
    used: bool,
}

impl Commands {
    pub(crate) fn new() -> Self {
        Self { places: [const { Place::Empty }; MAX_STEPS], used: false }
    }

    /// Starts the command of a step. In our own memory, as the worker is: it changes no ids.
    pub(crate) fn start(&mut self, index: u8, launch: Launch) -> Result<(), Errno> {
        let place = self.places.get_mut(usize::from(index)).ok_or(Errno::INVAL)?;
        let child = sys::start_child(Memory::Shared, move || become_command(&launch))?;
        *place = Place::Runs(child);
        self.used = true;
        Ok(())
    }

    /// SIGKILL to those that run, with their groups: theirs as long as the leader is not reaped.
    pub(crate) fn kill(&self) {
        for pid in self.running() {
            // Before its setsid the child is in our group and leads none.
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

    /// Reaps the command of this number if it has ended; `None` when it is none of ours.
    pub(crate) fn reap(&mut self, pid: Pid) -> Option<bool> {
        if !self.used {
            return None;
        }
        let is_it =
            |place: &&mut Place| matches!(place, Place::Runs(child) if child.pid() == pid);
        self.places.iter_mut().find(is_it).map(Place::reap)
    }

    /// Reaps whichever has ended, and nobody else.
    pub(crate) fn reap_all(&mut self) {
        for place in self.places.iter_mut().filter(|_| self.used) {
            let _ = place.reap();
        }
    }

    /// One that has ended since the last call, and its step.
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

/// Runs in the child and returns only when it did not become the command: with the errno.
fn become_command(launch: &Launch) -> u8 {
    let Err(errno) = prepare(launch).and_then(|()| exec(launch));
    u8::try_from(errno.raw_os_error()).unwrap_or(u8::MAX)
}

/// In the order that `spawn` gives reasons for.
fn prepare(launch: &Launch) -> Result<(), Errno> {
    rustix::process::setsid()?;
    sys::die_with_parent()?;
    if rustix::process::getppid() != Some(launch.shim) {
        return Err(Errno::SRCH);
    }
    streams(launch.stderr)?;
    // Gone with what is being ended, perhaps: what is to be done has to be done all the same. A relative one
    // counts from where we are no more.
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
