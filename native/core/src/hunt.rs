//! Ends processes for certain: a machine that is stepped, and never waits itself.
//!
//! Every step looks who has ended, passes over the process table where that is due, and sends what is
//! due. Passes repeat until a complete one, of all carriers, finds nothing left to end.

use crate::error::{Error, Result};
use crate::host::Host;
use crate::ladder::Ladder;
use crate::record::RecordedCommand;
use crate::report::{Action, Match, Reason, Refused, Report};
use crate::reserve::{is_scarce, reserve_descriptors};
use crate::run_dir::RunDir;
use crate::scan::{FRESH_LISTING, Incomplete, Scan, ScanOptions, SkipMark, each_process_from, scan_until};
use crate::seen::{Examiner, Skipped};
use crate::target::{Key, Stage, Target, Tree, key, tree_of_mark};
use crate::verdict::{Asker, Decision, Judge, RunJudgement, Verdict, recorded_commands};
use crate::worker_rule::Workers;
use crate::{Carrier, Carriers, Identity, Pid, PidFd, Seen, Signal};
use leash_tag::{Mark, RunId};
use rustix::event::epoll;
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

// Descriptors are the VM's: past this many the rest is looked at by number and identity instead.
const HELD: usize = 256;
// A dead verdict cannot come true again by itself; only new witnesses change it, and those come with passes.
const JUDGEMENT_HOLDS: Duration = Duration::from_millis(5);
const SHIM_GRACE: Duration = Duration::from_secs(1);
const QUIT_GRACE: Duration = Duration::from_millis(500);
const LADDER_PASS: Duration = Duration::from_millis(100);
const KILL_PASS: Duration = Duration::from_millis(10);
const UNHELD_LOOK: Duration = Duration::from_millis(20);
// One step makes so many passes at most while each finds new processes, so that a step has an end.
const PASSES_A_STEP: u32 = 8;
// So many zombies, or a quarter of that vanished, show a tree that may not be read in peace.
const FLEETING: usize = 64;
// A pass of signals chases new processes upwards; from time to time it starts over from below.
const SIGHT_PASS: Duration = Duration::from_millis(200);
// So many numbers below the last given one are looked at first, and so often while that ends something.
const HEAD: u32 = 256;
const HEAD_ROUNDS: u32 = 64;
// On a host where processes end all the time no pass is ever calm; so many that kill nothing are enough.
const RESTLESS: u32 = 20;

/// What to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HuntKind {
    /// Workers of the asking VM's own run, by SIGKILL passes.
    Worker(Workers),
    /// One dead run; a run that is not dead is refused.
    Run {
        /// The run.
        run: RunId,
        /// The asking VM's own run.
        own_run: Option<RunId>,
    },
    /// Every dead run.
    Sweep {
        /// The asking VM's own run.
        own_run: Option<RunId>,
        /// Only runs whose record names this application.
        app: Option<String>,
        /// End them, or report only.
        mode: Mode,
    },
    /// One process, whatever its tags.
    Process(Identity),
}

/// Whether a sweep ends anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// End what is dead.
    End,
    /// One pass that explains every match and sends nothing.
    Report,
}

/// What to end, and how hard.
#[derive(Clone, Debug)]
pub struct HuntSpec {
    /// What.
    pub kind: HuntKind,
    /// What is sent before SIGKILL. A hunt for workers ignores it.
    pub ladder: Ladder,
    /// The time for everything.
    pub deadline: Duration,
    /// Where the records are; without one nothing is judged by records.
    pub run_dir: Option<Arc<RunDir>>,
}

/// What a step came to.
#[derive(Debug)]
pub enum Step {
    /// Step again at this time, or earlier once the hunt's descriptor is readable.
    Wait {
        /// The time.
        until: Instant,
    },
    /// The result. Stepping again gives the same one.
    Done(Box<Report>),
}

/// A hunt at work.
#[derive(Debug)]
pub struct Hunt {
    spec: HuntSpec,
    state: State,
    epoll: OwnedFd,
}

#[derive(Debug)]
enum State {
    New,
    Working(Box<Work>),
    Done(Box<Report>),
}

#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) host: Arc<Host>,
    pub(crate) judge: Judge,
    pub(crate) spec: HuntSpec,
    recorded: Vec<(RunId, RecordedCommand)>,
    judgements: HashMap<RunId, (Instant, RunJudgement)>,
    targets: HashMap<Key, Target>,
    pub(crate) others: HashMap<Key, Match>,
    ladders: HashMap<Tree, Instant>,
    // Trees of which processes vanished while they were looked at.
    fleeting: HashSet<Tree>,
    held: usize,
    began: Instant,
    next_pass: Instant,
    // Of the last pass of all carriers.
    pub(crate) named: Vec<RunId>,
    clean: bool,
    // Passes in a row that killed nothing and saw nothing vanish.
    calm: u32,
    restless: u32,
    zombies: u32,
    pub(crate) report: Report,
}

