//! The phases of a tree's life as a state machine that makes no system call: it says what is due
//! when.
//!
//! ```text
//! launching ─exec─▶ running ─worker exits─▶ lingering ─┐
//!     │               │                      │ linger   │ ECHILD
//!     └──── hang-up, owner's end, signal ────┤ over     ▼
//!                                            ▼        gone
//!                          step 0 ▶ step 1 ▶ … ▶ killing ─▲
//! ```

use leash_tag::signal;
use leash_tag::stop_steps::{SignalScope, Step, StepKind, Steps};

/// Passes of SIGKILL after which everything is stopped first, so that nothing can fork in
/// between.
pub(crate) const STOP_FIRST_AFTER: u32 = 10;

/// Pauses between two looks at which of the addressed processes still live: doubled from the
/// first value to the last.
const LOOK_MS: (u64, u64) = (2, 32);

/// The reason why the tree is ended (PROTOCOL.md, section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The worker ended by itself.
    Exited = 0,
    /// The leash hung up.
    Leash = 1,
    /// The VM has ended.
    Owner = 2,
    /// A signal or the VM asked for the ladder.
    Stop = 3,
    /// A signal or the VM asked for SIGKILL at once.
    Kill = 4,
    /// The child did not become the worker.
    StartFailed = 5,
    /// The worker ended by itself, and what it left goes on.
    Kept = 6,
}

/// The phase that a tree is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The child has not reached its exec.
    Launching,
    /// The worker runs.
    Running,
    /// The worker has ended, and what it left may end by itself until then.
    Lingering { until: u64 },
    /// A step is on, until then or for ever.
    ///
    /// `look` is the time of the next look at whether the addressed processes are gone, and the
    /// pause after it. It is `None` once all that are left have been told.
    Step { index: u8, until: Option<u64>, look: Option<(u64, u64)> },
    /// SIGKILL goes to everything, in passes.
    Killing { pass: u32, next: u64 },
    /// Nothing is left.
    Gone,
}

/// The next thing that the caller has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing is due before this moment.
    Wait(Option<u64>),
    /// Step `index` begins: signal the processes that it addresses.
    Signal { index: u8, number: u8, scope: SignalScope },
    /// Step `index` begins: start its command. If the command fails, call
    /// [`Ladder::command_failed`].
    RunCommand { index: u8 },
    /// Step `index` begins: tell the VM, which closes the worker's stdin.
    CloseStdin { index: u8 },
    /// Look which of the addressed processes live. If none does, tell the others, then call
    /// [`Ladder::all_signalled`].
    SignalRemaining { number: u8, scope: SignalScope },
    /// Send SIGKILL to the whole tree.
    Kill { first: bool, stop_first: bool },
    /// The tree is gone.
    Finish,
}

/// The ending of one tree.
pub(crate) struct Ladder {
    /// The steps, in order.
    steps: Steps,
    /// The milliseconds between the end of a worker by itself and the first step.
    linger: u64,
    /// The present phase.
    phase: Phase,
    /// The cause, as far as it is known.
    cause: Cause,
    /// The time at which the first step began.
    began: Option<u64>,
    /// TERM, HUP or INT came once.
    stop_was_requested: bool,
    /// The index of the last step that began.
    last: u8,
    /// The number of passes of SIGKILL.
    passes: u32,
    /// The step that the next [`Ladder::next`] announces.
    pending: Option<u8>,
}

impl Ladder {
    /// The index of the final SIGKILL phase in reports.
    pub(crate) const FINAL: u8 = 255;
    /// The index in reports if no step was needed.
    const NO_STEP: u8 = 254;

    /// Returns a ladder for a worker that is being started.
    pub(crate) fn new(steps: Steps, linger: u32) -> Self {
        Self {
            steps,
            linger: u64::from(linger),
            phase: Phase::Launching,
            cause: Cause::Exited,
            began: None,
            stop_was_requested: false,
            last: Self::NO_STEP,
            passes: 0,
            pending: None,
        }
    }

    /// Returns why the tree is ended, or was.
    pub(crate) fn cause(&self) -> Cause {
        self.cause
    }

    /// Returns the index of the last step that began.
    pub(crate) fn last(&self) -> u8 {
        self.last
    }

