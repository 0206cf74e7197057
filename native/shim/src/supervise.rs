//! Waiting for the tree's end, and bringing it about.
//!
//! ```text
//! launching ─exec─▶ running ─worker exits─▶ lingering ─┐
//!     │               │                      │ linger   │ ECHILD
//!     └──── hang-up, owner's end, signal ────┤ over     ▼
//!                                            ▼        gone
//!                          step 0 ▶ step 1 ▶ … ▶ killing ─▲
//! ```
//!
//! The only proof of "gone" is that `waitid` says ECHILD: every orphan of the tree is reparented to this
//! process, the subreaper. The worker itself is left a zombie until nobody else is left, because while it is
//! not reaped the number of its process group cannot become somebody else's.

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, WaitOptions};

use crate::args::{Config, MAX_STEPS, Step, To};
use crate::descendants::{self, Inherited, Met, WALL};
use crate::report::{Ended, Report};
use crate::sys::{self, signal};

/// Children reaped in one go at most: against a fork bomb "until none is left" may never end.
const REAP_BOUND: usize = 256;

/// Passes of SIGKILL after which everything is stopped first, so that nothing can fork in between.
const STOP_FIRST_AFTER: u32 = 10;

/// Waits between two passes of SIGKILL, growing to the last.
const PASS_MS: [u64; 5] = [1, 2, 5, 10, 20];

/// Between two looks at who of those addressed by a step still lives.
const LOOK_MS: u64 = 2;

/// Why the tree is ended (PROTOCOL.md, section 2).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    Exited = 0,
    Leash = 1,
    Owner = 2,
    Stop = 3,
    Kill = 4,
    StartFailed = 5,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Launching,
    Running,
    Lingering { until: u64 },
    Step { index: u8, until: Option<u64>, widened: bool, look_at: u64 },
    Killing { pass: u32, next_at: u64 },
    Gone,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Leader {
    Lives,
    Zombie(Ended),
    Reaped(Ended),
}

/// The index that reports give the final SIGKILL phase.
const FINAL: u8 = 255;
const NO_STEP: u8 = 254;

/// What wakes the shim.
pub(crate) struct Watched {
    pub(crate) signals: OwnedFd,
    pub(crate) leash: Option<BorrowedFd<'static>>,
    pub(crate) owner: Option<OwnedFd>,
    /// The child's end of it closes at exec; bytes say why exec was not reached.
    pub(crate) exec: Option<OwnedFd>,
}

/// One tree.
pub(crate) struct Supervisor<'a> {
    config: &'a Config<'a>,
    report: Report<'a>,
    watched: Watched,
    inherited: Inherited,
    pid: Pid,
    leader: Leader,
    phase: Phase,
    cause: Cause,
    began: Option<u64>,
    asked: bool,
    /// Processes reaped in each step, the last place is for the final phase.
    reaped: [u32; MAX_STEPS + 1],
    taken: [bool; MAX_STEPS + 1],
    passes: u32,
    last: u8,
    /// Whether the kernel lists our children; without that the leader cannot be spared while others are
    /// reaped.
    listed: bool,
}

impl<'a> Supervisor<'a> {
    pub(crate) fn new(
        config: &'a Config<'a>,
        report: Report<'a>,
        watched: Watched,
        inherited: Inherited,
        pid: Pid,
    ) -> Self {
        Self {
            config,
            report,
            watched,
            inherited,
            pid,
            leader: Leader::Lives,
            phase: Phase::Launching,
            cause: Cause::Exited,
            began: None,
            asked: false,
            reaped: [0; MAX_STEPS + 1],
            taken: [false; MAX_STEPS + 1],
            passes: 0,
            last: NO_STEP,
            listed: true,
        }
    }

    /// Supervises until nothing is left; the result is the exit status.
    pub(crate) fn run(&mut self) -> u8 {
        loop {
            self.reap();
            self.proceed();
            if self.phase == Phase::Gone {
                return self.finish();
            }
            self.wait();
        }
    }

    // Waiting