impl Hunt {
    /// Prepares a hunt; nothing is looked at before the first step.
    ///
    /// # Errors
    ///
    /// Where no epoll descriptor can be had.
    pub fn new(spec: HuntSpec) -> Result<Self> {
        let create = || epoll::create(epoll::CreateFlags::CLOEXEC);
        let epoll = crate::reserve::with_reserve(create).map_err(Error::of_file)?;
        Ok(Self { spec, state: State::New, epoll })
    }

    /// Goes on as far as can be gone without waiting.
    pub fn step(&mut self, now: Instant) -> Step {
        if let State::New = self.state {
            self.state = match Work::begin(&self.spec, now) {
                Ok(work) => State::Working(Box::new(work)),
                Err(report) => State::Done(report),
            };
        }
        if let State::Working(work) = &mut self.state {
            match work.step(&self.epoll, now) {
                Some(until) => return Step::Wait { until },
                None => {
                    let mut report = std::mem::take(&mut work.report);
                    report.elapsed_ms = millis(work.began.elapsed());
                    self.state = State::Done(Box::new(report));
                }
            }
        }
        match &self.state {
            State::Done(report) => Step::Done(report.clone()),
            _ => Step::Wait { until: now },
        }
    }

    /// Steps until done, sleeping in between: for tests and command lines, never for a VM's scheduler.
    pub fn run(&mut self) -> Report {
        loop {
            match self.step(Instant::now()) {
                Step::Done(report) => return *report,
                Step::Wait { until } => {
                    let left = until.saturating_duration_since(Instant::now());
                    let timeout = rustix::event::Timespec::try_from(left).ok();
                    let mut fds = [rustix::event::PollFd::new(&self.epoll, rustix::event::PollFlags::IN)];
                    let _ = rustix::event::poll(&mut fds, timeout.as_ref());
                }
            }
        }
    }
}

impl AsFd for Hunt {
    /// Readable when a process that is waited for may have ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl SkipMark for Workers {
    fn skip(&self, mark: &Mark) -> bool {
        self.is_others(mark)
    }
}

/// What a quick pass came to.
#[derive(Default)]
struct Tally {
    sent: u32,
    vanished: u32,
    zombies: u32,
}

/// What a quick look at a process came to.
enum Sight {
    Sent,
    Kept,
    Zombie,
    Vanished,
}

/// What became of a try to send a signal.
enum Sent {
    Yes,
    Ended,
    Kept(Decision),
    Blocked(Reason),
}

impl Work {
    fn begin(spec: &HuntSpec, now: Instant) -> std::result::Result<Self, Box<Report>> {
        let host = match Host::current() {
            Ok(host) => Arc::new(host),
            Err(_) => {
                let incomplete_because = vec![Incomplete::NoProc];
                return Err(Box::new(Report { incomplete_because, ..Report::default() }));
            }
        };
        let asker = match &spec.kind {
            HuntKind::Worker(_) | HuntKind::Process(_) => Asker::default(),
            HuntKind::Run { own_run, .. } => Asker { own_run: *own_run, app: None },
            HuntKind::Sweep { own_run, app, .. } => Asker { own_run: *own_run, app: app.clone() },
        };
        let judge = Judge::new(Arc::clone(&host), spec.run_dir.clone(), asker);
        let mut work = Self {
            host,
            judge,
            spec: spec.clone(),
            recorded: Vec::new(),
            judgements: HashMap::new(),
            targets: HashMap::new(),
            others: HashMap::new(),
            ladders: HashMap::new(),
            fleeting: HashSet::new(),
            held: 0,
            began: now,
            next_pass: now,
            named: Vec::new(),
            clean: false,
            calm: 0,
            restless: 0,
            zombies: 0,
            report: Report::default(),
        };
        if let HuntKind::Process(identity) = spec.kind {
            work.take_process(&identity)
                .map_err(|refused| Box::new(Report { refused: Some(refused), ..Report::default() }))?;
        }
        Ok(work)
    }

    /// The one process of a hunt without tags.
    fn take_process(&mut self, identity: &Identity) -> std::result::Result<(), Refused> {
        use crate::ErrorKind::{Gone, NotPermitted, Reused};
        if let Some(refusal) = self.host.refusal(identity.pid) {
            return Err(Refused::Process(refusal));
        }
        let pidfd = self.host.open(identity).map_err(|error| match error.kind() {
            Gone => Refused::Gone,
            Reused => Refused::Reused,
            NotPermitted => Refused::NotPermitted,
            _ => Refused::Unknown,
        })?;
        let seen = Examiner::new(&self.host, &[]).untagged(identity.pid).map_err(|why| match why {
            Skipped::Gone | Skipped::Zombie => Refused::Gone,
            _ => Refused::Unknown,
        })?;
        let seen = Seen { identity: *identity, ..seen };
        let found = Match::new(&seen, None, Verdict::Asked, "asked for by its identity".into());
        let target = Target {
            tree: (None, None),
            is_shim: false,
            stage: Stage::New,
            last: None,
            blocked: None,
            pidfd: Some(pidfd),
            seen,
            found,
        };
        self.targets.insert(key(identity), target);
        Ok(())
    }