    /// Returns the number of passes of SIGKILL.
    pub(crate) fn passes(&self) -> u32 {
        self.passes
    }

    /// Returns the milliseconds since the ladder began, 0 if it did not.
    pub(crate) fn elapsed(&self, now: impl FnOnce() -> u64) -> u64 {
        self.began.map_or(0, |began| now().saturating_sub(began))
    }

    /// Returns whether [`Ladder::next`] looks at the time. A plain start and end never does.
    pub(crate) fn is_timed(&self) -> bool {
        !matches!(self.phase, Phase::Launching | Phase::Running | Phase::Gone)
    }

    /// Returns the step in which a process that ends now is counted, [`Ladder::FINAL`] for the
    /// last phase.
    pub(crate) fn current(&self) -> Option<u8> {
        match self.phase {
            Phase::Step { index, .. } => Some(index),
            Phase::Killing { .. } => Some(Self::FINAL),
            _ => None,
        }
    }

    // Events

    /// Records that the worker has been executed.
    pub(crate) fn started(&mut self) {
        if self.phase == Phase::Launching {
            self.phase = Phase::Running;
        }
    }

    /// Records that there will be no worker. It stays the cause, whatever comes next.
    pub(crate) fn start_failed(&mut self) {
        if self.began.is_none() {
            self.cause = Cause::StartFailed;
        }
    }

    /// Records the end of the worker. What it left gets some time to end by itself.
    pub(crate) fn worker_ended(&mut self, now: u64) {
        if matches!(self.phase, Phase::Launching | Phase::Running) {
            self.phase = Phase::Lingering { until: now.saturating_add(self.linger) };
        }
    }

    /// Returns whether the worker has just exited and no end was requested.
    pub(crate) fn lingers(&self) -> bool {
        matches!(self.phase, Phase::Lingering { .. })
    }

    /// Records that the processes that the worker left go on without the shim.
    pub(crate) fn kept(&mut self) {
        self.cause = Cause::Kept;
        self.phase = Phase::Gone;
    }

    /// Handles TERM, HUP or INT: the first begins the ladder, the second kills at once.
    pub(crate) fn stop_requested(&mut self, now: u64) {
        if core::mem::replace(&mut self.stop_was_requested, true) {
            self.kill_now(now);
        } else {
            self.end(Cause::Stop, now);
        }
    }

    /// Begins the ladder, unless the tree is being ended already.
    pub(crate) fn end(&mut self, cause: Cause, now: u64) {
        if self.began.is_some() || self.phase == Phase::Gone {
            return;
        }
        if self.cause != Cause::StartFailed {
            self.cause = cause;
        }
        self.began = Some(now);
        self.step(0, now);
    }

    /// Goes to the SIGKILL phase, whatever was going on.
    pub(crate) fn kill_now(&mut self, now: u64) {
        if matches!(self.phase, Phase::Killing { .. } | Phase::Gone) {
            return;
        }
        self.began = self.began.or(Some(now));
        self.cause = Cause::Kill;
        self.kill();
    }

    /// Records that all processes that are left have been told.
    pub(crate) fn all_signalled(&mut self) {
        if let Phase::Step { look, .. } = &mut self.phase {
            *look = None;
        }
    }

    /// Goes on to the next step if the command of the current one could not be started or did not
    /// succeed. Its effect will not come.
    pub(crate) fn command_failed(&mut self, failed: u8, now: u64) {
        match self.phase {
            Phase::Step { index, .. } if index == failed => {
                self.step(index.saturating_add(1), now)
            }
            _ => {}
        }
    }

    /// Records that nothing is left. A step that was not taken yet is dropped, since its command
    /// would have no tree to end.
    pub(crate) fn gone(&mut self) {
        self.phase = Phase::Gone;
        self.pending = None;
    }

    // Actions

