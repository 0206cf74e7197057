//! The warden of a run: one process that starts the shims, ends what a killed shim leaves, and
//! outlives the VM.
//!
//! The processes that a killed shim leaves become children of the warden. It ends them by
//! descent, whether the VM lives or not (`adopt`). Other trees are no descendants of the warden:
//! those of ports, of attached processes, and of shims of an earlier warden. Once the VM has
//! ended, the warden finds their processes by the run's mark and sends SIGKILL. If the shim of a
//! tree lives, the tree belongs to that shim, and the warden waits for it.
//!
//! While the VM lives, nothing is signalled for its mark, since a worker could be starting whose
//! shim was not met. Once the VM has ended no worker can start, since a starting shim sees its
//! owner gone before it has a worker.

use leash_tag::argv::ShimArgs;
use leash_tag::{Mark, RunId, WorkerNumber};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::adopt::Children;
use crate::args::{Config, Origin};
use crate::control::{self, Control, Request};
use crate::ladder::{STOP_FIRST_AFTER, pause_after};
use crate::marked::{Bearers, Calm, Pass};
use crate::prepare::{self, Owner};
use crate::proc_file::Proc;
use crate::report::{Failed, Report, Stage};
use crate::run;
use crate::spawn;
use crate::sys::{self, signal};
use crate::tree::ended;
use crate::watched::{Watched, Woken};

/// The time that most shims need for their trees, which then are not looked at at all.
const HEADSTART_MS: u64 = 20;

/// The pause between two looks while the warden waits for living shims. The first value is the
/// earliest time after the end of one. The second is the latest, since a shim may have been
/// stopped once more.
const SHIMS_MS: (u64, u64) = (5, 1_000);

/// The pause between two looks at a run whose VM let go of the warden and lives, doubled from the
/// first value to the second. After the third, the warden leaves the rest to the next warden.
const UNLEASHED_MS: (u64, u64, u64) = (10, 1_000, 10_000);

/// The most rounds in a row that find only processes that cannot be signalled or looked at: some
/// 10 seconds.
const VAIN_ROUNDS: u32 = 100;

/// The most requests that are taken in one go.
const REQUESTS: u32 = 16;

/// The longest path of a program (PATH_MAX), and the two arguments behind it.
const COMMAND_LINE: usize = 4096 + 64;

/// The warden of one run.
pub(crate) struct Warden {
    run: RunId,
    watched: Watched,
    proc: Option<Proc>,
    /// The listing of `/proc`, if processes can be found by their marks.
    table: Option<OwnedFd>,
    control: Option<Control>,
    children: Children,
}

/// The marks of the run, for a warden that can look for them.
#[derive(Clone, Copy)]
struct Marks<'a> {
    run: RunId,
    proc: &'a Proc,
    table: &'a OwnedFd,
}

