//! A process that somebody else started, and its tree: watched, and ended by the same ladder.
//!
//! It is no child of ours, so nothing here is reaped and no `ECHILD` proves anything. Whoever belongs to it carries
//! the mark, given to those who were there and inherited by all who came later, or is below it while it lives. It is
//! gone when its pidfd says so and passes over all processes find no bearer of the mark.
//!
//! While it lives, its pidfd is all that is needed; afterwards somebody who was found alive stands witness that there
//! is a tree, and a pass is made when he ends. So nothing is looked at while nothing happens.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::args::{Config, To};
use crate::climb::{self, Climb, Next};
use crate::command::Commands;
use crate::ladder::Cause;
use crate::marked::{Bearers, Calm, Pass, send};
use crate::marking::{self, Marker, Marking, Tag};
use crate::prepare::{self, Owner};
use crate::proc_file::Proc;
use crate::report::{Ended, Failed, Report, Stage};
use crate::run;
use crate::sys::{self, Vectors, signal};
use crate::target::Target;
use crate::tree::{self, Met, Order, Threads, Walked};
use crate::watched::Watched;

/// Between two passes that find somebody else each time: doubled from the first to the last.
const LOOK_MS: (u64, u64) = (1, 32);

/// How long those who are there are marked, at most: a tree that grows faster is not followed for ever.
const MARKING_MS: u64 = 2_000;

/// Between the last walks for those who are to be marked: four times the one before, from the first to the last.
const MARK_MS: (u64, u64) = (4, 1_024);

/// Passes of SIGKILL that wait for those without the mark to be stopped, and gone: some can be neither.
const PATIENT_PASSES: u32 = 20;

/// One attached tree.
pub(crate) struct Attached<'a> {
    climb: Climb<'a>,
    watched: Watched,
    proc: Proc,
    table: OwnedFd,
    marker: Marker,
    pid: Pid,
    /// Its last known process group.
    pgrp: i32,
    /// The process itself has not ended, and is the witness.
    lives: bool,
    /// Of the ladder: the only children that we have. They carry the mark, so that they count as the tree's.
    commands: Commands,
    calm: Calm,
    /// When to look for a witness, where there is none, and the pause after it.
    look: (u64, u64),
    /// When to walk for late comers once more, and the pause after it.
    mark: Option<(u64, u64)>,
}

/// Takes a process and its tree over.
///
/// # Errors
///
/// Nothing was changed then.
pub(crate) fn begin<'a>(
    vectors: Vectors,
    config: &'a Config<'static>,
    target: (i32, Option<u64>),
    report: Report<'a>,
) -> Result<Attached<'a>, Failed> {
    let at = |errno| (Stage::Attach, errno);
    let shim = rustix::process::getpid();
    let tag = Tag { run: config.run, worker: config.worker };
    // What the VM has, its other children have too. A shim without an owner has what it inherited.
    let whose = config.owner.and_then(|(pid, _)| Pid::from_raw(pid)).unwrap_or(shim);
    let inherited = sys::locks_limits(whose).or_else(|_| sys::locks_limits(shim)).map_err(at)?;
    let marker = Marker { tag, inherited };
    let mark = prepare::mark(config);
    let _ = rustix::process::setsid();
    let signals = sys::signal_fd(u64::MAX).map_err(at)?;
    // Without it nobody of the tree could be found, or known for what he is.
    let proc = Proc::open(shim).ok_or(at(Errno::NOENT))?;
    let table = proc.table().map_err(at)?;
    let owner = match prepare::owner(config.owner, Some(&proc)) {
        Owner::Watched(fd) => Some(fd),
        Owner::Unwatched => None,
        Owner::Gone => return Err((Stage::OwnerGone, Errno::SRCH)),
    };
    let mut watched = Watched::new(signals, config, owner);
    if watched.let_go_within(0) {
        return Err((Stage::OwnerGone, Errno::PIPE));
    }
    mark.required().map_err(at)?;
    let Target { pid, fd, pgrp } = Target::open(target, &proc).map_err(at)?;
    // From here on there is something to undo, and so to supervise.
    match marking::mark(pid, fd.as_fd(), marker) {
        Marking::Done | Marking::Before => {}
        Marking::Others => return Err(at(Errno::BUSY)),
        Marking::Gone => return Err(at(Errno::SRCH)),
        Marking::Never(errno) => return Err(at(errno)),
    }
    let flags = u8::from(watched.owner.is_some()) << 1 | u8::from(watched.leash.is_some()) << 2;
    report.ready(shim.as_raw_pid(), 0, 0, flags);
    let (marked, unmarked) = mark_tree(&proc, (pid, fd.as_fd()), marker);
    report.attached(pid.as_raw_pid(), marked, unmarked);
    run::let_go_of_streams(config);
    let _ = rustix::process::chdir(c"/");

    watched.witness = Some(fd);
    let mut climb = Climb::new(config, vectors, report);
    climb.ladder.started();
    Ok(Attached {
        climb,
        watched,
        proc,
        table,
        marker,
        pid,
        pgrp,
        lives: true,
        commands: Commands::new(),
        calm: Calm::default(),
        look: (0, LOOK_MS.0),
        mark: Some((sys::now_ms().saturating_add(MARK_MS.0), MARK_MS.0)),
    })
}

