//! What a run leaves whose VM and whose shims are gone: one process for the whole run, which outlives them.
//!
//! A shim ends its own tree when the VM ends. Where the shim was killed too, nobody is left who knows its tree; but
//! everybody in it has the run's mark, by which he is found and gets SIGKILL. A tree whose shim lives is that shim's,
//! which is waited for.
//!
//! Nobody is signalled while the VM lives: a worker could be starting whose shim was not met. Of a VM that has ended
//! none can come, since a shim that starts sees its owner gone before it has a worker.

use leash_tag::argv::ShimArgs;
use leash_tag::{Mark, RunId, WorkerNumber};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::adopt::Children;
use crate::args::Config;
use crate::control::{self, Control, Request};
use crate::ladder::{STOP_FIRST_AFTER, pause_after};
use crate::marked::{Bearers, Calm, Pass};
use crate::prepare::{self, Owner};
use crate::proc_file::Proc;
use crate::report::{Failed, Report, Stage};
use crate::run;
use crate::sys::{self, signal};
use crate::tree::ended;
use crate::watched::{Watched, Woken};

/// What most shims need for their trees, which then are not looked at at all.
const HEADSTART_MS: u64 = 20;

/// Between two looks where living shims are waited for: at the end of one at the earliest, and at the latest, since
/// one may have been stopped once more.
const SHIMS_MS: (u64, u64) = (5, 1_000);

/// Between two looks at a run whose VM let go of us and lives: doubled from the first to the last.
const UNLEASHED_MS: (u64, u64) = (10, 60_000);

/// Rounds in a row in which nobody was left but those whom we may not signal, or cannot look at: some 10 seconds.
const VAIN_ROUNDS: u32 = 100;

/// Requests that are taken in one go.
const REQUESTS: u32 = 16;

/// The longest path of a program (PATH_MAX), and the two arguments behind it.
const COMMAND_LINE: usize = 4096 + 64;

/// The keeper of one run.
pub(crate) struct Warden {
    run: RunId,
    /// When we started, and our number: of two wardens the younger one stays.
    age: (u64, i32),
    watched: Watched,
    proc: Proc,
    table: OwnedFd,
    control: Option<Control>,
    children: Children,
}

/// Becomes the warden of a run.
///
/// # Errors
///
/// Where it could not do what it is for: no `/proc` of this pid namespace, no mark, no pidfd of the owner.
#[inline(never)]
pub(crate) fn begin(config: &Config<'_>, report: Report<'_>) -> Result<Warden, Failed> {
    let at = |errno| (Stage::Warden, errno);
    let own = rustix::process::getpid();
    let control = config.control.map(|_| control::prepare()).transpose().map_err(at)?;
    let mark = prepare::mark(config);
    let _ = rustix::process::setsid();
    let subreaper = sys::become_subreaper().is_ok();
    mark.required().map_err(at)?;
    // Every signal is blocked; that a child has ended is all that is read.
    let signals = sys::signal_fd(sys::bit(signal::CHLD)).map_err(at)?;
    let proc = Proc::open(own).ok_or(at(Errno::NOENT))?;
    let table = proc.table().map_err(at)?;
    let age = (proc.stat(own).map_err(at)?.start_ticks, own.as_raw_pid());
    let mut watched = Watched::new(signals, config, None);
    match prepare::owner(config.owner, Some(&proc)) {
        Owner::Watched(fd) => watched.owner = Some(fd),
        Owner::Unwatched => return Err(at(Errno::NOSYS)),
        // It ended while we started, and an older warden may have left for us: the mark is there. A leash that holds
        // says that the owner is not the one that is meant.
        Owner::Gone if watched.leash_let_go() => {}
        Owner::Gone => return Err((Stage::OwnerGone, Errno::SRCH)),
    }
    if let (Some(name), Some((owner, _))) = (config.control, config.owner) {
        let owner = Pid::from_raw(owner).ok_or(at(Errno::SRCH))?;
        watched.leash = Some(sys::keep(control::connect(name, owner).map_err(at)?));
        watched.asks = true;
    }
    let flags =
        u8::from(subreaper) | u8::from(watched.owner.is_some()) << 1 | u8::from(watched.leash.is_some()) << 2;
    report.ready(own.as_raw_pid(), 0, 0, flags);
    if control.is_none() {
        run::let_go_of_streams(config);
    }
    let _ = rustix::process::chdir(c"/");
    let children = Children::new().map_err(at)?;
    Ok(Warden { run: config.run, age, watched, proc, table, control, children })
}