/// Becomes the warden of a run.
///
/// # Errors
///
/// The reason why the warden could not do its work. A warden that starts shims needs only its
/// socket. It can do without `/proc` of this pid namespace, the mark, or a pidfd of the owner.
/// Then it knows its trees by descent, and the hang-up stands for the owner's end. Any other
/// warden needs all three.
#[inline(never)]
pub(crate) fn begin(config: &Config<'_>, report: Report<'_>) -> Result<Warden, Failed> {
    let at = |errno| (Stage::Warden, errno);
    let own = rustix::process::getpid();
    let control = config.control.map(|_| control::prepare()).transpose().map_err(at)?;
    if control.is_some() {
        // A started shim inherits the warden's dispositions.
        spawn::reset_dispositions(Origin::Port);
    }
    // The warden has no mark, so that a started shim has the same limits as a port's program.
    let _ = rustix::process::setsid();
    let subreaper = sys::become_subreaper().is_ok();
    // Every signal is blocked, and only SIGCHLD is read.
    let signals = sys::signal_fd(sys::bit(signal::CHLD)).map_err(at)?;
    let proc = Proc::open(own);
    let mut watched = Watched::new(signals, config, None);
    let owner = config.owner.and_then(|(owner, _)| Pid::from_raw(owner));
    let connected = match config.control.map(|name| control::connect(name, owner)) {
        Some(Ok(socket)) => {
            watched.leash = Some(sys::keep(socket));
            watched.asks = true;
            Ok(())
        }
        Some(Err(errno)) => Err(errno),
        None => Ok(()),
    };
    let found = prepare::owner(config.owner, proc.as_ref());
    let is_gone = matches!(found, Owner::Gone);
    match found {
        Owner::Watched(fd) => watched.owner = Some(fd),
        Owner::Unwatched => {}
        // The owner ended during this start, and an older warden may have exited before. If the
        // leash still holds, the owner is not the right process.
        Owner::Gone if connected == Err(Errno::CONNREFUSED) || watched.leash_let_go() => {}
        Owner::Gone => return Err((Stage::OwnerGone, Errno::SRCH)),
    }
    let table = table(proc.as_ref(), is_gone || watched.owner.is_some());
    match (connected, &table) {
        (Err(_), Ok(_)) if is_gone => {}
        (Err(errno), _) => return Err(at(errno)),
        (Ok(()), &Err(errno)) if control.is_none() => return Err(at(errno)),
        (Ok(()), _) => {}
    }
    let watches = [subreaper, watched.owner.is_some(), watched.leash.is_some(), table.is_ok()];
    let flags = (0..).zip(watches).fold(0, |flags, (bit, is_so)| flags | u8::from(is_so) << bit);
    report.ready(own.as_raw_pid(), prepare::MARK_OFF, 0, flags);
    report.ready_now();
    if control.is_none() {
        run::let_go_of_streams(config);
    }
    let _ = rustix::process::chdir(c"/");
    let children = Children::new().map_err(at)?;
    Ok(Warden { run: config.run, watched, proc, table: table.ok(), control, children })
}

fn table(proc: Option<&Proc>, knows_owner: bool) -> Result<OwnedFd, Errno> {
    sys::locks_limits(rustix::process::getpid())?;
    // If the owner cannot be watched, it is never known that none of its starts is under way.
    if !knows_owner {
        return Err(Errno::NOSYS);
    }
    proc.ok_or(Errno::NOENT)?.table()
}

impl Warden {
    /// Keeps the run until it is not needed any more. Returns the exit status.
    ///
    /// It is never inlined, since its stack frame would cost every shim a page or two.
    #[inline(never)]
    pub(crate) fn run(&mut self) -> u8 {
        if self.marks().is_none() {
            self.serve_alone();
        } else if self.watched.owner.is_none() || self.outlives_owner() {
            self.let_go();
            sys::pause_ms(HEADSTART_MS);
            self.clear();
        }
        0
    }

    /// Lets go of the VM, which has let go of the warden or has ended.
    ///
    /// An ended descriptor stays readable and would wake the warden for ever. The close refuses
    /// the requests that were not taken, with all that came with them. The warden also closes the
    /// VM's stderr, so that no reader waits for its end because of the warden.
    fn let_go(&mut self) {
        if self.control.is_some() {
            self.watched.let_go_of_channel();
        }
        self.watched.leash = None;
        run::silence();
    }