    /// Returns when to come again, or `None` when all is done.
    fn step(&mut self, epoll: &OwnedFd, now: Instant) -> Option<Instant> {
        let mut now = Instant::now().max(now);
        let deadline = self.began.checked_add(self.spec.deadline).unwrap_or(now);
        for _ in 0..PASSES_A_STEP {
            self.harvest();
            self.give_back();
            now = Instant::now().max(now);
            self.signal_on_sight(epoll, now, deadline);
            let pending = self.is_pending();
            let pass_due = self.needs_passes() && (now >= self.next_pass || (!pending && !self.clean));
            let is_storm = !self.fleeting.is_empty() && !self.is_calm();
            if pass_due && !self.clean && !is_storm {
                let brief = self.first_is_brief() || pending;
                self.pass(epoll, if brief { Carriers::MarkOnly } else { Carriers::All }, deadline);
            }
            if self.report.refused.is_some() {
                self.finish();
                return None;
            }
            now = Instant::now().max(now);
            self.advance(now, deadline);
            self.harvest();
            if !self.is_pending() {
                if (self.clean && self.is_calm()) || !self.needs_passes() {
                    self.finish();
                    return None;
                }
                if now < deadline {
                    continue;
                }
            }
            if now >= deadline {
                self.finish();
                return None;
            }
            return Some(self.next_time(now).min(deadline));
        }
        Some(now + if is_scarce() { UNHELD_LOOK } else { Duration::from_millis(1) })
    }

    /// A full table takes precedence over comfort: targets are found again by number and identity.
    fn give_back(&mut self) {
        if is_scarce() && self.held > 0 && self.needs_passes() {
            self.held = 0;
            for target in self.targets.values_mut() {
                target.pidfd = None;
            }
        }
    }

    fn needs_passes(&self) -> bool {
        !matches!(self.spec.kind, HuntKind::Process(_))
    }

    fn is_report(&self) -> bool {
        matches!(self.spec.kind, HuntKind::Sweep { mode: Mode::Report, .. })
    }

    /// After a shim's death each millisecond counts, and nearly everything is marked.
    fn first_is_brief(&self) -> bool {
        matches!(self.spec.kind, HuntKind::Worker(_)) && self.report.passes == 0
    }

    fn is_pending(&self) -> bool {
        self.targets.values().any(|target| !target.is_given_up())
    }

    /// What forks and exits without a pause is gone from a listing before its turn comes, and a single pass that finds
    /// none proves nothing then: two in a row must see nothing of it vanish.
    fn is_calm(&self) -> bool {
        self.killed_trees().next().is_none() || self.calm >= 2 || self.restless >= RESTLESS
    }

    fn killed_trees(&self) -> impl Iterator<Item = &Tree> {
        self.ladders.keys()
    }

    /// A quick pass that signals marked processes of trees being ended the moment it sees them: what forks without a
    /// pause is gone before a whole pass is over.
    fn signal_on_sight(&mut self, epoll: &OwnedFd, now: Instant, deadline: Instant) {
        let kill_at = self.kill_at(now, deadline);
        let in_charge = self.trees_in_charge();
        let trees: HashMap<Tree, (Signal, Stage)> = self
            .ladders
            .iter()
            .filter(|(tree, _)| !in_charge.iter().any(|shim| shim.0 == tree.0))
            .filter_map(|(tree, began)| {
                let kill = (Signal::KILL, Stage::Killed { again: now + QUIT_GRACE });
                let due = match self.spec.ladder.at(now.saturating_duration_since(*began)) {
                    Some((step, signal, _)) if now < kill_at && !self.is_for_workers() => {
                        // Within a step the slow, thorough passes do, but for trees that they cannot catch.
                        self.fleeting.contains(tree).then_some((signal, Stage::Step(step)))?
                    }
                    _ => kill,
                };
                Some((*tree, due))
            })
            .collect();
        if trees.is_empty() || self.report.refused.is_some() {
            return;
        }
        self.report.passes += 1;
        self.judge.forget_pass();
        self.judgements.clear();
        let host = Arc::clone(&self.host);
        let mut examiner = Examiner::new(&host, &[]);
        let mut tally = Tally::default();
        if trees.keys().any(|tree| self.fleeting.contains(tree)) {
            // The newest first: behind thousands of zombies their turn would never come.
            for _ in 0..HEAD_ROUNDS {
                let first = host.last_pid().unwrap_or(0).saturating_sub(HEAD);
                let round = self.sight_round(epoll, &mut examiner, &trees, first, now);
                tally.sent += round.sent;
                if round.sent == 0 {
                    break;
                }
            }
        }
        let round = self.sight_round(epoll, &mut examiner, &trees, 0, now);
        let (sent, vanished) = (tally.sent + round.sent, round.vanished);
        // New zombies are the trace of what ended unseen.
        let is_calm = sent == 0 && vanished == 0 && round.zombies <= self.zombies;
        self.zombies = round.zombies;
        self.calm = if is_calm { self.calm + 1 } else { 0 };
        self.restless = if sent == 0 && !is_calm { self.restless + 1 } else { 0 };
        self.clean &= sent == 0;
    }