impl Warden {
    /// Keeps the run until nobody needs us; the result is the exit status.
    ///
    /// Never a part of its caller: what it has on its stack would be a page or two of every shim's.
    #[inline(never)]
    pub(crate) fn run(&mut self) -> u8 {
        if self.watched.owner.is_none() || self.outlives_owner() {
            // Nobody is to wait for the end of what the VM had as stderr because of us.
            run::silence();
            sys::pause_ms(HEADSTART_MS);
            self.clear();
        }
        0
    }

    /// Waits for the owner's end; `false` where it let go of us before, and nobody is left or another took our place.
    ///
    /// A VM that is ending closes its files first. So a leash that hangs up says nothing about the VM, and we stay
    /// while there is anybody to stay for.
    fn outlives_owner(&mut self) -> bool {
        let (mut calm, mut pause) = (Calm::default(), UNLEASHED_MS.0);
        let mut look = None;
        loop {
            let woken = self.wait_until(look);
            if woken.owner {
                self.watched.owner = None;
                return true;
            }
            if woken.asked {
                self.serve();
            }
            if woken.leash {
                // What has ended stays readable and would wake us for ever.
                self.watched.leash = None;
                look = Some(0);
                run::silence();
            }
            let now = sys::now_ms();
            if look.is_none_or(|at| now < at) {
                continue;
            }
            let found = self.look(From::Listing, &[]);
            let is_calm = calm.proven(found.pass);
            if !self.children.any() && (found.younger || (is_calm && self.is_nobody_hidden())) {
                return false;
            }
            let nobody = found.pass.living == 0 && !is_calm;
            pause = if nobody { UNLEASHED_MS.0 } else { pause.saturating_mul(2).min(UNLEASHED_MS.1) };
            look = Some(sys::now_ms().saturating_add(pause));
        }
    }

    /// Waits for whatever comes first, that moment included, and sees to the children.
    fn wait_until(&mut self, at: Option<u64>) -> Woken {
        let until = at.into_iter().chain(self.children.due()).min();
        let woken = self.watched.wait(until.map(|until| until.saturating_sub(sys::now_ms())));
        if woken.signals {
            // Many ends may be one signal.
            let _ = self.watched.take_signals().count();
        }
        self.children.reap(&self.proc);
        self.children.end_orphans(&self.proc, sys::now_ms());
        woken
    }