    fn marks(&self) -> Option<Marks<'_>> {
        Some(Marks { run: self.run, proc: self.proc.as_ref()?, table: self.table.as_ref()? })
    }

    /// Starts shims and ends what killed ones leave, until the VM has let go of the warden and no
    /// child is left.
    fn serve_alone(&mut self) {
        loop {
            let woken = self.wait_until(None);
            if woken.asked {
                self.serve();
            }
            if woken.leash || woken.owner {
                self.let_go();
                self.watched.owner = None;
            }
            if self.watched.leash.is_none() && !self.children.any() {
                return;
            }
        }
    }

    /// Waits for the owner's end. Returns `false` if the owner let go of the warden long before,
    /// and the warden has nothing left to end.
    ///
    /// A VM that is ending closes its files first. So a leash that hangs up says nothing about
    /// the VM, and the warden stays until the VM would have ended. A VM that lives has another
    /// warden by then. The shims of this warden stay its own to the last.
    fn outlives_owner(&mut self) -> bool {
        let (mut calm, mut pause) = (Calm::default(), UNLEASHED_MS.0);
        let (mut look, mut until) = (None, u64::MAX);
        loop {
            let woken = self.wait_until(look.filter(|_| !self.children.any()));
            if woken.owner {
                self.watched.owner = None;
                return true;
            }
            if woken.asked {
                self.serve();
            }
            let now = sys::now_ms();
            if woken.leash {
                self.let_go();
                (look, until) = (Some(now), now.saturating_add(UNLEASHED_MS.2));
            }
            // A child that ends wakes the warden.
            if self.children.any() || look.is_none_or(|at| now < at) {
                continue;
            }
            let Some(marks) = self.marks() else { return false };
            let found = marks.look(From::Listing, &[]);
            let is_calm = calm.proven(found.pass);
            if now >= until || (is_calm && marks.is_every_process_seen()) {
                return false;
            }
            let is_empty = found.pass.living == 0 && !is_calm;
            pause = if is_empty {
                UNLEASHED_MS.0
            } else {
                pause.saturating_mul(2).min(UNLEASHED_MS.1)
            };
            look = Some(now.saturating_add(pause));
        }
    }

    /// Waits for an event, until `at` at the latest, and handles the children.
    fn wait_until(&mut self, at: Option<u64>) -> Woken {
        let until = at.into_iter().chain(self.children.due()).min();
        let woken = self.watched.wait(until.map(|until| until.saturating_sub(sys::now_ms())));
        if woken.signals {
            // Many ends may be one signal.
            let _ = self.watched.take_signals().count();
        }
        self.children.reap(self.proc.as_ref());
        self.children.end_orphans(self.proc.as_ref(), sys::now_ms());
        woken
    }

    /// Handles the VM's requests, a limited number at a time, so that other work gets its turn.
    fn serve(&mut self) {
        let (Some(control), Some(socket)) = (&mut self.control, self.watched.leash) else {
            return;
        };
        for _ in 0..REQUESTS {
            match control.take(socket) {
                Ok(Request::Started(pid)) => self.children.started(pid),
                Ok(Request::Word(fd)) => {
                    // The end of a killed shim may not have been seen yet.
                    while self.children.reap(self.proc.as_ref()) {}
                    self.children.give_word(fd);
                }
                Ok(Request::Failed | Request::Other) | Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(_) => return,
            }
        }
    }

    /// Ends all processes whose shim is gone, until none is left, or none that can be ended.
    fn clear(&mut self) {
        let (mut calm, mut strikes, mut vain) = (Calm::default(), 0u32, 0u32);
        let mut from = From::Listing;
        loop {
            let _ = self.wait_until(Some(0));
            let Some(marks) = self.marks() else { return };
            let found = marks.look(from, &[signal::CONT]);
            let mut struck = Struck::default();
            // A process that could not be looked at may be a shim.
            if found.others > 0 && (!found.pass.hole || vain > VAIN_ROUNDS / 2) {
                if strikes >= STOP_FIRST_AFTER {
                    marks.strike(from, &found.shims, signal::STOP);
                }
                struck = marks.strike(from, &found.shims, signal::KILL);
            }
            // A process without the mark is known by its descent alone.
            let shims = found.shims.len.saturating_add(u32::from(self.children.any()));
            let left = struck.sent.saturating_add(struck.refused);
            let pass = Pass { living: shims.saturating_add(left), ..found.pass };
            // One pass by number is enough: it takes a second or two, and hidden processes cannot
            // see the warden coming either.
            let is_last = from == From::Numbers
                && pass == Pass { zombies: pass.zombies, ..Pass::default() };
            if is_last || calm.proven(pass) {
                if from == From::Numbers || !marks.proc.hides() {
                    return;
                }
                (from, calm) = (From::Numbers, Calm::default());
                continue;
            }
            strikes = if struck.sent > 0 { strikes.saturating_add(1) } else { 0 };
            let in_vain =
                shims == 0 && struck.sent == 0 && (struck.refused > 0 || found.pass.hole);
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
}

impl<'a> Marks<'a> {
    fn bearers(self) -> Bearers<'a, impl Fn(Mark) -> bool + use<>> {
        let run = self.run;
        Bearers {
            proc: self.proc,
            table: self.table,
            wanted: move |mark| mark.run() == run && !mark.outlives(),
        }
    }

    /// Returns whether no living bearer is hidden. A warden without its VM exits only with proof,
    /// and the listing is no proof if `/proc` hides processes.
    fn is_every_process_seen(self) -> bool {
        !self.proc.hides() || self.look(From::Numbers, &[]).pass.living == 0
    }

    fn pass(self, from: From, visit: &mut dyn FnMut(Pid, Mark, OwnedFd)) -> Pass {
        match from {
            From::Listing => self.bearers().pass(visit),
            From::Numbers => self.bearers().pass_by_number(visit),
        }
    }

    /// Looks for the living processes of the run. Each shim gets the signals, since a stopped
    /// shim would keep its tree for ever.
    fn look(self, from: From, to_shims: &[u8]) -> Found {
        let mut found = Found::default();
        let mut unread = false;
        let mut pass = self.pass(from, &mut |pid, mark, fd| {
            let worker = mark.worker();
            // Most processes of a tree have higher numbers than their shim. They need no closer
            // look then.
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
                Ok(Role::Other) => found.others = found.others.saturating_add(1),
                Err(Errno::SRCH | Errno::NOENT) => {}
                Err(_) => unread = true,
            }
        });
        pass.hole |= unread;
        found.pass = pass;
        found
    }

    /// Signals all processes whose shim is gone.
    fn strike(self, from: From, shims: &Shims, number: u8) -> Struck {
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

    /// Returns the role of a bearer. Any process can imitate a shim's arguments, so a bearer
    /// counts as a shim only if all its ids are the warden's.
    ///
    /// A process that `/proc` hides is no shim. All shims run one program as one user, so either
    /// all of them are dumpable and shown, or none is.
    #[inline(never)]
    fn role(self, pid: Pid, fd: BorrowedFd<'_>) -> Result<Role, Errno> {
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
        // The pidfd is opened first and seen alive last, so the data read by number belongs to
        // its process.
        if ended(fd) {
            return Err(Errno::SRCH);
        }
        Ok(match shim {
            _ if !is_own => Role::Other,
            // No warden has a mark of the run.
            ShimArgs { warden: true, .. } => Role::Other,
            _ => Role::Shim,
        })
    }
}

fn is_dumpable() -> bool {
    matches!(
        rustix::process::dumpable_behavior(),
        Ok(rustix::process::DumpableBehavior::Dumpable)
    )
}

/// The source of the numbers of a pass.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    /// The list in `/proc`.
    Listing,
    /// Every possible number.
    Numbers,
}

enum Role {
    Shim,
    Other,
}

/// The result of a look.
#[derive(Default)]
struct Found {
    shims: Shims,
    /// One of these shims.
    shim: Option<OwnedFd>,
    /// The number of processes that are no shims.
    others: u32,
    pass: Pass,
}

/// The result of a strike.
#[derive(Default)]
struct Struck {
    sent: u32,
    /// One of the processes that got the signal.
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

    /// Returns whether a process may belong to the tree of a living shim. A process that lost its
    /// number may belong to any.
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
    fn a_shim_covers_its_own_tree_and_processes_that_lost_their_number() {
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
    fn a_shim_without_a_number_covers_no_process_that_has_one() {
        let mut shims = Shims::default();
        shims.add(None);
        assert!(shims.cover(None) && !shims.cover(number(1)));
    }
}
