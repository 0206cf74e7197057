//! Whether a run is dead, and whether one of its processes may be ended.
//!
//! One living witness is enough to keep a process. To end one, every rule must agree. What is not
//! proven is kept and reported.

use crate::descent::is_plausible;
use crate::host::Host;
use crate::record::{Record, RecordedCommand};
use crate::record_file::{Lock, RecordFile};
use crate::run_dir::RunDir;
use crate::scan::Scan;
use crate::seen::{Examiner, Skipped};
use crate::witness::{Claim, OwnerState, Source};
use crate::{Pid, Refusal, Seen};
use leash_tag::{OwnerTag, RunId};
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

// A worker begins within moments of the line that records its command. A machine under load may
// need a while.
const RECORDED_START_WITHIN: u64 = 60;
const DEPTH: usize = 256;

/// The finding about a run or a process of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Verdict {
    /// Run: the asking VM's own.
    Own,
    /// Run: a witness of its owner lives.
    Live,
    /// Run: provably over. Process: to be ended.
    Dead,
    /// Run: its witnesses disagree.
    Disputed,
    /// Run: no witness names its owner, or nothing tells whether the owner lives.
    UnknownOwner,
    /// Run: the asking VM or an ancestor of it belongs to it.
    OwnOuterRun,
    /// Run: its owner's pid namespace is not ours.
    ForeignNamespace,
    /// Run: its record is of another boot and nothing else speaks of it.
    Stale,
    /// Run: not one of the application that is asked for.
    OutOfScope,
    /// Process: it outlives its VM on purpose.
    Outlives,
    /// Process: the owner of a live run, or a descendant of one.
    LiveRunOwner,
    /// Process: older than its run's owner.
    PredatesOwner,
    /// Process: another user's, and a condition for ending such a process is missing.
    ForeignUser,
    /// Process: only its command line speaks for the run.
    ArgvOnly,
    /// Process: only its environment speaks for the run, and it may be a copy.
    EnvOnly,
    /// Process: of the own run, but no carrier names its worker.
    UnknownWorker,
    /// Process: named by its identity, not by a tag.
    Asked,
    /// Process: pid 1, this process, an ancestor or a kernel thread.
    Refused,
}

/// A run's verdict and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunJudgement {
    /// The run.
    pub run: RunId,
    /// The verdict.
    pub verdict: Verdict,
    /// The reason, in words.
    pub why: String,
    /// Every owner that is named, the source that names it, and its state.
    pub owners: Vec<(Source, Claim, OwnerState)>,
}

/// A process's verdict, the run that decided, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The verdict. Only [`Verdict::Dead`] ends the process.
    pub verdict: Verdict,
    /// The run that decided.
    pub run: Option<RunId>,
    /// The reason, in words.
    pub why: String,
}

/// The scope of a request, and the VM that makes it.
#[derive(Clone, Debug, Default)]
pub struct Asker {
    /// The asking VM's own run.
    pub own_run: Option<RunId>,
    /// Restricts the judgement to runs whose record names this application.
    pub app: Option<String>,
    /// Whether to end what outlives its VM on purpose, too.
    pub outliving: bool,
}

/// Everything that speaks for or against runs, collected over all passes.
#[derive(Debug)]
pub struct Judge {
    host: Arc<Host>,
    dir: Option<Arc<RunDir>>,
    records_unusable: bool,
    asker: Asker,
    records: HashMap<RunId, RecordFile>,
    claims: HashMap<RunId, Vec<(Source, Claim)>>,
    // Claims of other users' processes, each with its user.
    others: HashSet<(Claim, u32)>,
    outer: HashSet<RunId>,
    parents: HashMap<Pid, Option<Pid>>,
    // Every owner found alive since the last pass began.
    living: Option<Arc<HashSet<Pid>>>,
    // The runs that such an owner itself belongs to; `None` if that is not known.
    owners_runs: HashMap<Pid, Option<Vec<RunId>>>,
}

impl Judge {
    /// Creates a judge that knows only the runs that this process itself belongs to.
    #[must_use]
    pub fn new(host: Arc<Host>, dir: Option<Arc<RunDir>>, asker: Asker) -> Self {
        let outer = outer_runs(&host);
        Self {
            host,
            dir,
            records_unusable: false,
            asker,
            records: HashMap::new(),
            claims: HashMap::new(),
            others: HashSet::new(),
            outer,
            parents: HashMap::new(),
            living: None,
            owners_runs: HashMap::new(),
        }
    }