    fn sight_round(
        &mut self,
        epoll: &OwnedFd,
        examiner: &mut Examiner<'_>,
        trees: &HashMap<Tree, (Signal, Stage)>,
        first: u32,
        began: Instant,
    ) -> Tally {
        let host = Arc::clone(&self.host);
        let mut tally = Tally::default();
        let mut count = 0_u32;
        let listing = each_process_from(&host, first, FRESH_LISTING, |pid| {
            count += 1;
            if count.is_multiple_of(64) && began.elapsed() > SIGHT_PASS {
                tally.vanished += 1;
                return ControlFlow::Break(());
            }
            let mark = match examiner.mark(pid) {
                Ok(mark) => mark,
                Err(Skipped::Gone) => {
                    tally.vanished += 1;
                    return ControlFlow::Continue(());
                }
                Err(_) => return ControlFlow::Continue(()),
            };
            let tree = mark.present().map(|mark| tree_of_mark(*mark));
            if let Some(&due) = tree.and_then(|tree| trees.get(&tree)) {
                match self.on_sight(epoll, examiner, pid, mark, due) {
                    Sight::Sent => tally.sent += 1,
                    Sight::Kept => {}
                    Sight::Zombie => tally.zombies += 1,
                    Sight::Vanished => tally.vanished += 1,
                }
            }
            ControlFlow::Continue(())
        });
        tally.vanished += u32::from(listing.is_err());
        tally
    }

    fn is_for_workers(&self) -> bool {
        matches!(self.spec.kind, HuntKind::Worker(_))
    }

