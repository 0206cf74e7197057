//! The evidence about runs: records, tags and parents, collected over all passes.
//!
//! One living witness is enough to keep a process. To end one, every rule must agree. What is not
//! proven is kept and reported.

use crate::os::pid::Pid;
use crate::procfs::host::Host;
use crate::runs::owner::{OwnerRef, Source};
use crate::runs::record::Record;
use crate::runs::record_file::RecordFile;
use crate::runs::run_dir::RunDir;
use crate::tags::process_reader::ProcessReader;
use crate::tags::scan::Scan;
use crate::tags::tagged_process::TaggedProcess;
use leash_tag::RunId;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The scope of a request, and the VM that makes it.
#[derive(Clone, Debug, Default)]
pub struct Requester {
    /// The asking VM's own run.
    pub own_run: Option<RunId>,
    /// Restricts the judgement to runs whose record names this application.
    pub app: Option<String>,
    /// Whether to end what outlives its VM on purpose, too.
    pub outliving: bool,
}

/// Everything that speaks for or against runs, collected over all passes.
#[derive(Debug)]
pub struct Policy {
    pub(super) host: Arc<Host>,
    pub(super) dir: Option<Arc<RunDir>>,
    pub(super) records_unusable: bool,
    pub(super) requester: Requester,
    pub(super) records: HashMap<RunId, RecordFile>,
    pub(super) owners: HashMap<RunId, Vec<(Source, OwnerRef)>>,
    // The owners that other users' processes name, each with that user.
    pub(super) others: HashSet<(OwnerRef, u32)>,
    pub(super) outer: HashSet<RunId>,
    pub(super) parents: HashMap<Pid, Option<Pid>>,
    // Every owner found alive since the last pass began.
    pub(super) living: Option<Arc<HashSet<Pid>>>,
    // The runs that such an owner itself belongs to; `None` if that is not known.
    pub(super) owners_runs: HashMap<Pid, Option<Vec<RunId>>>,
}

impl Policy {
    /// Creates a policy that knows only the runs that this process itself belongs to.
    #[must_use]
    pub fn new(host: Arc<Host>, dir: Option<Arc<RunDir>>, requester: Requester) -> Self {
        let outer = outer_runs(&host);
        Self {
            host,
            dir,
            records_unusable: false,
            requester,
            records: HashMap::new(),
            owners: HashMap::new(),
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
    pub fn observe_records(&mut self, files: &[RecordFile]) {
        self.records = files.iter().map(|file| (file.run, file.clone())).collect();
        for file in files {
            self.observe_record(file);
        }
    }

    /// Takes in the result of a pass. An owner once named is checked
    /// every time.
    pub fn observe_scan(&mut self, scan: &Scan) {
        self.forget_pass();
        for process in &scan.tagged {
            self.parents.insert(process.identity.pid, process.parent);
            self.observe_process(process);
        }
    }

    /// Forgets parents and owners, because parents change and owners die.
    pub(crate) fn forget_pass(&mut self) {
        self.parents.clear();
        self.owners_runs.clear();
        self.living = None;
    }

    /// Takes in the owner that a process names for its run.
    ///
    /// Only a process of this user is a witness. Another user's process could keep a dead run of
    /// ours alive, or convict a live one. Ignoring it ends nothing, because a run without a
    /// witness has an unknown owner and is kept.
    ///
    /// What another user's process says still counts for its own process and the descendants of
    /// that process (see [`Policy::is_under_live_owner`]).
    pub(crate) fn observe_process(&mut self, process: &TaggedProcess) {
        if !process.is_of(self.host.uid()) {
            let owner = process.env.present().and_then(OwnerRef::of_env);
            if let Some((owner, uids)) = owner.zip(process.uids) {
                if self.others.insert((owner, uids.real)) {
                    self.living = None;
                }
            }
            return;
        }
        if let Some(tag) = process.env.present() {
            self.add_owner(tag.run, Source::Env, OwnerRef::of_env(tag));
        }
        if let Some(shim) = &process.shim {
            self.add_owner(shim.args.run, Source::Argv, process.owner_in_argv(&self.host));
        }
    }

    fn observe_record(&mut self, file: &RecordFile) {
        if let Ok(record) = &file.record {
            self.add_owner(file.run, Source::Record, OwnerRef::of_record(&record.owner));
        }
    }

    fn add_owner(&mut self, run: RunId, source: Source, owner: Option<OwnerRef>) {
        let owners = self.owners.entry(run).or_default();
        if let Some(owner) = owner {
            if !owners.contains(&(source, owner)) {
                owners.push((source, owner));
                self.living = None;
            }
        }
    }

    /// Returns every run that a process or a record names.
    #[must_use]
    pub fn runs(&self) -> Vec<RunId> {
        let mut runs: Vec<_> = self.owners.keys().chain(self.records.keys()).copied().collect();
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
        self.requester.app.as_ref().is_none_or(|asked| app() == Some(asked))
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
                self.observe_record(&file);
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
    let mut reader = ProcessReader::new(host, &[]);
    for &pid in std::iter::once(&host.me().pid).chain(host.ancestors()) {
        if let Ok(process) = reader.read_all(pid) {
            runs.extend(process.runs());
        }
    }
    runs
}