    /// Notes whether there may be records, and locks on them, that cannot be read.
    pub(crate) fn records_are_unusable(&mut self, unusable: bool) {
        self.records_unusable = unusable;
    }

    /// Takes in the records that the run directory holds now.
    pub fn hear_records(&mut self, files: &[RecordFile]) {
        self.records = files.iter().map(|file| (file.run, file.clone())).collect();
        for file in files {
            self.hear_record(file);
        }
    }

    /// Takes in the result of a pass. Earlier claims stand, so an owner once named is checked
    /// every time.
    pub fn hear(&mut self, scan: &Scan) {
        self.forget_pass();
        for seen in &scan.seen {
            self.parents.insert(seen.identity.pid, seen.parent);
            self.hear_process(seen);
        }
    }

    /// Forgets parents and owners, because parents change and owners die.
    pub(crate) fn forget_pass(&mut self) {
        self.parents.clear();
        self.owners_runs.clear();
        self.living = None;
    }

    /// Takes in a process's claim about its run's owner.
    ///
    /// Only a process of this user is a witness. Another user's process could keep a dead run of
    /// ours alive, or convict a live one. Ignoring it ends nothing, because a run without a
    /// witness has an unknown owner and is kept.
    ///
    /// Another user's claim still counts for its own process and the descendants of that process
    /// (see [`Judge::is_under_live_owner`]).
    pub(crate) fn hear_process(&mut self, seen: &Seen) {
        if !seen.is_of(self.host.uid()) {
            let claim = seen.env.present().and_then(Claim::of_env);
            if let Some((claim, uids)) = claim.zip(seen.uids)
                && self.others.insert((claim, uids.real))
            {
                self.living = None;
            }
            return;
        }
        if let Some(tag) = seen.env.present() {
            self.claim(tag.run, Source::Env, Claim::of_env(tag));
        }
        if let Some(shim) = &seen.shim {
            self.claim(shim.args.run, Source::Argv, Claim::of_shim(&self.host, seen));
        }
    }

    fn hear_record(&mut self, file: &RecordFile) {
        if let Ok(record) = &file.record {
            self.claim(file.run, Source::Record, Claim::of_record(&record.owner));
        }
    }

    fn claim(&mut self, run: RunId, source: Source, claim: Option<Claim>) {
        let claims = self.claims.entry(run).or_default();
        if let Some(claim) = claim
            && !claims.contains(&(source, claim))
        {
            claims.push((source, claim));
            self.living = None;
        }
    }

    /// Returns every run that a claim or a record names.
    #[must_use]
    pub fn runs(&self) -> Vec<RunId> {
        let mut runs: Vec<_> = self.claims.keys().chain(self.records.keys()).copied().collect();
        runs.sort_unstable();
        runs.dedup();
        runs
    }

    /// Returns the record of a run as last read.
    #[must_use]
    pub fn record(&self, run: RunId) -> Option<&RecordFile> {
        self.records.get(&run)
    }

    /// Whether a run is one of the application that is asked for.
    pub(crate) fn is_in_scope(&self, run: RunId) -> bool {
        let app = || self.believed(run).map(|record| &record.about.app);
        self.asker.app.as_ref().is_none_or(|asked| app() == Some(asked))
    }

    fn believed(&self, run: RunId) -> Option<&Record> {
        self.records.get(&run)?.record.as_ref().ok()
    }

    /// Reads a run's record and lock anew.
    ///
    /// # Errors
    ///
    /// If nothing can be said of the file. Then nothing may be ended.
    pub fn refresh(&mut self, run: RunId) -> crate::Result<()> {
        let Some(dir) = &self.dir else { return Ok(()) };
        match dir.record(run)? {
            Some(file) => {
                self.hear_record(&file);
                self.records.insert(run, file);
            }
            None => {
                self.records.remove(&run);
            }
        }
        Ok(())
    }

    /// Judges a run by every witness, and checks each of them now.
    #[must_use]
    pub fn run(&self, run: RunId) -> RunJudgement {
        let owners: Vec<_> = self
            .claims
            .get(&run)
            .into_iter()
            .flatten()
            .map(|&(source, claim)| (source, claim, claim.state(&self.host)))
            .collect();
        let (verdict, why) = self.weigh(run, &owners);
        RunJudgement { run, verdict, why: why.into(), owners }
    }