    fn wait(&mut self) {
        let Watched { signals, leash, owner, exec } = &self.watched;
        let mut fds = [
            PollFd::new(signals, PollFlags::IN),
            // poll(2) cannot leave a place out, so what is not watched is the signals once more.
            exec.as_ref().map_or(PollFd::new(signals, PollFlags::IN), |fd| PollFd::new(fd, PollFlags::IN)),
            leash
                .as_ref()
                .map_or(PollFd::new(signals, PollFlags::IN), |fd| PollFd::new(fd, PollFlags::empty())),
            owner.as_ref().map_or(PollFd::new(signals, PollFlags::IN), |fd| PollFd::new(fd, PollFlags::IN)),
        ];
        let timeout = self.timeout().map(|ms| Timespec {
            tv_sec: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(ms % 1000).unwrap_or(0) * 1_000_000,
        });
        let _ = rustix::event::poll(&mut fds, timeout.as_ref());
        let [signalled, executed, hung_up, ended] = fds.map(|fd| !fd.revents().is_empty());

        if signalled {
            self.take_signals();
        }
        if executed && self.watched.exec.is_some() {
            self.take_exec();
        }
        if hung_up && self.watched.leash.is_some() && self.let_go_of_leash() {
            self.end(Cause::Leash);
        }
        if ended && self.owner_ended() {
            self.watched.owner = None;
            if !self.config.detach {
                self.end(Cause::Owner);
            }
        }
    }

