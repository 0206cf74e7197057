//! A directory that looks like `/proc`, for states that no test machine can produce.

use super::TestDir;
use leash_core::{Host, Pid, Policy, RecordFile, Requester, ScanOptions, Verdict, scan};
use leash_tag::{Limits, Mark, RunId, WorkerNumber};
use std::fmt::Write as _;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;

pub const BOOT: &str = "0a1b2c3d-0000-0000-0000-000000000000";
pub const NS: u64 = 4_026_531_836;
pub const ME: i32 = 100;

pub struct Image {
    pub dir: TestDir,
    /// The records of the run directory.
    pub records: Vec<RecordFile>,
}

#[derive(Clone)]
pub struct Entry<'a> {
    pub comm: &'a [u8],
    pub state: char,
    pub parent: u32,
    pub ticks: u64,
    pub limits: Limits,
    pub environ: &'a [u8],
    pub cmdline: &'a [u8],
    pub cgroup: &'a [u8],
    /// The user, if it is not the test's own.
    pub uid: Option<u32>,
}

pub const PLAIN: Entry<'static> = Entry {
    comm: b"x",
    state: 'S',
    parent: 1,
    ticks: 5_000,
    limits: Limits::UNLIMITED,
    environ: b"A=1\0",
    cmdline: b"x\0",
    cgroup: b"0::/\n",
    uid: None,
};

impl Image {
    pub fn new() -> Self {
        let image = Self { dir: TestDir::new(), records: Vec::new() };
        std::fs::create_dir_all(image.path("sys/kernel/random")).unwrap();
        std::fs::write(image.path("sys/kernel/random/boot_id"), format!("{BOOT}\n")).unwrap();
        image.add(1, &Entry { parent: 0, ticks: 1, ..PLAIN });
        image.add(ME.unsigned_abs(), &PLAIN);
        std::fs::create_dir(image.path("100/ns")).unwrap();
        symlink(format!("pid:[{NS}]"), image.path("100/ns/pid")).unwrap();
        symlink("100", image.path("self")).unwrap();
        image
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.path.join(path)
    }

    pub fn add(&self, pid: u32, entry: &Entry<'_>) {
        let Entry { comm, state, parent, ticks, limits, environ, cmdline, cgroup, uid } = entry;
        std::fs::create_dir(self.path(&pid.to_string())).unwrap();
        let mut stat = format!("{pid} (").into_bytes();
        stat.extend_from_slice(comm);
        let mut rest = format!(") {state} {parent} 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {ticks}");
        for field in 23..=52 {
            write!(rest, " {field}").unwrap();
        }
        stat.extend_from_slice(rest.as_bytes());
        let write = |file: &str, text: &[u8]| {
            std::fs::write(self.path(&format!("{pid}/{file}")), text).unwrap()
        };
        write("stat", &stat);
        write("environ", environ);
        write("cmdline", cmdline);
        write(
            "limits",
            format!("Max file locks {} {} locks\n", limits.soft, limits.hard).as_bytes(),
        );
        let uid = uid.unwrap_or_else(|| rustix::process::geteuid().as_raw());
        write("cgroup", cgroup);
        write("status", format!("Name:\tx\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n").as_bytes());
        if uid != rustix::process::geteuid().as_raw() {
            std::os::unix::fs::chown(self.path(&pid.to_string()), Some(uid), None).unwrap();
        }
    }

    pub fn host(&self) -> Arc<Host> {
        let uid = rustix::process::geteuid().as_raw();
        Arc::new(Host::image(&self.dir.path, Pid::new(ME).unwrap(), uid).unwrap())
    }

    /// Returns the verdict on a process.
    pub fn verdict(&self, pid: u32) -> Option<Verdict> {
        let host = self.host();
        let result = scan(&host, &ScanOptions::ALL);
        let mut policy = Policy::new(host, None, Requester::default());
        policy.observe_records(&self.records);
        policy.observe_scan(&result);
        let process =
            result.tagged.iter().find(|process| process.identity.pid.as_u32() == pid)?.clone();
        Some(policy.judge_process(&process, |policy, run| policy.judge_run(run)).verdict)
    }
}

pub fn run() -> RunId {
    "s59m65f".parse().unwrap()
}

pub fn limits(worker: u16) -> Limits {
    Mark::nested_in(Limits::UNLIMITED, run(), WorkerNumber::new(worker), false).unwrap().limits()
}

pub fn env(pid: u32, ticks: u64, ns: u64, boot: &str) -> Vec<u8> {
    format!("LEASH_RUN={}.1.{pid}.{ticks}.{ns}.{boot}\0", run()).into_bytes()
}