    /// Signals a process that was seen just now, if it is to be ended.
    fn on_sight(
        &mut self,
        epoll: &OwnedFd,
        examiner: &mut Examiner<'_>,
        pid: Pid,
        mark: Carrier<Mark>,
        (signal, stage): (Signal, Stage),
    ) -> Sight {
        let pidfd = match PidFd::open_raw(pid) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH | Errno::NOENT | Errno::INVAL) => return Sight::Vanished,
            Err(_) => return Sight::Kept,
        };
        // Zombies keep their mark until they are reaped, and there may be thousands.
        if pidfd.is_ended() {
            return Sight::Zombie;
        }
        // Read anew now that the descriptor holds the process.
        let again = examiner.mark(pid);
        let seen = match again {
            Ok(again) if again == mark => match examiner.lean(pid, again) {
                Ok(seen) => seen,
                Err(Skipped::Gone) => return Sight::Vanished,
                Err(_) => return Sight::Kept,
            },
            Err(Skipped::Gone) => return Sight::Vanished,
            _ => return Sight::Kept,
        };
        let key = key(&seen.identity);
        if self.targets.contains_key(&key) || self.others.get(&key).is_some_and(|m| m.action == Action::Kept)
        {
            return Sight::Kept;
        }
        self.judge.hear_process(&seen);
        let Some(decision) = self.decide(&seen) else { return Sight::Kept };
        if decision.verdict != Verdict::Dead {
            return Sight::Kept;
        }
        if pidfd.is_ended() {
            return Sight::Vanished;
        }
        match pidfd.signal(signal) {
            Ok(()) => {
                if signal != Signal::KILL {
                    let _ = pidfd.signal(Signal::CONT);
                }
                self.take(epoll, &seen, decision, Some(pidfd));
                if let Some(target) = self.targets.get_mut(&key) {
                    target.stage = stage;
                    target.last = Some(signal);
                }
                Sight::Sent
            }
            Err(error) if error.is_gone() => Sight::Vanished,
            Err(_) => Sight::Kept,
        }
    }

    /// The last part of the time is for SIGKILL and its effect.
    fn kill_at(&self, now: Instant, deadline: Instant) -> Instant {
        deadline.checked_sub((self.spec.deadline / 4).min(SHIM_GRACE)).unwrap_or(now)
    }

    /// One pass: everything tagged is judged, what is to end becomes a target.
    fn pass(&mut self, epoll: &OwnedFd, carriers: Carriers, deadline: Instant) {
        self.report.passes += 1;
        self.judgements.clear();
        let mut complete = true;
        if let Some(dir) = &self.spec.run_dir {
            let records = dir.records();
            complete = records.complete;
            self.recorded = recorded_commands(&records.files);
            self.judge.hear_records(&records.files);
        }
        let workers = match &self.spec.kind {
            HuntKind::Worker(workers) => Some(workers as &dyn SkipMark),
            _ => None,
        };
        let (mut haunted, mut zombies) = (Vec::new(), Vec::new());
        let options = ScanOptions { carriers, recorded: &self.recorded, skip: workers };
        let host = Arc::clone(&self.host);
        let (kind, judge, judgements) = (&self.spec.kind, &mut self.judge, &mut self.judgements);
        let known = &mut self.fleeting;
        let mut fleeting = 0;
        let mut result = scan_until(&host, &options, |what| match what {
            // Once a tree is known to be so, its zombies say nothing new: there may be thousands from long ago.
            Some((mark, true)) if known.contains(&tree_of_mark(*mark)) => false,
            Some((mark, is_zombie)) => {
                if is_hunted(kind, mark, |run| remembered(judgements, judge, run)) {
                    if is_zombie {
                        zombies.push(*mark);
                    }
                    fleeting += if is_zombie { 1 } else { FLEETING / 4 };
                    if fleeting >= FLEETING {
                        known.insert(tree_of_mark(*mark));
                        haunted.push(*mark);
                    }
                }
                fleeting >= FLEETING
            }
            None => Instant::now() >= deadline,
        });
        if !complete {
            result.incomplete.push(Incomplete::Records);
        }
        self.judge.hear(&result);
        self.judgements.clear();
        if let HuntKind::Run { run, .. } = self.spec.kind {
            let verdict = self.judgement(run).verdict;
            if self.report.passes == 1 && !matches!(verdict, Verdict::Dead | Verdict::Stale) {
                self.report.refused = Some(Refused::Run(verdict));
            }
        }
        let found = self.sort(epoll, &result);
        haunted.extend_from_slice(&result.vanished);
        // A zombie may be one of long ago that nobody reaps, or the last trace of a tree that forks and exits: passes must
        // be calm before nothing found is believed, and no more.
        self.haunt(&zombies);
        let haunted = self.haunt(&haunted);
        self.clean = carriers == Carriers::All && (found == 0 || self.is_report()) && self.targets.is_empty();
        if carriers == Carriers::All {
            self.named = result.seen.iter().flat_map(Seen::runs).collect();
            self.report.unreadable = result.unreadable;
            self.report.complete = result.is_complete();
            self.report.incomplete_because = result.incomplete;
            // What cannot be ended does not keep the passes going.
            self.clean |= found == 0 && !self.is_pending();
        }
        // Descriptors may come back before the deadline.
        let exhausted = self.report.incomplete_because.contains(&Incomplete::DescriptorsExhausted);
        self.clean &= self.is_report() || (!haunted && !exhausted);
    }

    /// Starts the ladder of trees of which only fleeting processes were seen; whether there are any.
    fn haunt(&mut self, vanished: &[Mark]) -> bool {
        let mut haunted = false;
        for mark in vanished {
            let (judge, judgements) = (&mut self.judge, &mut self.judgements);
            if is_hunted(&self.spec.kind, mark, |run| remembered(judgements, judge, run)) {
                haunted = true;
                self.ladders.entry(tree_of_mark(*mark)).or_insert_with(Instant::now);
                self.fleeting.insert(tree_of_mark(*mark));
            }
        }
        haunted
    }

    /// Returns how many new targets there are.
    fn sort(&mut self, epoll: &OwnedFd, result: &Scan) -> usize {
        let mut found = 0;
        for seen in &result.seen {
            let key = key(&seen.identity);
            let Some(decision) = self.decide(seen) else { continue };
            let is_target = decision.verdict == Verdict::Dead && self.report.refused.is_none();
            if is_target && !self.is_report() {
                if let Some(target) = self.targets.get_mut(&key) {
                    target.found.state = seen.state;
                    target.seen = seen.clone();
                } else {
                    found += 1;
                    self.take(epoll, seen, decision, None);
                }
            } else {
                self.forget(key);
                let Decision { verdict, run, why } = decision;
                self.others.insert(key, Match::new(seen, run, verdict, why));
            }
        }
        found
    }

    fn take(&mut self, epoll: &OwnedFd, seen: &Seen, decision: Decision, open: Option<PidFd>) {
        let Decision { verdict, run, why } = decision;
        let found = Match::new(seen, run, verdict, why);
        // A process called leash-shim counts as one only if another carrier says so too.
        let is_shim = matches!(self.spec.kind, HuntKind::Run { .. } | HuntKind::Sweep { .. })
            && seen.shim.as_ref().is_some_and(|shim| {
                let run = shim.args.run;
                seen.mark.present().is_some_and(|mark| mark.run() == run)
                    || seen.env.present().is_some_and(|env| env.run == run)
            });
        let tree = (run, run.and_then(|run| seen.worker_in(run)));
        let key = key(&seen.identity);
        let pidfd = if self.held < HELD { self.hold(epoll, seen, key, open) } else { None };
        let stage = Stage::New;
        let target =
            Target { seen: seen.clone(), found, tree, is_shim, pidfd, stage, last: None, blocked: None };
        self.others.remove(&key);
        if !is_shim {
            self.ladders.entry(tree).or_insert_with(Instant::now);
        }
        self.targets.insert(key, target);
    }

    /// A descriptor of the process that was seen, to wait on; `None` is no harm.
    fn hold(&mut self, epoll: &OwnedFd, seen: &Seen, key: Key, open: Option<PidFd>) -> Option<PidFd> {
        // Not out of the reserve: that is for signals.
        if is_scarce() {
            return None;
        }
        let pidfd = match open {
            Some(pidfd) => pidfd,
            None => PidFd::open_unreserved(seen.identity.pid)?,
        };
        let data = epoll::EventData::new_u64(u64::from(key.0));
        epoll::add(epoll, &pidfd, data, epoll::EventFlags::IN).ok()?;
        self.held += 1;
        Some(pidfd)
    }

    fn decide(&mut self, seen: &Seen) -> Option<Decision> {
        match &self.spec.kind {
            HuntKind::Worker(workers) => workers.judge(&self.host, &mut self.judge, seen),
            HuntKind::Run { run, .. } if !seen.runs().contains(run) => None,
            HuntKind::Run { .. } | HuntKind::Sweep { .. } => {
                let judgements = &mut self.judgements;
                Some(self.judge.process(seen, |judge, run| remembered(judgements, judge, run)))
            }
            HuntKind::Process(_) => None,
        }
    }

    pub(crate) fn judgement(&mut self, run: RunId) -> RunJudgement {
        remembered(&mut self.judgements, &mut self.judge, run)
    }

    /// Takes out the targets that have ended.
    fn harvest(&mut self) {
        let host = &self.host;
        let mut ended = Vec::new();
        for (key, target) in &self.targets {
            let over = match &target.pidfd {
                Some(pidfd) => pidfd.is_ended(),
                None => host.open(&target.identity()).is_err_and(|error| error.is_gone()),
            };
            if over {
                ended.push(*key);
            }
        }
        if ended.is_empty() {
            return;
        }
        let in_charge = self.trees_in_charge();
        for key in ended {
            self.end(key, &in_charge);
        }
    }

    /// The kernel says that it is gone.
    fn end(&mut self, key: Key, in_charge: &HashSet<Tree>) {
        let Some(mut target) = self.targets.remove(&key) else { return };
        self.held -= usize::from(target.pidfd.is_some() && self.held > 0);
        let in_charge = is_in_charge(in_charge, &target);
        let found = &mut target.found;
        (found.action, found.ended_by) = match target.last {
            Some(signal) if signal != Signal::CONT => (Action::Ended, Some(signal.name())),
            _ if target.is_shim || in_charge => (Action::Ended, Some("shim")),
            _ => (Action::Gone, None),
        };
        self.others.insert(key, target.found);
    }

    /// It is not to be ended after all.
    fn forget(&mut self, key: Key) {
        if let Some(target) = self.targets.remove(&key) {
            self.held -= usize::from(target.pidfd.is_some() && self.held > 0);
        }
    }

    /// The trees that living shims are at work on.
    fn trees_in_charge(&self) -> HashSet<Tree> {
        self.targets.values().filter(|shim| shim.is_shim_in_charge()).map(|shim| shim.tree).collect()
    }

    /// Sends what is due.
    fn advance(&mut self, now: Instant, deadline: Instant) {
        let kill_at = self.kill_at(now, deadline);
        // Shims first: they decide whether the others wait.
        let mut keys: Vec<_> = self.targets.iter().map(|(key, target)| (!target.is_shim, *key)).collect();
        keys.sort_unstable();
        let mut in_charge = self.trees_in_charge();
        for (_, key) in keys {
            let Some(target) = self.targets.get(&key) else { continue };
            if target.is_given_up() || (now < kill_at && is_in_charge(&in_charge, target)) {
                continue;
            }
            let is_shim = target.is_shim;
            let Some((signal, stage)) = self.due(target, now, kill_at) else { continue };
            let outcome = self.signal(key, signal, now);
            self.note(key, signal, stage, outcome, now);
            if is_shim {
                in_charge = self.trees_in_charge();
            }
        }
    }

    /// The signal that a target is due, and the stage after it.
    fn due(&self, target: &Target, now: Instant, kill_at: Instant) -> Option<(Signal, Stage)> {
        let kill = (Signal::KILL, Stage::Killed { again: now + QUIT_GRACE });
        if let Stage::Killed { again } = target.stage {
            return (now >= again).then_some(kill);
        }
        if now >= kill_at || matches!(self.spec.kind, HuntKind::Worker(_)) {
            return Some(kill);
        }
        if target.is_shim {
            return match target.stage {
                Stage::New => {
                    Some((Signal::CONT, Stage::ShimWorks { until: self.shim_until(target, now, kill_at) }))
                }
                Stage::ShimWorks { until } if now >= until => {
                    Some((Signal::QUIT, Stage::ShimQuits { until: now + QUIT_GRACE }))
                }
                Stage::ShimQuits { until } if now >= until => Some(kill),
                _ => None,
            };
        }
        let began = self.ladders.get(&target.tree).copied().unwrap_or(now);
        match self.spec.ladder.at(now.saturating_duration_since(began)) {
            None => Some(kill),
            Some((step, signal, _)) if signal == Signal::KILL => {
                Some((signal, Stage::Step(step))).filter(|_| target.stage != Stage::Step(step))
            }
            Some((step, signal, _)) => {
                (target.stage != Stage::Step(step)).then_some((signal, Stage::Step(step)))
            }
        }
    }

    fn shim_until(&self, target: &Target, now: Instant, kill_at: Instant) -> Instant {
        let latest = kill_at.checked_sub(QUIT_GRACE).unwrap_or(now);
        target
            .seen
            .shim
            .as_ref()
            .and_then(|shim| now.checked_add(shim.patience?.saturating_add(SHIM_GRACE)))
            .map_or(latest, |own| own.min(latest))
    }

    fn note(&mut self, key: Key, signal: Signal, stage: Stage, outcome: Sent, now: Instant) {
        match outcome {
            Sent::Ended => {
                let in_charge = self.trees_in_charge();
                self.end(key, &in_charge);
            }
            Sent::Kept(Decision { verdict, run, why }) => {
                if let Some(target) = self.targets.get(&key) {
                    let kept = Match::new(&target.seen, run, verdict, why);
                    self.forget(key);
                    self.others.insert(key, kept);
                }
            }
            Sent::Blocked(reason) => {
                if let Some(target) = self.targets.get_mut(&key) {
                    target.blocked = Some(reason);
                }
            }
            Sent::Yes => {
                let Some(target) = self.targets.get_mut(&key) else { return };
                target.stage = stage;
                target.last = Some(signal);
                target.blocked = None;
                self.ladders.entry(target.tree).or_insert(now);
                let tree = target.tree;
                if target.is_shim && signal == Signal::KILL {
                    // Its worker dies with it; nobody is left who would give the rest a grace.
                    self.ladders.insert(tree, now.checked_sub(self.ladder_length()).unwrap_or(now));
                }
                self.next_pass = now + if signal == Signal::KILL { KILL_PASS } else { LADDER_PASS };
            }
        }
    }

    fn ladder_length(&self) -> Duration {
        self.spec.ladder.total().unwrap_or(Duration::from_secs(1 << 30))
    }

    /// Signals a target if, looked at once more, it is still the same process and still to be ended.
    ///
    /// The descriptor comes first and is seen alive last: whatever was read by number in between was read of its process.
    fn signal(&mut self, key: Key, signal: Signal, now: Instant) -> Sent {
        let Some(target) = self.targets.get(&key) else { return Sent::Ended };
        let identity = target.identity();
        let opened;
        let pidfd = match &target.pidfd {
            Some(pidfd) => pidfd,
            None => match PidFd::open_raw(identity.pid) {
                Ok(pidfd) => {
                    opened = pidfd;
                    &opened
                }
                Err(Errno::SRCH) => return Sent::Ended,
                Err(Errno::MFILE | Errno::NFILE) => return Sent::Blocked(Reason::DescriptorsExhausted),
                Err(Errno::INVAL | Errno::NOENT) => return Sent::Ended,
                Err(_) => return Sent::Blocked(Reason::Unreadable),
            },
        };
        if let Err(sent) = look_again(&self.host, &self.recorded, target, signal, pidfd) {
            return sent;
        }
        // The borrow of the target must end before the judge is asked.
        let seen = target.seen.clone();
        let fresh = match &self.spec.kind {
            HuntKind::Process(_) => None,
            HuntKind::Worker(workers) => Some(workers.judge(&self.host, &mut self.judge, &seen)),
            HuntKind::Run { .. } | HuntKind::Sweep { .. } => {
                let stale: Vec<_> = seen
                    .runs()
                    .into_iter()
                    .filter(|run| {
                        self.judgements
                            .get(run)
                            .is_none_or(|known| now.duration_since(known.0) > JUDGEMENT_HOLDS)
                    })
                    .collect();
                for run in stale {
                    self.judgements.remove(&run);
                    if self.judge.refresh(run).is_err() {
                        return Sent::Blocked(Reason::Unreadable);
                    }
                }
                let judgements = &mut self.judgements;
                Some(Some(self.judge.process(&seen, |judge, run| remembered(judgements, judge, run))))
            }
        };
        match fresh {
            Some(Some(decision)) if decision.verdict != Verdict::Dead => return Sent::Kept(decision),
            Some(None) => return Sent::Ended,
            _ => {}
        }
        if pidfd.is_ended() {
            return Sent::Ended;
        }
        match pidfd.signal(signal) {
            Ok(()) => {
                // A stopped process sees no signal but KILL before it continues.
                if !matches!(signal, Signal::KILL | Signal::CONT) {
                    let _ = pidfd.signal(Signal::CONT);
                }
                Sent::Yes
            }
            Err(error) if error.is_gone() => Sent::Ended,
            Err(error) if error.is_not_permitted() => Sent::Blocked(Reason::Eperm),
            Err(_) => Sent::Blocked(Reason::Unreadable),
        }
    }

    fn next_time(&self, now: Instant) -> Instant {
        let mut next = now + Duration::from_secs(1);
        if self.needs_passes() {
            next = next.min(self.next_pass.max(now + Duration::from_millis(1)));
        }
        for target in self.targets.values().filter(|target| !target.is_given_up()) {
            if target.pidfd.is_none() || target.blocked.is_some() {
                next = next.min(now + UNHELD_LOOK);
            }
            next = match target.stage {
                Stage::ShimWorks { until } | Stage::ShimQuits { until } => next.min(until),
                Stage::Killed { again } => next.min(again),
                Stage::New => next,
                Stage::Step(_) => {
                    let began = self.ladders.get(&target.tree).copied().unwrap_or(now);
                    match self.spec.ladder.at(now.saturating_duration_since(began)) {
                        Some((_, _, Some(ends))) => next.min(began + ends),
                        _ => next,
                    }
                }
            };
        }
        let reserve = (self.spec.deadline / 4).min(SHIM_GRACE);
        let kill_at = self.began.checked_add(self.spec.deadline).and_then(|end| end.checked_sub(reserve));
        match kill_at {
            Some(kill_at) if kill_at > now => next.min(kill_at),
            _ => next,
        }
    }

    /// What still may live is named; what was seen is listed.
    fn finish(&mut self) {
        self.harvest();
        if is_scarce() {
            reserve_descriptors();
        }
        for (key, mut target) in std::mem::take(&mut self.targets) {
            if let Ok(stat) = self.host.stat(target.identity().pid, &mut Vec::new())
                && stat.start_ticks == target.identity().start_ticks
            {
                target.found.state = stat.state;
            }
            let reason = target.blocked.unwrap_or(match (target.found.state, target.stage) {
                ('D', _) => Reason::Uninterruptible,
                (_, Stage::Killed { .. }) => Reason::KillPending,
                _ => Reason::Deadline,
            });
            target.found.action = Action::Survived;
            self.report.survivors.push(target.found.survivor(reason));
            self.others.insert(key, target.found);
        }
        self.close_books();
    }
}