    /// A place in the poll set that stands for the signals must not be taken for the leash.
    fn let_go_of_leash(&mut self) -> bool {
        let Some(leash) = self.watched.leash else { return false };
        let mut fd = [PollFd::new(&leash, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let _ = rustix::event::poll(&mut fd, Some(&now));
        let gone = fd.iter().any(|fd| !fd.revents().is_empty());
        if gone {
            self.watched.leash = None;
        }
        gone && !self.config.detach
    }

    fn owner_ended(&self) -> bool {
        self.watched.owner.as_ref().is_some_and(|owner| {
            let mut fd = [PollFd::new(owner, PollFlags::IN)];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            matches!(rustix::event::poll(&mut fd, Some(&now)), Ok(1..))
        })
    }

    fn timeout(&self) -> Option<u64> {
        let now = sys::now_ms();
        let at = match self.phase {
            Phase::Launching | Phase::Running => return None,
            Phase::Gone => now,
            Phase::Lingering { until } => until,
            Phase::Killing { next_at, .. } => next_at,
            Phase::Step { until, widened, look_at, .. } => {
                let look = (!widened && self.leader != Leader::Lives).then_some(look_at);
                match (until, look) {
                    (Some(until), Some(look)) => until.min(look),
                    (Some(until), None) => until,
                    (None, Some(look)) => look,
                    (None, None) => return None,
                }
            }
        };
        Some(at.saturating_sub(now))
    }

    fn take_signals(&mut self) {
        let mut buffer = [0u8; 128 * 8];
        while let Ok(len @ 1..) = rustix::io::read(&self.watched.signals, &mut buffer) {
            for info in buffer.get(..len).unwrap_or_default().chunks_exact(128) {
                // struct signalfd_siginfo: ssi_signo at 0, ssi_pid at 12 (signalfd(2)).
                if let (Some(&number), Some(sender)) = (info.first(), info.get(12..16)) {
                    let sender = sender.try_into().map_or(0, u32::from_ne_bytes);
                    self.signalled(number, sender);
                }
            }
        }
    }

    fn signalled(&mut self, number: u8, sender: u32) {
        match number {
            signal::CHLD => {}
            signal::QUIT => self.kill_now(),
            signal::TERM
                if sender <= 1 && self.watched.leash.is_some() && !self.config.ladder_on_any_term =>
            {
                // Everybody was signalled at once (systemd, container runtimes): the VM is draining and
                // still needs its workers; if it dies, the leash says so.
            }
            signal::TERM | signal::HUP | signal::INT => {
                if core::mem::replace(&mut self.asked, true) {
                    self.kill_now();
                } else {
                    self.end(Cause::Stop);
                }
            }
            other if self.config.leash.is_none() && self.leader == Leader::Lives => {
                let _ = sys::kill(self.pid, other);
            }
            _ => {}
        }
    }

    fn take_exec(&mut self) {
        let mut message = [0u8; 3];
        let len = self.watched.exec.as_ref().map_or(Ok(0), |fd| rustix::io::read(fd, &mut message));
        match (len, message) {
            (Ok(0), _) => {
                self.report.started(self.pid.as_raw_pid());
                if self.phase == Phase::Launching {
                    self.phase = Phase::Running;
                }
            }
            (Ok(_), [stage, high, low]) => {
                let errno = u16::from_be_bytes([high, low]);
                self.report.start_failed(stage, errno);
                self.say_failure(errno);
                self.cause = Cause::StartFailed;
            }
            (Err(Errno::INTR | Errno::AGAIN), _) => return,
            (Err(_), _) => {}
        }
        self.watched.exec = None;
    }

    /// By hand there is nobody to read a report.
    fn say_failure(&self, errno: u16) {
        if self.config.report.is_some() {
            return;
        }
        let why: &[u8] = match errno {
            2 => b"not found",
            13 => b"permission denied",
            _ => b"cannot be executed",
        };
        for part in [b"leash-shim: ", self.config.command.to_bytes(), b": ", why, b"\n"] {
            let _ = rustix::io::write(sys::borrow(2), part);
        }
    }

    // Reaping

    fn reap(&mut self) {
        self.look_at_leader();
        if self.listed {
            self.listed = self.reap_others();
        }
        if !self.listed {
            self.reap_any();
        }
    }

    /// Takes notice of the worker's end without reaping it.
    fn look_at_leader(&mut self) {
        if self.leader != Leader::Lives {
            return;
        }
        let options = WaitIdOptions::EXITED
            | WaitIdOptions::NOHANG
            | WaitIdOptions::NOWAIT
            | WaitIdOptions::from_bits_retain(WALL);
        if let Ok(Some(status)) = rustix::process::waitid(WaitId::Pid(self.pid), options) {
            let signal = |signal: i32| u8::try_from(signal).unwrap_or(0);
            let ended = if let Some(code) = status.exit_status() {
                Ended { how: Ended::EXITED, value: (code & 0xff) as u8 }
            } else {
                let value = signal(status.terminating_signal().unwrap_or(0));
                Ended { how: if status.dumped() { Ended::DUMPED } else { Ended::KILLED }, value }
            };
            self.leader_ended(ended);
            self.leader = Leader::Zombie(ended);
        }
    }

    fn leader_ended(&mut self, ended: Ended) {
        // A program that ends at once can be noticed before its exec was.
        if self.watched.exec.is_some() {
            self.take_exec();
        }
        if self.cause != Cause::StartFailed {
            self.report.exited(ended);
        }
        if matches!(self.phase, Phase::Launching | Phase::Running) {
            self.phase = Phase::Lingering { until: sys::now_ms() + u64::from(self.config.linger) };
        }
    }

    /// Reaps everybody but the leader, and the leader when it is the last; says whether the kernel lists
    /// children.
    fn reap_others(&mut self) -> bool {
        let options = WaitOptions::NOHANG | WaitOptions::from_bits_retain(WALL);
        let leader = self.pid;
        let (mut reaped, mut others) = (0usize, false);
        let listed = descendants::each_child(&self.inherited, &mut |pid| {
            if pid == leader {
                return;
            }
            let gone =
                reaped < REAP_BOUND && matches!(rustix::process::waitpid(Some(pid), options), Ok(Some(_)));
            if gone {
                reaped += 1;
            } else {
                others = true;
            }
        });
        self.count(reaped);
        if !listed {
            return false;
        }
        if let (Leader::Zombie(ended), false) = (self.leader, others) {
            if let Ok(Some(_)) = rustix::process::waitpid(Some(leader), options) {
                self.count(1);
            }
            self.leader = Leader::Reaped(ended);
        }
        if let (Leader::Reaped(_), false) = (self.leader, others) {
            self.prove_gone();
        }
        true
    }

    /// Without a list of children (no `/proc`, no CONFIG_PROC_CHILDREN) whoever has ended is reaped, the leader too.
    fn reap_any(&mut self) {
        let options = WaitOptions::NOHANG | WaitOptions::from_bits_retain(WALL);
        for _ in 0..REAP_BOUND {
            match rustix::process::wait(options) {
                Ok(Some((pid, status))) => {
                    self.count(1);
                    if pid == self.pid {
                        let ended = Ended::from_wait(status.as_raw());
                        if self.leader == Leader::Lives {
                            self.leader_ended(ended);
                        }
                        self.leader = Leader::Reaped(ended);
                    }
                }
                Ok(None) => return,
                Err(Errno::CHILD) => {
                    self.phase = Phase::Gone;
                    return;
                }
                Err(_) => return,
            }
        }
    }

    /// The list was empty; only `waitid` proves it. Children that somebody else left us do not count.
    fn prove_gone(&mut self) {
        let options = WaitIdOptions::EXITED
            | WaitIdOptions::NOHANG
            | WaitIdOptions::NOWAIT
            | WaitIdOptions::from_bits_retain(WALL);
        let all = rustix::process::waitid(WaitId::All, options);
        if matches!(all, Err(Errno::CHILD)) || !self.inherited.is_empty() {
            self.phase = Phase::Gone;
        }
    }

    fn count(&mut self, reaped: usize) {
        let place = match self.phase {
            Phase::Step { index, .. } => usize::from(index),
            Phase::Killing { .. } => MAX_STEPS,
            _ => return,
        };
        if let Some(count) = self.reaped.get_mut(place) {
            *count = count.saturating_add(u32::try_from(reaped).unwrap_or(u32::MAX));
        }
    }

    // Ending

    fn proceed(&mut self) {
        let now = sys::now_ms();
        match self.phase {
            Phase::Lingering { until } if now >= until => self.end(Cause::Exited),
            Phase::Step { index, until: Some(until), .. } if now >= until => self.step(index + 1),
            Phase::Step { widened: false, look_at, .. } if now >= look_at && self.leader != Leader::Lives => {
                self.widen(now);
            }
            Phase::Killing { next_at, .. } if now >= next_at => self.kill_pass(),
            _ => {}
        }
    }

    fn end(&mut self, cause: Cause) {
        if self.began.is_some() || self.phase == Phase::Gone {
            return;
        }
        self.began = Some(sys::now_ms());
        if self.cause != Cause::StartFailed {
            self.cause = cause;
        }
        self.step(0);
    }

    fn kill_now(&mut self) {
        if matches!(self.phase, Phase::Killing { .. } | Phase::Gone) {
            return;
        }
        self.began = self.began.or(Some(sys::now_ms()));
        self.cause = Cause::Kill;
        self.begin_killing();
    }

    fn elapsed(&self) -> u64 {
        self.began.map_or(0, |began| sys::now_ms().saturating_sub(began))
    }

    fn step(&mut self, index: u8) {
        let Some(step) = self.config.stop.get(usize::from(index)) else {
            self.begin_killing();
            return;
        };
        if step.signal == signal::KILL && step.wait == Some(0) {
            self.begin_killing();
            return;
        }
        let now = sys::now_ms();
        self.take(index, usize::from(index), step.signal);
        self.phase = Phase::Step {
            index,
            until: step.wait.map(|ms| now + u64::from(ms)),
            widened: step.to == To::Tree,
            look_at: now,
        };
        self.address(step);
    }

    fn take(&mut self, index: u8, place: usize, signal: u8) {
        self.last = index;
        if let Some(taken) = self.taken.get_mut(place) {
            *taken = true;
        }
        self.report.step(self.cause as u8, index, signal, self.elapsed());
    }

    /// Signals those whom a step addresses; each signal is followed by CONT, so that a stopped process can
    /// heed it.
    fn address(&self, step: Step) {
        let unreaped = !matches!(self.leader, Leader::Reaped(_));
        match step.to {
            To::Leader if unreaped => {
                let _ = sys::kill(self.pid, step.signal);
                let _ = sys::kill(self.pid, signal::CONT);
            }
            To::Group if unreaped => {
                // Before its setsid the child is in our group and leads none.
                if sys::kill_group(self.pid, step.signal).is_err() {
                    let _ = sys::kill(self.pid, step.signal);
                }
                if sys::kill_group(self.pid, signal::CONT).is_err() {
                    let _ = sys::kill(self.pid, signal::CONT);
                }
            }
            To::Leader | To::Group => {}
            To::Tree => self.signal_tree(step.signal),
        }
    }

    fn signal_tree(&self, number: u8) {
        let mut visit = |met: &Met<'_>| {
            met.signal(number);
            met.signal(signal::CONT);
        };
        if !descendants::walk(&self.inherited, &mut visit) {
            descendants::each_child_by_number(&mut |pid| {
                let _ = sys::kill(pid, number);
                let _ = sys::kill(pid, signal::CONT);
            });
        }
    }

    /// Once none of those addressed lives, whoever lives on gets the step's signal too: a daemon that left the
    /// group would otherwise be waited for without ever having been told.
    fn widen(&mut self, now: u64) {
        let Phase::Step { index, until, .. } = self.phase else { return };
        let Some(step) = self.config.stop.get(usize::from(index)) else { return };
        let group = self.pid.as_raw_pid();
        let mut addressed_live = false;
        if step.to == To::Group {
            descendants::walk(&self.inherited, &mut |met| {
                addressed_live |= met.stat.pgrp == group && met.stat.lives();
            });
        }
        if !addressed_live {
            self.signal_tree(step.signal);
        }
        self.phase = Phase::Step { index, until, widened: !addressed_live, look_at: now + LOOK_MS };
    }

    fn begin_killing(&mut self) {
        self.take(FINAL, MAX_STEPS, signal::KILL);
        self.phase = Phase::Killing { pass: 0, next_at: 0 };
        self.kill_pass();
    }

    fn kill_pass(&mut self) {
        let Phase::Killing { pass, .. } = self.phase else { return };
        if !matches!(self.leader, Leader::Reaped(_)) {
            let _ = sys::kill_group(self.pid, signal::KILL);
            let _ = sys::kill(self.pid, signal::KILL);
        }
        let send = |number: u8| descendants::walk(&self.inherited, &mut |met: &Met<'_>| met.signal(number));
        if pass >= STOP_FIRST_AFTER {
            send(signal::STOP);
        }
        if !send(signal::KILL) {
            descendants::each_child_by_number(&mut |pid| {
                let _ = sys::kill(pid, signal::KILL);
            });
        }
        self.passes = self.passes.saturating_add(1);
        let wait = PASS_MS.get(pass as usize).or(PASS_MS.last()).copied().unwrap_or(20);
        self.phase = Phase::Killing { pass: pass.saturating_add(1), next_at: sys::now_ms() + wait };
    }

    fn finish(&self) -> u8 {
        let ended = match self.leader {
            Leader::Zombie(ended) | Leader::Reaped(ended) => ended,
            // ECHILD with a leader that never was ours to wait for cannot happen; say "killed" if it does.
            Leader::Lives => Ended { how: Ended::KILLED, value: signal::KILL },
        };
        let steps = (0..=MAX_STEPS).filter_map(|place| {
            if !self.taken.get(place).copied().unwrap_or(false) {
                return None;
            }
            let (index, number) = if place == MAX_STEPS {
                (FINAL, signal::KILL)
            } else {
                (u8::try_from(place).ok()?, self.config.stop.get(place)?.signal)
            };
            Some((index, number, self.reaped.get(place).copied().unwrap_or(0)))
        });
        self.report.gone(ended, self.cause as u8, self.last, self.elapsed(), self.passes, steps);
        if self.config.foreground {
            let _ = rustix::termios::tcsetpgrp(sys::borrow(0), rustix::process::getpgrp());
        }
        ended.exit_status()
    }
}