    /// Does what the VM asks for, so much at a time that what else there is gets its turn.
    fn serve(&mut self) {
        let (Some(control), Some(socket)) = (&self.control, self.watched.leash) else { return };
        for _ in 0..REQUESTS {
            match control.take(socket) {
                Ok(Request::Started(pid)) => self.children.started(pid),
                Ok(Request::Word(fd)) => {
                    // That a shim was killed may be news.
                    self.children.reap(&self.proc);
                    self.children.give_word(fd);
                }
                Ok(Request::Failed | Request::Other) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    /// Ends everybody whose shim is gone, until nobody is left, or nobody whom we can end.
    fn clear(&mut self) {
        let (mut calm, mut strikes, mut vain) = (Calm::default(), 0u32, 0u32);
        let mut from = From::Listing;
        loop {
            let _ = self.wait_until(Some(0));
            let found = self.look(from, &[signal::CONT]);
            let mut struck = Struck::default();
            // Who could not be looked at may be a shim.
            if found.others > 0 && (!found.pass.hole || vain > VAIN_ROUNDS / 2) {
                if strikes >= STOP_FIRST_AFTER {
                    self.strike(from, &found.shims, signal::STOP);
                }
                struck = self.strike(from, &found.shims, signal::KILL);
            }
            // What has no mark is known by its descent alone.
            let shims = found.shims.len.saturating_add(u32::from(self.children.any()));
            let left = struck.sent.saturating_add(struck.refused);
            let pass = Pass { living: shims.saturating_add(left), ..found.pass };
            // By number a pass takes a second or two, and what is hidden cannot see us coming either: one is enough.
            let is_last = from == From::Numbers && pass == Pass { zombies: pass.zombies, ..Pass::default() };
            if is_last || calm.proven(pass) {
                if from == From::Numbers || !self.proc.hides() {
                    return;
                }
                (from, calm) = (From::Numbers, Calm::default());
                continue;
            }
            strikes = if struck.sent > 0 { strikes.saturating_add(1) } else { 0 };
            let in_vain = shims == 0 && struck.sent == 0 && (struck.refused > 0 || found.pass.hole);
            vain = if in_vain { vain.saturating_add(1) } else { 0 };
            if vain > VAIN_ROUNDS {
                return;
            }
            if struck.sent > 0 {
                self.wait_for(struck.one, pause_after(strikes));
            } else if shims > 0 {
                let now = sys::now_ms();
                let due = self.children.due().map(|at| at.saturating_sub(now));
                self.wait_for(found.shim, due.unwrap_or(SHIMS_MS.1));
                sys::pause_ms(SHIMS_MS.0);
            } else {
                sys::pause_ms(pause_after(vain));
            }
        }
    }

    fn wait_for(&mut self, witness: Option<OwnedFd>, ms: u64) {
        self.watched.witness = witness;
        self.watched.wait(Some(ms));
        self.watched.witness = None;
    }

    fn bearers(&self) -> Bearers<'_, impl Fn(Mark) -> bool + use<>> {
        let run = self.run;
        Bearers {
            proc: &self.proc,
            table: &self.table,
            wanted: move |mark| mark.run() == run && !mark.outlives(),
        }
    }

    /// What is let go leaves only with proof, and the listing is none where `/proc` hides.
    fn is_nobody_hidden(&self) -> bool {
        !self.proc.hides() || self.look(From::Numbers, &[]).pass.living == 0
    }

    fn pass(&self, from: From, visit: &mut dyn FnMut(Pid, Mark, OwnedFd)) -> Pass {
        match from {
            From::Listing => self.bearers().pass(visit),
            From::Numbers => self.bearers().pass_by_number(visit),
        }
    }

    /// Who lives of the run. Each shim gets the signals: one that was stopped would keep its tree for ever.
    fn look(&self, from: From, to_shims: &[u8]) -> Found {
        let mut found = Found::default();
        let mut unread = false;
        let mut wardens = 0u32;
        let mut pass = self.pass(from, &mut |pid, mark, fd| {
            let worker = mark.worker();
            // Most of a tree have higher numbers than their shim, and then need not be looked at.
            if worker.is_some_and(|worker| found.shims.has(worker)) {
                found.others = found.others.saturating_add(1);
                return;
            }
            match self.role(pid, fd.as_fd()) {
                Ok(Role::Shim) => {
                    found.shims.add(worker);
                    crate::marked::send(fd.as_fd(), to_shims);
                    found.shim = Some(fd);
                }
                Ok(Role::Warden) => {
                    wardens = wardens.saturating_add(1);
                    found.younger |= self.is_younger(pid, fd.as_fd());
                }
                Ok(Role::Other) => found.others = found.others.saturating_add(1),
                Err(Errno::SRCH | Errno::NOENT) => {}
                Err(_) => unread = true,
            }
        });
        pass.living = pass.living.saturating_sub(wardens);
        pass.hole |= unread;
        found.pass = pass;
        found
    }

    /// Signals everybody whose shim is gone.
    fn strike(&self, from: From, shims: &Shims, number: u8) -> Struck {
        let mut struck = Struck::default();
        self.pass(from, &mut |pid, mark, fd| {
            if shims.cover(mark.worker())
                || !matches!(self.role(pid, fd.as_fd()), Ok(Role::Other))
                || ended(fd.as_fd())
            {
                return;
            }
            match sys::pidfd_signal(fd.as_fd(), number) {
                Ok(()) => {
                    struck.sent = struck.sent.saturating_add(1);
                    struck.one = Some(fd);
                }
                Err(Errno::SRCH) => {}
                Err(_) => struck.refused = struck.refused.saturating_add(1),
            }
        });
        struck
    }

    /// What a bearer is to us. Any process can imitate arguments: a shim or warden is ours only where all its ids are.
    ///
    /// What `/proc` hides is neither. Shims and wardens run one program as one user, so that all of them are dumpable, and
    /// shown, or none is.
    #[inline(never)]
    fn role(&self, pid: Pid, fd: BorrowedFd<'_>) -> Result<Role, Errno> {
        let mut buffer = [0u8; COMMAND_LINE];
        let line = match self.proc.read_cmdline(pid, &mut buffer) {
            Err(Errno::NOENT | Errno::PERM | Errno::ACCESS) if is_dumpable() && !ended(fd) => {
                return Ok(Role::Other);
            }
            other => other?,
        };
        let Some(shim) = ShimArgs::parse(line).filter(|shim| shim.run == self.run) else {
            return Ok(Role::Other);
        };
        let is_own = self.proc.is_own(pid)?;
        // The descriptor comes first and is seen alive last: what was read by number was read of its process.
        if ended(fd) {
            return Err(Errno::SRCH);
        }
        Ok(match shim {
            _ if !is_own => Role::Other,
            ShimArgs { warden: true, .. } => Role::Warden,
            _ => Role::Shim,
        })
    }

    fn is_younger(&self, pid: Pid, fd: BorrowedFd<'_>) -> bool {
        let Ok(stat) = self.proc.stat(pid) else { return false };
        (stat.start_ticks, pid.as_raw_pid()) > self.age && !ended(fd)
    }
}

fn is_dumpable() -> bool {
    matches!(rustix::process::dumpable_behavior(), Ok(rustix::process::DumpableBehavior::Dumpable))
}

/// Where a pass takes the numbers from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    /// What `/proc` lists.
    Listing,
    /// Every number there can be.
    Numbers,
}

enum Role {
    Shim,
    Warden,
    Other,
}

/// What a look found.
#[derive(Default)]
struct Found {
    shims: Shims,
    /// One of them.
    shim: Option<OwnedFd>,
    /// Those who are neither shim nor warden.
    others: u32,
    /// Another warden of the run lives, and began after us.
    younger: bool,
    /// Without wardens.
    pass: Pass,
}

/// Whom signals went to.
#[derive(Default)]
struct Struck {
    sent: u32,
    /// One of them.
    one: Option<OwnedFd>,
    refused: u32,
}

/// The workers that have a living shim.
struct Shims {
    numbers: [u64; Self::WORDS],
    len: u32,
}

impl Default for Shims {
    fn default() -> Self {
        Self { numbers: [0; Self::WORDS], len: 0 }
    }
}

impl Shims {
    const WORDS: usize = (WorkerNumber::MAX as usize + 1).div_ceil(64);

