//! The evidence about runs: records, tags and parents, collected over all passes.
//!
//! One living witness is enough to keep a process. To end one, every rule must agree. What is not
//! proven is kept and reported.

use crate::os::pid::Pid;
use crate::procfs::host::Host;
use crate::runs::owner::{Claim, Source};
use crate::runs::record::Record;
use crate::runs::record_file::RecordFile;
use crate::runs::run_dir::RunDir;
use crate::tags::process_reader::Examiner;
use crate::tags::scan::Scan;
use crate::tags::tagged_process::Seen;
use leash_tag::RunId;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

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
    pub(super) host: Arc<Host>,
    pub(super) dir: Option<Arc<RunDir>>,
    pub(super) records_unusable: bool,
    pub(super) asker: Asker,
    pub(super) records: HashMap<RunId, RecordFile>,
    pub(super) claims: HashMap<RunId, Vec<(Source, Claim)>>,
    // Claims of other users' processes, each with its user.
    pub(super) others: HashSet<(Claim, u32)>,
    pub(super) outer: HashSet<RunId>,
    pub(super) parents: HashMap<Pid, Option<Pid>>,
    // Every owner found alive since the last pass began.
    pub(super) living: Option<Arc<HashSet<Pid>>>,
    // The runs that such an owner itself belongs to; `None` if that is not known.
    pub(super) owners_runs: HashMap<Pid, Option<Vec<RunId>>>,
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
            self.claim(shim.args.run, Source::Argv, seen.owner_in_argv(&self.host));
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

    pub(super) fn believed(&self, run: RunId) -> Option<&Record> {
        self.records.get(&run)?.record.as_ref().ok()
    }

    /// Reads a run's record and lock anew.
    ///
    /// # Errors
    ///
    /// If nothing can be said of the file. Then nothing may be ended.
    pub fn refresh(&mut self, run: RunId) -> crate::os::error::Result<()> {
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