    /// Returns what to do. Call it until it returns [`Action::Wait`] or [`Action::Finish`].
    pub(crate) fn next(&mut self, now: u64, leader_lives: bool) -> Action {
        if let Some((index, step)) = self
            .pending
            .take()
            .and_then(|index| Some((index, self.steps.get(usize::from(index))?)))
        {
            self.last = index;
            return match step.kind {
                StepKind::Signal { number, scope } => Action::Signal { index, number, scope },
                StepKind::Command => Action::RunCommand { index },
                StepKind::CloseStdin => Action::CloseStdin { index },
            };
        }
        match self.phase {
            Phase::Launching | Phase::Running => Action::Wait(None),
            Phase::Gone => Action::Finish,
            Phase::Lingering { until } if now >= until => {
                self.end(Cause::Exited, now);
                self.next(now, leader_lives)
            }
            Phase::Lingering { until } => Action::Wait(Some(until)),
            Phase::Step { index, until: Some(until), .. } if now >= until => {
                self.step(index.saturating_add(1), now);
                self.next(now, leader_lives)
            }
            Phase::Step { index, until, look } => {
                let look = look.filter(|_| !leader_lives);
                match look.zip(self.steps.get(usize::from(index)).map(|step| step.kind)) {
                    Some(((at, pause), StepKind::Signal { number, scope })) if now >= at => {
                        let next = now.saturating_add(pause);
                        let look = Some((next, pause.saturating_mul(2).min(LOOK_MS.1)));
                        self.phase = Phase::Step { index, until, look };
                        Action::SignalRemaining { number, scope }
                    }
                    Some(((at, _), StepKind::Signal { .. })) => {
                        Action::Wait(Some(until.map_or(at, |until| until.min(at))))
                    }
                    // The other actions address no process.
                    Some((_, StepKind::Command | StepKind::CloseStdin)) | None => {
                        Action::Wait(until)
                    }
                }
            }
            Phase::Killing { next, .. } if now < next => Action::Wait(Some(next)),
            Phase::Killing { pass, .. } => {
                let next = now.saturating_add(pause_after(pass));
                self.phase = Phase::Killing { pass: pass.saturating_add(1), next };
                self.passes = self.passes.saturating_add(1);
                Action::Kill { first: pass == 0, stop_first: pass >= STOP_FIRST_AFTER }
            }
        }
    }

    /// Begins a step, or the last phase if there is none.
    fn step(&mut self, index: u8, now: u64) {
        match self.steps.get(usize::from(index)) {
            // A SIGKILL step with grace 0 is left to the last phase, which does it better.
            Some(Step { kind, wait: Some(0) }) if kind.number() == signal::KILL => self.kill(),
            None => self.kill(),
            Some(step) => {
                self.pending = Some(index);
                let until = step.wait.map(|ms| now.saturating_add(u64::from(ms)));
                let is_told = match step.kind {
                    StepKind::Signal { scope, .. } => scope == SignalScope::Tree,
                    StepKind::Command | StepKind::CloseStdin => true,
                };
                let look = (!is_told).then_some((now, LOOK_MS.0));
                self.phase = Phase::Step { index, until, look };
            }
        }
    }

    /// Begins the last phase.
    fn kill(&mut self) {
        self.last = Self::FINAL;
        self.pending = None;
        self.phase = Phase::Killing { pass: 0, next: 0 };
    }
}