    fn weigh(
        &self,
        run: RunId,
        owners: &[(Source, Claim, OwnerState)],
    ) -> (Verdict, &'static str) {
        use OwnerState::{Alive, ForeignNamespace, Gone, OtherBoot, Unknown};
        if self.asker.own_run == Some(run) {
            return (Verdict::Own, "it is this VM's own run");
        }
        if self.outer.contains(&run) {
            return (Verdict::OwnOuterRun, "this VM or an ancestor of it belongs to that run");
        }
        let any = |state| owners.iter().any(|owner| owner.2 == state);
        if any(Alive) {
            return (Verdict::Live, "its owner lives");
        }
        // A record of another boot is no witness of this boot's processes. A process of this boot
        // that names another boot is a contradiction.
        let stale = |owner: &&(Source, Claim, OwnerState)| {
            owner.0 == Source::Record && owner.2 == OtherBoot
        };
        let speaking = owners.iter().filter(|owner| !stale(owner)).count();
        let every = |state| {
            speaking > 0 && owners.iter().filter(|o| !stale(o)).all(|owner| owner.2 == state)
        };
        let file = self.records.get(&run);
        let unread = if self.records_unusable { Lock::Unknown } else { Lock::Free };
        match file.map_or(unread, |file| file.lock) {
            Lock::Free => {}
            // A child that a NIF forked in the VM keeps the lock open after its owner is gone.
            Lock::Held if every(Gone) && owners.iter().any(|owner| owner.0 == Source::Record) => {
            }
            Lock::Held if any(Gone) || any(OtherBoot) => {
                return (
                    Verdict::Disputed,
                    "its lock is held, but its witnesses say that its owner is gone",
                );
            }
            Lock::Held => return (Verdict::Live, "its lock is held"),
            Lock::Unknown if file.is_some_and(|file| file.record.is_err()) && speaking > 0 => {}
            Lock::Unknown => return (Verdict::UnknownOwner, "its lock cannot be tried"),
        }
        if speaking == 0 && any(OtherBoot) {
            return (Verdict::Stale, "its record is of another boot");
        }
        if owners.is_empty() {
            return (Verdict::UnknownOwner, "nobody says who owns it");
        }
        if every(Gone) {
            return (Verdict::Dead, "its owner is gone and nobody holds its lock");
        }
        if every(ForeignNamespace) {
            return (Verdict::ForeignNamespace, "its owner's pid namespace is not this one");
        }
        if any(Gone) && !any(Unknown) {
            return (Verdict::Disputed, "its witnesses name owners of different fates");
        }
        (Verdict::UnknownOwner, "whether its owner lives cannot be told")
    }

    /// Judges a process by the rules of the sweep. `runs` gives each run's verdict.
    pub fn process(
        &mut self,
        seen: &Seen,
        mut runs: impl FnMut(&mut Self, RunId) -> RunJudgement,
    ) -> Decision {
        let decide = |verdict, run, why: &str| Decision { verdict, run, why: why.to_owned() };
        let named = seen.runs();
        let Some(&first) = named.first() else {
            return decide(Verdict::UnknownOwner, None, "no carrier names a run");
        };
        if let Some(refusal) = self.refusal(seen) {
            return decide(Verdict::Refused, Some(first), &refusal.to_string());
        }
        // Every run that any carrier names must be dead. The first run that is not dead decides.
        let mut predates = false;
        for &run in &named {
            let judgement = runs(self, run);
            // A foreign process is no witness, so its run may be unknown. Its user explains the
            // verdict better.
            if judgement.verdict == Verdict::UnknownOwner
                && let Some(why) = self.foreign_user(seen, run)
            {
                return decide(Verdict::ForeignUser, Some(run), why);
            }
            if judgement.verdict != Verdict::Dead {
                let verdict = match judgement.verdict {
                    // The only record of this process's run is of another boot, so no witness
                    // names an owner.
                    Verdict::Stale => Verdict::UnknownOwner,
                    other => other,
                };
                return decide(verdict, Some(run), &judgement.why);
            }
            if !self.is_in_scope(run) {
                return decide(
                    Verdict::OutOfScope,
                    Some(run),
                    "it is not this application's run",
                );
            }
            let began = judgement
                .owners
                .iter()
                .map(|owner| owner.1.start_ticks)
                .max()
                .unwrap_or(u64::MAX);
            predates |= seen.identity.start_ticks < began && !self.is_attached(seen, run);
        }
        self.of_dead_run(seen, first, predates)
    }