    fn place(worker: WorkerNumber) -> (usize, u64) {
        let number = usize::from(worker.get());
        (number / 64, 1 << (number % 64))
    }

    fn add(&mut self, worker: Option<WorkerNumber>) {
        self.len = self.len.saturating_add(1);
        let Some((word, bit)) = worker.map(Self::place) else { return };
        if let Some(numbers) = self.numbers.get_mut(word) {
            *numbers |= bit;
        }
    }

    fn has(&self, worker: WorkerNumber) -> bool {
        let (word, bit) = Self::place(worker);
        self.numbers.get(word).is_some_and(|numbers| numbers & bit != 0)
    }

    /// Whether somebody may be of the tree of one of them: a process that lost its number, of any.
    fn cover(&self, worker: Option<WorkerNumber>) -> bool {
        worker.map_or(self.len > 0, |worker| self.has(worker))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(number: u16) -> Option<WorkerNumber> {
        Some(WorkerNumber::new(number).unwrap())
    }

    #[test]
    fn a_shim_covers_its_own_tree_and_those_who_lost_their_number() {
        let mut shims = Shims::default();
        assert!(!shims.cover(None) && !shims.cover(number(64)));
        shims.add(number(64));
        for (worker, covered) in
            [(1, false), (63, false), (64, true), (65, false), (WorkerNumber::MAX, false)]
        {
            assert_eq!(shims.cover(number(worker)), covered, "{worker}");
        }
        assert!(shims.cover(None));
        shims.add(number(WorkerNumber::MAX));
        assert!(shims.cover(number(WorkerNumber::MAX)));
    }

    #[test]
    fn a_shim_without_a_number_covers_nobody_who_has_one() {
        let mut shims = Shims::default();
        shims.add(None);
        assert!(shims.cover(None) && !shims.cover(number(1)));
    }
}