/// Returns the milliseconds between two passes of SIGKILL. A process that is left after a second
/// cannot be killed now and is not worth a processor. It is in an uninterruptible wait, or
/// another user's.
pub(crate) fn pause_after(pass: u32) -> u64 {
    match pass {
        0 => 1,
        1 => 2,
        2 => 5,
        3 => 10,
        4..60 => 20,
        _ => 200,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn ladder(steps: &[u8], linger: u32) -> Ladder {
        Ladder::new(Steps::parse(steps).unwrap(), linger)
    }

    fn signal_of(action: Action) -> Option<(u8, u8)> {
        match action {
            Action::Signal { index, number, .. } => Some((index, number)),
            Action::RunCommand { index } => Some((index, 0)),
            _ => None,
        }
    }

    #[test]
    fn each_step_gets_its_time_and_then_the_tree_is_killed() {
        let mut ladder = ladder(b"INT:500,TERM:1500", 200);
        ladder.started();
        assert_eq!(ladder.next(0, true), Action::Wait(None));
        ladder.end(Cause::Leash, 1000);
        assert_eq!(signal_of(ladder.next(1000, true)), Some((0, 2)));
        assert_eq!(ladder.next(1000, true), Action::Wait(Some(1500)));
        assert_eq!(signal_of(ladder.next(1500, true)), Some((1, 15)));
        assert_eq!(ladder.next(1600, true), Action::Wait(Some(3000)));
        assert_eq!(ladder.next(3000, true), Action::Kill { first: true, stop_first: false });
        assert_eq!(ladder.next(3000, true), Action::Wait(Some(3001)));
        assert_eq!(
            (ladder.cause(), ladder.last(), ladder.elapsed(|| 3000)),
            (Cause::Leash, 255, 2000)
        );
        ladder.gone();
        assert_eq!(ladder.next(3001, false), Action::Finish);
    }

    #[test]
    fn a_worker_that_exits_leaves_its_children_the_linger() {
        let mut ladder = ladder(b"TERM:100", 200);
        ladder.started();
        ladder.worker_ended(10);
        assert_eq!(ladder.next(10, false), Action::Wait(Some(210)));
        assert_eq!(signal_of(ladder.next(210, false)), Some((0, 15)));
        assert_eq!(ladder.cause(), Cause::Exited);
    }

    #[test]
    fn those_outside_the_group_are_looked_for_once_the_leader_is_gone() {
        let mut ladder = ladder(b"TERM:100", 0);
        ladder.end(Cause::Stop, 0);
        assert!(signal_of(ladder.next(0, true)).is_some());
        assert_eq!(ladder.next(0, true), Action::Wait(Some(100)), "not while the leader lives");
        assert!(matches!(ladder.next(5, false), Action::SignalRemaining { .. }));
        assert_eq!(ladder.next(5, false), Action::Wait(Some(7)));
        assert!(matches!(ladder.next(7, false), Action::SignalRemaining { .. }));
        assert_eq!(ladder.next(7, false), Action::Wait(Some(11)), "less and less often");
        ladder.all_signalled();
        assert_eq!(ladder.next(11, false), Action::Wait(Some(100)));
    }

    #[test]
    fn a_step_to_the_whole_tree_has_told_all_of_it() {
        let mut ladder = ladder(b"TERM:100@tree", 0);
        ladder.end(Cause::Stop, 0);
        assert!(signal_of(ladder.next(0, false)).is_some());
        assert_eq!(ladder.next(0, false), Action::Wait(Some(100)));
    }

    #[test]
    fn a_second_request_kills_at_once_and_a_hang_up_changes_nothing() {
        let mut ladder = ladder(b"TERM:inf", 0);
        ladder.stop_requested(0);
        assert!(signal_of(ladder.next(0, true)).is_some());
        ladder.end(Cause::Leash, 5);
        assert_eq!(ladder.next(9999, true), Action::Wait(None));
        assert_eq!(ladder.cause(), Cause::Stop);
        ladder.stop_requested(10_000);
        assert!(matches!(ladder.next(10_000, true), Action::Kill { first: true, .. }));
        assert_eq!((ladder.cause(), ladder.elapsed(|| 10_000)), (Cause::Kill, 10_000));
    }

    #[test]
    fn a_kill_overrides_a_step_that_was_not_taken_yet() {
        let mut ladder = ladder(b"TERM:100", 0);
        ladder.end(Cause::Leash, 0);
        ladder.kill_now(0);
        assert!(matches!(ladder.next(0, true), Action::Kill { first: true, .. }));
    }

    #[test]
    fn a_grace_of_nothing_goes_on_at_once() {
        let mut ladder = ladder(b"TERM:0,KILL:0", 0);
        ladder.end(Cause::Leash, 0);
        assert_eq!(signal_of(ladder.next(0, true)), Some((0, 15)));
        assert!(matches!(ladder.next(0, true), Action::Kill { .. }));
    }

    #[test]
    fn a_failed_start_stays_the_cause() {
        let mut ladder = ladder(b"TERM:0", 0);
        ladder.start_failed();
        ladder.worker_ended(0);
        ladder.end(Cause::Leash, 0);
        assert_eq!(ladder.cause(), Cause::StartFailed);
    }

    #[test]
    fn a_command_gets_its_time_and_addresses_no_process() {
        let mut ladder = ladder(b"CMD:500,TERM:100", 0);
        ladder.end(Cause::Stop, 0);
        assert_eq!(ladder.next(0, false), Action::RunCommand { index: 0 });
        assert_eq!(ladder.next(5, false), Action::Wait(Some(500)), "no look");
        assert_eq!(signal_of(ladder.next(500, true)), Some((1, 15)));
        ladder.command_failed(0, 510);
        assert_eq!(
            ladder.next(510, true),
            Action::Wait(Some(600)),
            "a step that is over fails no other"
        );
    }

    #[test]
    fn the_end_of_stdin_gets_its_time_and_addresses_no_process() {
        let mut ladder = ladder(b"STDIN:500,TERM:100", 0);
        ladder.end(Cause::Leash, 0);
        assert_eq!(ladder.next(0, true), Action::CloseStdin { index: 0 });
        assert_eq!(ladder.next(5, false), Action::Wait(Some(500)), "no look");
        assert_eq!(signal_of(ladder.next(500, true)), Some((1, 15)));
    }

    #[test]
    fn after_a_command_that_failed_the_next_step_begins_at_once() {
        let mut ladder = ladder(b"CMD:inf,CMD:500,TERM:100", 0);
        ladder.end(Cause::Stop, 0);
        assert_eq!(ladder.next(0, true), Action::RunCommand { index: 0 });
        ladder.command_failed(0, 10);
        assert_eq!(ladder.next(10, true), Action::RunCommand { index: 1 });
        ladder.command_failed(1, 20);
        assert_eq!(signal_of(ladder.next(20, true)), Some((2, 15)));
        assert_eq!(ladder.next(20, true), Action::Wait(Some(120)), "which has all of its time");
    }

    #[test]
    fn no_command_is_started_for_an_empty_tree() {
        let mut ladder = ladder(b"CMD:500", 0);
        ladder.end(Cause::Leash, 0);
        ladder.gone();
        assert_eq!(ladder.next(0, false), Action::Finish);
        assert_eq!(ladder.last(), Ladder::NO_STEP);
    }

    #[test]
    fn a_kill_at_once_takes_no_command() {
        let mut ladder = ladder(b"CMD:500,TERM:100", 0);
        ladder.end(Cause::Leash, 0);
        ladder.kill_now(0);
        assert!(matches!(ladder.next(0, true), Action::Kill { first: true, .. }));
    }

    #[test]
    fn passes_stop_everything_first_when_they_do_not_end() {
        let mut ladder = ladder(b"KILL:0", 0);
        ladder.kill_now(0);
        let mut now = 0;
        let mut kills = Vec::new();
        while kills.len() < 100 {
            match ladder.next(now, false) {
                Action::Kill { stop_first, .. } => kills.push((now, stop_first)),
                Action::Wait(Some(until)) => now = until,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(kills.iter().position(|(_, stop)| *stop), Some(10));
        assert!(now > 5_000 && now < 20_000, "the pauses grow: {now}");
    }

    proptest! {
        /// Events in any order leave a next thing to do, and the ladder comes to an end.
        #[test]
        fn nothing_hangs(events in proptest::collection::vec((0u8..9, 0u64..50), 0..40)) {
            let mut ladder = ladder(b"INT:20,CMD:25,STDIN:7,TERM:30@leader,CMD:5,HUP:10@tree", 15);
            let mut now = 0;
            let mut leader_lives = true;
            for (event, pause) in events {
                now += pause;
                match event {
                    0 => ladder.started(),
                    1 => ladder.start_failed(),
                    2 => { ladder.worker_ended(now); leader_lives = false }
                    3 => ladder.stop_requested(now),
                    4 => ladder.end(Cause::Leash, now),
                    5 => ladder.end(Cause::Owner, now),
                    6 => ladder.all_signalled(),
                    7 => ladder.command_failed(u8::try_from(pause % 5).unwrap(), now),
                    _ => { let _ = ladder.next(now, leader_lives); }
                }
            }
            ladder.end(Cause::Leash, now);
            let mut actions = 0;
            loop {
                match ladder.next(now, leader_lives) {
                    Action::Wait(Some(until)) => { prop_assert!(until > now); now = until }
                    Action::Wait(None) => prop_assert!(false, "waits for ever"),
                    Action::Kill { .. } => break,
                    Action::Finish => break,
                    _ => {}
                }
                actions += 1;
                prop_assert!(actions < 200);
            }
        }
    }
}