    /// Whether a process has exactly the mark, soft limit and hard, of a worker that the run's
    /// record lists as attached.
    ///
    /// Only we can write that record. Only the process itself, its user or its parents can have
    /// set the mark. So the process may be older than the owner.
    fn is_attached(&self, seen: &Seen, run: RunId) -> bool {
        let marked =
            seen.mark.present().filter(|mark| mark.run() == run).and_then(|mark| mark.worker());
        marked.zip(self.believed(run)).is_some_and(|(worker, record)| {
            record.attachments.iter().any(|attachment| attachment.worker == worker.get())
        })
    }

    fn of_dead_run(&mut self, seen: &Seen, run: RunId, predates: bool) -> Decision {
        let decide =
            |verdict, why: &str| Decision { verdict, run: Some(run), why: why.to_owned() };
        if !self.asker.outliving && seen.mark.present().is_some_and(|mark| mark.outlives()) {
            return decide(Verdict::Outlives, "it outlives its VM on purpose");
        }
        if self.is_under_live_owner(seen, &seen.runs()) {
            return decide(
                Verdict::LiveRunOwner,
                "it owns a live run, or descends from an owner of one",
            );
        }
        if predates {
            return decide(Verdict::PredatesOwner, "it is older than its run's owner");
        }
        if let Some(why) = self.foreign_user(seen, run) {
            return decide(Verdict::ForeignUser, why);
        }
        let is_warden = || seen.shim_of(self.host.uid()).is_some_and(|shim| shim.is_warden);
        if seen.mark.present().is_some() || self.is_recorded_worker(seen) || is_warden() {
            return decide(Verdict::Dead, "its run is dead");
        }
        let Some(env) = seen.env.present() else {
            return decide(Verdict::ArgvOnly, "only its command line names the run");
        };
        if let Err(why) = self.descends(seen, env) {
            return decide(Verdict::EnvOnly, why);
        }
        decide(Verdict::Dead, "its run is dead")
    }