/// Marks everybody below, until walks find nobody without: how many have it, and how many cannot.
///
/// Nobody is stopped for it: his parent would be told. So whoever is started and left behind by his parent within a
/// walk is missed. A child whose fork had begun when its parent was marked comes to light later, with the limits of
/// before: hence a second look, and the later ones of [`Attached::mark_again`].
fn mark_tree(proc: &Proc, target: (Pid, BorrowedFd<'_>), marker: Marker) -> (u32, u32) {
    let deadline = sys::now_ms().saturating_add(MARKING_MS);
    let (mut marked, mut calm) = (1u32, false);
    loop {
        let (new, unmarked) = mark_once(proc, target, marker);
        marked = marked.saturating_add(new);
        if (new == 0 && calm) || sys::now_ms() >= deadline {
            return (marked, unmarked);
        }
        calm = new == 0;
        if calm {
            sys::pause_ms(1);
        }
    }
}

/// One walk: who got the mark, and who cannot have it.
fn mark_once(proc: &Proc, target: (Pid, BorrowedFd<'_>), marker: Marker) -> (u32, u32) {
    let (mut new, mut unmarked) = (0u32, 0u32);
    let walked = tree::walk_below(proc, target, Order::ParentsFirst, &mut |met| {
        let Some(fd) = met.pidfd() else { return };
        match marking::mark(met.pid(), fd, marker) {
            Marking::Done => new = new.saturating_add(1),
            Marking::Never(_) => unmarked = unmarked.saturating_add(1),
            Marking::Before | Marking::Others | Marking::Gone => {}
        }
    });
    // Whoever lies deeper than a walk goes is one at least.
    (new, unmarked.saturating_add(u32::from(walked != Walked::All)))
}

impl Attached<'_> {
    /// Supervises until nothing is left; the result is the exit status.
    #[inline(never)]
    pub(crate) fn run(&mut self) -> u8 {
        loop {
            let now = sys::now_ms();
            if self.is_unwitnessed() && now >= self.look.0 {
                self.look_for_witness(now);
            }
            if self.mark.is_some_and(|(at, _)| now >= at) {
                self.mark_again(now);
            }
            let lives = self.lives;
            match climb::next(self, now, lives) {
                Next::Done => {}
                Next::Finish => return self.finish(),
                Next::Wait(until) => {
                    let look = self.is_unwitnessed().then_some(self.look.0);
                    let until =
                        until.into_iter().chain(look).chain(self.mark.map(|(at, _)| at)).min();
                    self.wait(until.map(|until| until.saturating_sub(sys::now_ms())));
                }
            }
        }
    }

    /// A fork takes its time on a machine under load.
    fn mark_again(&mut self, now: u64) {
        self.mark = match (self.leader(), self.mark) {
            (Some(leader), Some((_, pause))) => {
                mark_once(&self.proc, (self.pid, leader), self.marker);
                Some(pause.saturating_mul(4))
                    .filter(|&pause| pause <= MARK_MS.1)
                    .map(|pause| (now.saturating_add(pause), pause))
            }
            _ => None,
        };
    }

    /// Nobody is known to live.
    fn is_unwitnessed(&self) -> bool {
        self.watched.witness.is_none()
    }

    fn bearers(&self) -> Bearers<'_, impl Fn(leash_tag::Mark) -> bool + use<>> {
        let tag = self.marker.tag;
        Bearers { proc: &self.proc, table: &self.table, wanted: move |mark| tag.is_on(mark) }
    }

    // What happens

    fn wait(&mut self, ms: Option<u64>) {
        let woken = self.watched.wait(ms);
        if woken.signals {
            for (number, _, sender) in self.watched.take_signals() {
                self.signalled(number, sender);
            }
            self.reap_commands();
        }
        if woken.asked {
            while let Some(what) = self.watched.take_asked() {
                self.climb.asked(what);
            }
        }
        // What has ended stays readable and would wake us for ever.
        if woken.leash {
            self.watched.leash = None;
            self.climb.ladder.end(Cause::Leash, sys::now_ms());
        }
        if woken.owner {
            self.watched.owner = None;
            self.climb.ladder.end(Cause::Owner, sys::now_ms());
        }
        if woken.witness {
            self.watched.witness = None;
            if core::mem::take(&mut self.lives) {
                self.calm = Calm::default();
                self.climb.report.exited(Ended::UNKNOWN);
                self.climb.ladder.worker_ended(sys::now_ms());
            }
        }
    }

    fn signalled(&mut self, number: u8, sender: u32) {
        let leashed = self.watched.leash.is_some();
        if number != signal::CHLD && self.climb.signalled(number, sender, leashed) && self.lives {
            self.signal_leader(&[number]);
        }
    }

    /// Whoever is found to live is a witness; several passes that find nobody are the proof.
    fn look_for_witness(&mut self, now: u64) {
        let mut witness = None;
        let pass = self.bearers().pass(&mut |_, _, fd| witness = Some(fd));
        self.watched.witness = witness;
        let (_, pause) = self.look;
        self.look = if pass.living > 0 || pass.hole {
            (now.saturating_add(pause), pause.saturating_mul(2).min(LOOK_MS.1))
        } else {
            (now.saturating_add(LOOK_MS.0), LOOK_MS.0)
        };
        self.note(pass);
    }

    fn note(&mut self, pass: Pass) {
        if self.calm.proven(pass) && !self.lives && self.is_unwitnessed() {
            self.climb.ladder.gone();
        }
    }

    // What is done

    fn reap_commands(&mut self) {
        self.commands.reap_all();
        climb::commands_ended(self, false);
    }

    fn leader(&self) -> Option<BorrowedFd<'_>> {
        let fd = self.watched.witness.as_ref().filter(|_| self.lives)?.as_fd();
        (!tree::ended(fd)).then_some(fd)
    }

    fn signal_leader(&self, signals: &[u8]) {
        if let Some(fd) = self.leader() {
            send(fd, signals);
        }
    }

    /// Signals everybody of the tree, or of a process group in it, each of them once: who is below the process and
    /// has no mark, whoever has the mark, and the process itself, should it have shed it.
    ///
    /// Never by the group's number, which is not ours to keep from being used again.
    fn everybody(&self, order: Order, group: Option<i32>, signals: &[u8]) -> Pass {
        let bearers = self.bearers();
        if let Some(leader) = self.leader() {
            tree::walk_below(&self.proc, (self.pid, leader), order, &mut |met: &Met<'_>| {
                let bears = self
                    .proc
                    .locks_limits(met.pid())
                    .is_ok_and(|limits| bearers.includes(limits));
                let addressed = group.is_none_or(|group| {
                    met.stat(&self.proc).is_some_and(|stat| stat.pgrp == group)
                });
                if let Some(fd) = met.pidfd().filter(|_| addressed && !bears) {
                    send(fd, signals);
                }
            });
        }
        let mut told = false;
        let pass = bearers.pass(&mut |pid, _, fd| {
            told |= self.lives && pid == self.pid;
            if group.is_none_or(|group| self.is_in(group, pid, fd.as_fd())) {
                send(fd.as_fd(), signals);
            }
        });
        if !told {
            self.signal_leader(signals);
        }
        pass
    }

    fn is_in(&self, group: i32, pid: Pid, fd: BorrowedFd<'_>) -> bool {
        self.proc.stat(pid).is_ok_and(|stat| stat.pgrp == group) && !tree::ended(fd)
    }

    /// Ends whoever is below without the mark, and says whether nobody of them is left.
    ///
    /// Once his parent is gone nobody knows any more whose he is. So none of them may start another while they are
    /// killed, and the process itself goes last: all of them are stopped first, and killed when they are seen
    /// stopped, which most often is in the next pass.
    fn has_ended_the_unmarked(&self) -> bool {
        let Some(leader) = self.leader() else { return true };
        let bearers = self.bearers();
        let bears =
            |pid| self.proc.locks_limits(pid).is_ok_and(|limits| bearers.includes(limits));
        let (mut left, mut runs) = (false, false);
        if !bears(self.pid) {
            runs = !self.is_halted(self.pid);
            send(leader, &[signal::STOP]);
        }
        tree::walk_below(&self.proc, (self.pid, leader), Order::ParentsFirst, &mut |met| {
            if !bears(met.pid()) && tree::threads(&self.proc, met.pid()) != Threads::Ended {
                left = true;
                runs |= !self.is_halted(met.pid());
                met.signal(signal::STOP);
            }
        });
        if left && !runs {
            tree::walk_below(&self.proc, (self.pid, leader), Order::ChildrenFirst, &mut |met| {
                if !bears(met.pid()) {
                    met.signal(signal::KILL);
                }
            });
        }
        !left && !runs
    }

    /// Each of its threads by itself: one of them may still be in the middle of a fork.
    fn is_halted(&self, pid: Pid) -> bool {
        tree::threads(&self.proc, pid) != Threads::Run
    }

    fn finish(&mut self) -> u8 {
        self.reap_commands();
        self.climb.gone(Ended::UNKNOWN, false);
        0
    }
}

