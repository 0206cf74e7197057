//! A process that this shim did not start, and its tree. The shim watches the tree, and ends it
//! by the same ladder.
//!
//! The process is no child of the shim, so nothing here is reaped and no `ECHILD` proves
//! anything. A process belongs to the tree if it carries the mark, or if it is below the attached
//! process while that lives. The shim marks the processes that are there at the start, and all
//! later ones inherit the mark. The tree is gone when the pidfd of the attached process says so
//! and passes over all processes find no process with the mark.
//!
//! While the attached process lives, its pidfd is all that the shim needs. After its end, a
//! living process with the mark is the witness that there is a tree. The shim makes a pass when
//! the witness ends. So it looks at nothing while nothing happens.

use leash_tag::signal;
use leash_tag::stop_steps::SignalScope;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::Pid;

use super::events::EventSources;
use super::target::AttachTarget;
use crate::cli::config::Config;
use crate::os::exit_status::ExitStatus;
use crate::os::proc_file::Proc;
use crate::os::signals::{self, Pending};
use crate::os::vectors::Vectors;
use crate::os::{clock, mark_limits, pidfd, process};
use crate::out::report::Report;
use crate::out::stage::{Failed, Stage};
use crate::start::prepare;
use crate::stop::escalation::Escalation;
use crate::stop::ladder::Action;
use crate::tree::mark_scan::{MarkScan, Pass, PidSource, ScanProof};
use crate::tree::marking::{self, MarkOutcome, Marker, TreeTag};
use crate::tree::threads::{Threads, threads};
use crate::tree::walk::{self, Order, Visited, Walked};

/// Pauses between two passes that find a new witness each time: doubled from the first value to
/// the last.
const LOOK_MS: (u64, u64) = (1, 32);

/// The longest time in which the shim marks the processes that are there. A tree that grows
/// faster is not followed for ever.
const MARKING_MS: u64 = 2_000;

/// Pauses between the later walks for unmarked processes: each is four times the one before, from
/// the first value to the last.
const MARK_MS: (u64, u64) = (4, 1_024);

/// Passes of SIGKILL that wait until the processes without the mark are stopped, and then gone.
/// Some can be neither.
const PATIENT_PASSES: u32 = 20;

/// The supervisor of one attached tree.
pub(crate) struct Attached<'a> {
    escalation: Escalation<'a>,
    sources: EventSources,
    proc: Proc,
    /// The listing of `/proc`.
    table: OwnedFd,
    marker: Marker,
    pid: Pid,
    /// The last known process group of the attached process.
    pgrp: i32,
    /// The attached process has not ended, and is the witness.
    lives: bool,
    /// The passes so far that found no process of the tree.
    proof: ScanProof,
    /// The time of the next look for a witness, if there is none, and the pause after it.
    look: (u64, u64),
    /// The time of the next walk for late comers, and the pause after it.
    mark: Option<(u64, u64)>,
}

/// Takes over a process and its tree.
///
/// # Errors
///
/// The stage and errno of the failure; nothing was changed.
pub(crate) fn begin<'a>(
    vectors: Vectors,
    config: &'a Config<'static>,
    target: (i32, Option<u64>),
    report: Report<'a>,
) -> Result<Attached<'a>, Failed> {
    let at = |errno| (Stage::Attach, errno);
    let shim = process::own_pid();
    let tag = TreeTag { run: config.run, worker: config.worker };
    // Everything that the VM inherited, its other children inherit too. A shim without an owner
    // compares with its own limits.
    let whose = config.owner.and_then(|(pid, _)| Pid::from_raw(pid)).unwrap_or(shim);
    let inherited = mark_limits::read(whose).or_else(|_| mark_limits::read(shim)).map_err(at)?;
    let marker = Marker { tag, inherited };
    let mark = prepare::mark(config);
    let _ = rustix::process::setsid();
    let signals = signals::signal_fd(u64::MAX).map_err(at)?;
    // Without `/proc`, no process of the tree can be found or identified.
    let proc = Proc::open(shim).ok_or(at(Errno::NOENT))?;
    let table = proc.table().map_err(at)?;
    let owner =
        prepare::owner(config.owner, Some(&proc)).map_err(|errno| (Stage::OwnerGone, errno))?;
    let mut sources = EventSources::new(signals, config, owner);
    if sources.let_go_within(0) {
        return Err((Stage::OwnerGone, Errno::PIPE));
    }
    mark.required().map_err(at)?;
    let AttachTarget { pid, fd, pgrp } = AttachTarget::open(target, &proc).map_err(at)?;
    // From here on there is something to undo, and so to supervise.
    match marking::mark(pid, fd.as_fd(), marker) {
        MarkOutcome::Marked | MarkOutcome::AlreadyMarked => {}
        MarkOutcome::OtherMark => return Err(at(Errno::BUSY)),
        MarkOutcome::Ended => return Err(at(Errno::SRCH)),
        MarkOutcome::Unmarkable(errno) => return Err(at(errno)),
    }
    report.ready(shim, mark.code, mark.errno, sources.flags(false));
    let (marked, unmarked) = mark_tree(&proc, (pid, fd.as_fd()), marker);
    report.attached(pid, marked, unmarked);
    prepare::let_go_of_streams(config);
    let _ = rustix::process::chdir(c"/");

    sources.witness = Some(fd);
    let mut escalation = Escalation::new(config, vectors, report);
    escalation.ladder.started();
    Ok(Attached {
        escalation,
        sources,
        proc,
        table,
        marker,
        pid,
        pgrp,
        lives: true,
        proof: ScanProof::default(),
        look: (0, LOOK_MS.0),
        mark: Some((clock::now_ms().saturating_add(MARK_MS.0), MARK_MS.0)),
    })
}