/// Whether a living shim is in charge of a process, itself being none.
fn is_in_charge(trees: &HashSet<Tree>, target: &Target) -> bool {
    let (run, worker) = target.tree;
    let of_run = || trees.iter().any(|tree| tree.0 == run);
    !target.is_shim
        && !trees.is_empty()
        && (trees.contains(&target.tree) || trees.contains(&(run, None)) || (worker.is_none() && of_run()))
}

/// Whether a mark alone makes its bearer one to be ended, as far as a mark alone can.
fn is_hunted(kind: &HuntKind, mark: &Mark, judge: impl FnOnce(RunId) -> RunJudgement) -> bool {
    let run = mark.run();
    let hunted = match kind {
        HuntKind::Worker(workers) => workers.run == run && !workers.is_others(mark),
        HuntKind::Run { run: only, .. } => *only == run && judge(run).verdict == Verdict::Dead,
        HuntKind::Sweep { mode: Mode::End, .. } => judge(run).verdict == Verdict::Dead,
        HuntKind::Sweep { mode: Mode::Report, .. } | HuntKind::Process(_) => false,
    };
    hunted && !mark.outlives()
}

fn remembered(
    judgements: &mut HashMap<RunId, (Instant, RunJudgement)>,
    judge: &mut Judge,
    run: RunId,
) -> RunJudgement {
    judgements.entry(run).or_insert_with(|| (Instant::now(), judge.run(run))).1.clone()
}