impl<'a> climb::Tree<'a> for Attached<'a> {
    fn climb(&mut self) -> &mut Climb<'a> {
        &mut self.climb
    }

    fn commands(&mut self) -> &mut Commands {
        &mut self.commands
    }

    fn address(&mut self, number: u8, to: To) {
        let signals = [number, signal::CONT];
        match to {
            To::Leader => self.signal_leader(&signals),
            To::Tree => {
                self.everybody(Order::ChildrenFirst, None, &signals);
            }
            To::Group => {
                // It may have made itself another since.
                if let Some(stat) =
                    self.proc.stat(self.pid).ok().filter(|_| self.leader().is_some())
                {
                    self.pgrp = stat.pgrp;
                }
                self.everybody(Order::ChildrenFirst, Some(self.pgrp), &signals);
            }
        }
    }

    fn widen(&mut self, number: u8, to: To) {
        let mut addressed_live = false;
        if to == To::Group {
            self.bearers()
                .pass(&mut |pid, _, fd| addressed_live |= self.is_in(self.pgrp, pid, fd.as_fd()));
        }
        if !addressed_live {
            self.everybody(Order::ChildrenFirst, None, &[number, signal::CONT]);
            self.climb.ladder.widened();
        }
    }

    fn kill_pass(&mut self, stop_first: bool) {
        if self.climb.ladder.passes() < PATIENT_PASSES && !self.has_ended_the_unmarked() {
            return;
        }
        if stop_first {
            self.everybody(Order::ParentsFirst, None, &[signal::STOP]);
        }
        let pass = self.everybody(Order::ChildrenFirst, None, &[signal::KILL]);
        self.note(pass);
    }
}