/// Marks all processes below the attached one, until walks find none without the mark. Returns
/// how many have the mark, and how many cannot have it.
///
/// The shim stops no process for this, since its parent would be told. So a process is missed if
/// it is started and loses its parent within one walk. If the fork of a child had begun when its
/// parent was marked, the child shows up later, with the old limits. Hence the second look, and
/// the later ones of [`Attached::mark_again`].
fn mark_tree(proc: &Proc, target: (Pid, BorrowedFd<'_>), marker: Marker) -> (u32, u32) {
    let deadline = clock::now_ms().saturating_add(MARKING_MS);
    let (mut marked, mut is_quiet) = (1u32, false);
    loop {
        let (new, unmarked) = mark_once(proc, target, marker);
        marked = marked.saturating_add(new);
        if (new == 0 && is_quiet) || clock::now_ms() >= deadline {
            return (marked, unmarked);
        }
        is_quiet = new == 0;
        if is_quiet {
            clock::pause_ms(1);
        }
    }
}

/// Makes one walk. Returns how many processes got the mark, and how many cannot have it.
fn mark_once(proc: &Proc, target: (Pid, BorrowedFd<'_>), marker: Marker) -> (u32, u32) {
    let (mut new, mut unmarked) = (0u32, 0u32);
    let walked = walk::walk_below(proc, target, Order::ParentsFirst, &mut |visited| {
        let Some(fd) = visited.pidfd() else { return };
        match marking::mark(visited.pid(), fd, marker) {
            MarkOutcome::Marked => new = new.saturating_add(1),
            MarkOutcome::Unmarkable(_) => unmarked = unmarked.saturating_add(1),
            MarkOutcome::AlreadyMarked | MarkOutcome::OtherMark | MarkOutcome::Ended => {}
        }
    });
    // A cut walk counts as one more unmarked process: at least one lies deeper than a walk goes.
    (new, unmarked.saturating_add(u32::from(walked != Walked::All)))
}

impl Attached<'_> {
    /// Supervises until nothing is left. Returns the exit status.
    #[inline(never)]
    pub(crate) fn run(&mut self) -> u8 {
        loop {
            let now = clock::now_ms();
            if self.is_unwitnessed() && now >= self.look.0 {
                self.look_for_witness(now);
            }
            if self.mark.is_some_and(|(at, _)| now >= at) {
                self.mark_again(now);
            }
            let lives = self.lives;
            match self.escalation.next(now, lives) {
                Action::Signal { number, scope, .. } => {
                    self.signal_scope(&[number, signal::CONT], scope);
                }
                Action::SignalRemaining { number, scope } => self.signal_remaining(number, scope),
                // The VM closes the stdin of its own processes, and no others.
                Action::CloseStdin { .. } | Action::RunCommand { .. } => {}
                Action::Kill { stop_first, .. } => self.kill_pass(stop_first),
                Action::Finish => return self.finish(),
                Action::Wait(until) => {
                    let look = self.is_unwitnessed().then_some(self.look.0);
                    let until =
                        until.into_iter().chain(look).chain(self.mark.map(|(at, _)| at)).min();
                    self.wait(until.map(|until| until.saturating_sub(clock::now_ms())));
                }
            }
        }
    }

    /// Walks once more for unmarked processes, since a fork takes long on a machine under load.
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

    /// Returns whether no process of the tree is known to live.
    fn is_unwitnessed(&self) -> bool {
        self.sources.witness.is_none()
    }

    /// Returns the scan for processes with the mark of this tree.
    fn scan(&self) -> MarkScan<'_, impl Fn(leash_tag::Mark) -> bool + use<>> {
        let tag = self.marker.tag;
        MarkScan { proc: &self.proc, table: &self.table, wanted: move |mark| tag.is_on(mark) }
    }

    // Events

    /// Waits for an event, and handles what has happened.
    fn wait(&mut self, ms: Option<u64>) {
        let events = self.sources.wait(ms);
        if events.signals {
            for signal in self.sources.take_signals() {
                self.signalled(signal);
            }
            // The commands are the only children of the shim. They carry the mark, so they count
            // as part of the tree.
            self.escalation.end_commands(false);
        }
        if events.requests {
            while let Some(request) = self.sources.take_request() {
                if let Some((number, scope)) = self.escalation.requested(request) {
                    self.signal_scope(&[number], scope);
                }
            }
        }
        if let Some(cause) = self.sources.drop_ended(events) {
            self.escalation.ladder.end(cause, clock::now_ms());
        }
        if events.witness {
            self.sources.witness = None;
            if core::mem::take(&mut self.lives) {
                self.proof = ScanProof::default();
                self.escalation.report.exited(ExitStatus::UNKNOWN);
                self.escalation.ladder.worker_ended(clock::now_ms());
            }
        }
    }

    /// Handles a signal to the shim. If it is not for the shim, the attached process gets it.
    fn signalled(&mut self, signal: Pending) {
        let leashed = self.sources.leash.is_some();
        if signal.number != signal::CHLD && self.escalation.signalled(signal, leashed) {
            self.signal_leader(&[signal.number]);
        }
    }

    /// Looks for a living process of the tree, which becomes the witness. Several passes that
    /// find none are the proof that the tree is gone.
    fn look_for_witness(&mut self, now: u64) {
        let mut witness = None;
        let pass = self.scan().pass(PidSource::Listing, &mut |_, _, fd| witness = Some(fd));
        self.sources.witness = witness;
        let (_, pause) = self.look;
        self.look = if pass.living > 0 || pass.hole {
            (now.saturating_add(pause), pause.saturating_mul(2).min(LOOK_MS.1))
        } else {
            (now.saturating_add(LOOK_MS.0), LOOK_MS.0)
        };
        self.note(pass);
    }

    /// Takes note of a pass. If it completes the proof, the tree is gone.
    fn note(&mut self, pass: Pass) {
        if self.proof.note(pass) && !self.lives && self.is_unwitnessed() {
            self.escalation.ladder.gone();
        }
    }

    // Actions

    /// Returns the pidfd of the attached process, as long as that lives.
    fn leader(&self) -> Option<BorrowedFd<'_>> {
        let fd = self.sources.witness.as_ref().filter(|_| self.lives)?.as_fd();
        (!pidfd::has_ended(fd)).then_some(fd)
    }

    /// Signals the attached process, if it lives.
    fn signal_leader(&self, signals: &[u8]) {
        if let Some(fd) = self.leader() {
            pidfd::signal_all(fd, signals);
        }
    }

    /// Signals all processes of the tree, or of one process group in it, each of them once.
    ///
    /// These are the unmarked processes below the attached one, and all processes with the mark.
    /// The attached process itself is always among them, even if it shed the mark.
    ///
    /// The signals never go to the group's number, since the shim cannot keep the kernel from
    /// reusing that.
    fn signal_all(&self, order: Order, group: Option<i32>, signals: &[u8]) -> Pass {
        self.each_unmarked(order, &mut |visited| {
            let stat = || visited.stat(&self.proc);
            if group.is_none_or(|group| stat().is_some_and(|stat| stat.pgrp == group)) {
                visited.signal_all(signals);
            }
        });
        let mut told = false;
        let pass = self.scan().pass(PidSource::Listing, &mut |pid, _, fd| {
            told |= self.lives && pid == self.pid;
            if group.is_none_or(|group| self.is_in(group, pid, fd.as_fd())) {
                pidfd::signal_all(fd.as_fd(), signals);
            }
        });
        if !told {
            self.signal_leader(signals);
        }
        pass
    }

    /// Visits the processes below the attached one that do not have the mark.
    fn each_unmarked(&self, order: Order, visit: &mut dyn FnMut(&Visited<'_>)) {
        let Some(leader) = self.leader() else { return };
        walk::walk_below(&self.proc, (self.pid, leader), order, &mut |visited| {
            if !self.is_marked(visited.pid()) {
                visit(visited);
            }
        });
    }

    /// Returns whether a process has the mark of this tree.
    fn is_marked(&self, pid: Pid) -> bool {
        self.proc.locks_limits(pid).is_ok_and(|limits| self.scan().includes(limits))
    }

    /// Returns whether a process lives and is in a process group.
    fn is_in(&self, group: i32, pid: Pid, fd: BorrowedFd<'_>) -> bool {
        self.proc.stat(pid).is_ok_and(|stat| stat.pgrp == group) && !pidfd::has_ended(fd)
    }

    /// Ends the processes below the attached one that have no mark. Returns whether none of them
    /// is left.
    ///
    /// Once the parent of such a process is gone, nothing shows any more that the process belongs
    /// to the tree. So none of them may start another while they are killed, and the attached
    /// process goes last. All of them are stopped first, and killed once they are seen stopped,
    /// which is most often in the next pass.
    fn has_ended_the_unmarked(&self) -> bool {
        let Some(leader) = self.leader() else { return true };
        let (mut left, mut runs) = (false, false);
        if !self.is_marked(self.pid) {
            runs = !self.is_halted(self.pid);
            pidfd::signal_all(leader, &[signal::STOP]);
        }
        self.each_unmarked(Order::ParentsFirst, &mut |visited| {
            if threads(&self.proc, visited.pid()) != Threads::Ended {
                left = true;
                runs |= !self.is_halted(visited.pid());
                visited.signal_all(&[signal::STOP]);
            }
        });
        if left && !runs {
            self.each_unmarked(Order::ChildrenFirst, &mut |visited| {
                visited.signal_all(&[signal::KILL]);
            });
        }
        !left && !runs
    }

    /// Returns whether no thread of a process runs. Each thread is looked at, since one may still
    /// be in the middle of a fork.
    fn is_halted(&self, pid: Pid) -> bool {
        threads(&self.proc, pid) != Threads::Run
    }

    /// Signals the processes of a scope. The signal of a step is followed by CONT, so that a
    /// stopped process can react to it.
    fn signal_scope(&mut self, signals: &[u8], scope: SignalScope) {
        match scope {
            SignalScope::Leader => self.signal_leader(signals),
            SignalScope::Tree => {
                self.signal_all(Order::ChildrenFirst, None, signals);
            }
            SignalScope::Group => {
                // The process may have made a new group since.
                if let Some(stat) =
                    self.proc.stat(self.pid).ok().filter(|_| self.leader().is_some())
                {
                    self.pgrp = stat.pgrp;
                }
                self.signal_all(Order::ChildrenFirst, Some(self.pgrp), signals);
            }
        }
    }

    /// Sends the step's signal to the rest of the tree once none of the addressed processes
    /// lives.
    fn signal_remaining(&mut self, number: u8, scope: SignalScope) {
        let mut addressed_live = false;
        if scope == SignalScope::Group {
            self.scan().pass(PidSource::Listing, &mut |pid, _, fd| {
                addressed_live |= self.is_in(self.pgrp, pid, fd.as_fd())
            });
        }
        if !addressed_live {
            self.signal_all(Order::ChildrenFirst, None, &[number, signal::CONT]);
            self.escalation.ladder.all_signalled();
        }
    }

    /// Sends SIGKILL to the whole tree.
    fn kill_pass(&mut self, stop_first: bool) {
        if self.escalation.ladder.passes() < PATIENT_PASSES && !self.has_ended_the_unmarked() {
            return;
        }
        if stop_first {
            self.signal_all(Order::ParentsFirst, None, &[signal::STOP]);
        }
        let pass = self.signal_all(Order::ChildrenFirst, None, &[signal::KILL]);
        self.note(pass);
    }

    /// Reports the end. How the process ended is known to its parent alone.
    fn finish(&mut self) -> u8 {
        self.escalation.end_commands(false);
        self.escalation.gone(ExitStatus::UNKNOWN, false);
        0
    }
}