/// Reads a target again by number, its descriptor being open: the same process, with the tag it was judged by.
fn look_again(
    host: &Host,
    recorded: &[(RunId, RecordedCommand)],
    target: &Target,
    signal: Signal,
    pidfd: &PidFd,
) -> std::result::Result<(), Sent> {
    let identity = target.identity();
    if let (Some(then), Some(now)) = (identity.pidfs_inode, pidfd.inode())
        && then != now
    {
        return Err(Sent::Ended);
    }
    let mut examiner = Examiner::new(host, recorded);
    let same = |now: &Identity| now.start_ticks == identity.start_ticks;
    let brief = target.seen.mark.present().is_some() && signal == Signal::KILL;
    let looked = if target.found.verdict == Verdict::Asked {
        examiner.untagged(identity.pid).map(|seen| (seen.identity, true))
    } else if brief {
        examiner.brief(identity.pid).map(|(now, mark)| (now, mark == target.seen.mark))
    } else {
        examiner.again(identity.pid).map(|seen| (seen.identity, seen.runs() == target.seen.runs()))
    };
    match looked {
        Ok((now, _)) if !same(&now) => Err(Sent::Ended),
        Ok((_, true)) => Ok(()),
        // The number may have passed on between two reads; the descriptor tells.
        Ok((_, false)) | Err(Skipped::Untagged) if pidfd.is_ended() => Err(Sent::Ended),
        Ok((_, false)) | Err(Skipped::Untagged) => Err(Sent::Blocked(Reason::TagLost)),
        Err(Skipped::Zombie) => Err(Sent::Ended),
        Err(Skipped::Gone) if pidfd.is_ended() => Err(Sent::Ended),
        Err(Skipped::Gone) => Err(Sent::Blocked(Reason::Unreadable)),
        Err(Skipped::Failed(Errno::MFILE | Errno::NFILE)) => Err(Sent::Blocked(Reason::DescriptorsExhausted)),
        Err(Skipped::Failed(_)) => Err(Sent::Blocked(Reason::Unreadable)),
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