    /// Whether a process of a dead run that has its environment tag and no mark descends from
    /// that run.
    fn descends(&self, seen: &Seen, env: &OwnerTag) -> Result<(), &'static str> {
        if seen.shim_of(self.host.uid()).is_some_and(|shim| shim.args.run == env.run) {
            return Ok(());
        }
        let Some(record) = self.believed(env.run) else {
            return Err("only its environment names the run, which has no record here");
        };
        let unmarked = record.unmarked.contains(&env.worker.get());
        is_plausible(&self.host, seen, env.run, &record.mark_loss, unmarked)
    }

    /// Returns why a process of another user is kept. Returns `None` for our own, and if all
    /// conditions hold.
    fn foreign_user(&self, seen: &Seen, run: RunId) -> Option<&'static str> {
        self.foreign_bearer(seen, run).or_else(|| {
            let is_ours = self.is_of_this_user(seen) || self.believed(run).is_some();
            (!is_ours).then_some("it is another user's and the run has no record here")
        })
    }

    fn is_of_this_user(&self, seen: &Seen) -> bool {
        seen.uids.is_some_and(|uids| uids.real == self.host.uid() && uids.effective == uids.real)
    }

    /// As `foreign_user`, for a run that is known as ours without a record. It is the asking
    /// VM's, or the VM held the tree's shim.
    pub(crate) fn foreign_bearer(&self, seen: &Seen, run: RunId) -> Option<&'static str> {
        if seen.uids.is_none() {
            return Some("whose it is cannot be read");
        }
        let is_marked = seen.mark.present().is_some_and(|mark| mark.run() == run);
        (!is_marked && !self.is_of_this_user(seen))
            .then_some("it is another user's and its hard mark does not name the run")
    }

    fn is_recorded_worker(&self, seen: &Seen) -> bool {
        let clock = self.host.clock();
        seen.recorded.is_some_and(|recorded| {
            recorded.at_ticks.is_some_and(|at| {
                let started = seen.identity.start_ticks;
                started.saturating_add(1) >= at
                    && started <= at.saturating_add(clock.ticks(RECORDED_START_WITHIN))
            })
        })
    }

    pub(crate) fn refusal(&self, seen: &Seen) -> Option<Refusal> {
        let thread = || seen.kernel_thread.then_some(Refusal::KernelThread);
        self.host.refusal_of_user_process(seen.identity.pid).or_else(thread)
    }

    /// Whether a process is the living owner of a run nested in one of `runs`, or descends from
    /// such an owner.
    ///
    /// An owner that belongs to none of `runs` does not count. Orphans of a dead run inside a
    /// live one also descend from the live run's VM, and belong to no living owner.
    pub(crate) fn is_under_live_owner(&mut self, seen: &Seen, runs: &[RunId]) -> bool {
        let host = Arc::clone(&self.host);
        let living = match &self.living {
            Some(living) => Arc::clone(living),
            None => Arc::clone(self.living.insert(Arc::new(self.living_owners()))),
        };
        if living.is_empty() {
            return false;
        }
        let mut examiner = Examiner::new(&host, &[]);
        let mut buffer = Vec::new();
        // If the parent is not known, the process may descend from any of the owners.
        if seen.parent.is_none() && seen.identity.known_start().is_none() {
            let others = living.iter().filter(|&&owner| owner != host.me().pid);
            return others.copied().any(|owner| {
                owner == seen.identity.pid || self.belongs(owner, runs, &mut examiner)
            });
        }
        let mut pid = Some(seen.identity.pid);
        for _ in 0..DEPTH {
            let Some(current) = pid else { return false };
            if living.contains(&current)
                && (current == seen.identity.pid || self.belongs(current, runs, &mut examiner))
            {
                return true;
            }
            pid = match self.parents.get(&current) {
                Some(&parent) => parent,
                None => {
                    let parent = host.parent_of(current, &mut buffer);
                    self.parents.insert(current, parent);
                    parent
                }
            };
        }
        // No real chain is this long. Nothing is proven, so the process counts as one to keep.
        true
    }

    /// Returns every owner that lives. An owner that `/proc` hides may be alive, so it counts.
    ///
    /// A claim of another user counts only if it names a process of that same user. That user
    /// then speaks for its own process.
    fn living_owners(&self) -> HashSet<Pid> {
        let host = &self.host;
        let may_live = |claim: &Claim| match claim.state(host) {
            OwnerState::Alive => true,
            OwnerState::Unknown => host.hides_processes(),
            OwnerState::Gone | OwnerState::OtherBoot | OwnerState::ForeignNamespace => false,
        };
        let is_of = |claim: &Claim, uid| {
            host.proc()
                .uids(claim.pid, &mut Vec::new())
                .is_ok_and(|uids| uids.is_some_and(|it| it.are(uid)))
        };
        let ours = self.claims.values().flatten().map(|(_, claim)| claim);
        let theirs =
            self.others.iter().filter(|(claim, uid)| is_of(claim, *uid)).map(|(claim, _)| claim);
        ours.chain(theirs).filter(|claim| may_live(claim)).map(|claim| claim.pid).collect()
    }

    /// Whether an owner itself belongs to one of these runs, or whether that is not known.
    fn belongs(&mut self, owner: Pid, runs: &[RunId], examiner: &mut Examiner<'_>) -> bool {
        let named =
            self.owners_runs.entry(owner).or_insert_with(|| match examiner.again(owner) {
                Ok(owner) => Some(owner.runs()),
                Err(Skipped::Untagged | Skipped::Gone | Skipped::Zombie) => Some(Vec::new()),
                Err(Skipped::Failed(_)) => None,
            });
        named.as_ref().is_none_or(|named| named.iter().any(|run| runs.contains(run)))
    }
}

/// Returns the runs that this process or an ancestor of it carries. Its own siblings are in them.
fn outer_runs(host: &Host) -> HashSet<RunId> {
    let mut runs = HashSet::new();
    let mut examiner = Examiner::new(host, &[]);
    for &pid in std::iter::once(&host.me().pid).chain(host.ancestors()) {
        if let Ok(seen) = examiner.again(pid) {
            runs.extend(seen.runs());
        }
    }
    runs
}

/// Returns every command that a believed record of this boot names.
pub(crate) fn recorded_commands(records: &[RecordFile]) -> Vec<(RunId, RecordedCommand)> {
    let believed = records.iter().filter_map(|file| file.record.as_ref().ok());
    believed
        .flat_map(|record| record.commands.iter().map(|command| (record.run, command.clone())))
        .collect()
}
