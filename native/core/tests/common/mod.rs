//! The common parts of the tests: a pid namespace, stand-ins for VMs, tagged processes, and
//! checks from outside.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use leash_core::{
    About, Cleanup, CleanupKind, CleanupSpec, Host, Identity, Ladder, MarkLoss, Mode, Owner, Pid,
    Record, Report, RunDir,
};
use leash_tag::{ENV_NAME, Limits, Mark, RunId, WorkerNumber};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub mod image;
mod isolated;
#[allow(unused_imports, reason = "each test binary uses its own part")]
pub use isolated::{isolated, isolated_by};

/// A run directory that is removed with the test.
pub struct TestDir {
    pub path: PathBuf,
}

impl TestDir {
    pub fn new() -> Self {
        let path = std::env::temp_dir()
            .join(format!("leash-core-{}", leash_core::generate_run_id().unwrap()));
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        Self { path }
    }

    pub fn open(&self) -> Arc<RunDir> {
        Arc::new(RunDir::open(&self.path).unwrap())
    }

    pub fn record_path(&self, run: RunId) -> PathBuf {
        self.path.join(format!("{run}.json"))
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// A child that is killed and reaped with its handle.
pub struct Process(pub Child);

impl Process {
    pub fn pid(&self) -> Pid {
        Pid::from_u32(self.0.id()).unwrap()
    }

    pub fn identity(&self) -> Identity {
        leash_core::identify(self.pid()).unwrap()
    }

    pub fn is_alive(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    pub fn die(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.die();
    }
}

/// A process that stands for a VM.
pub struct Vm {
    pub process: Process,
    pub run: RunId,
    pub owner: Owner,
}

impl Vm {
    pub fn start() -> Self {
        Self::of(sleeper(&mut Command::new("sleep")))
    }

    pub fn of(process: Process) -> Self {
        let host = Host::current().unwrap();
        let identity = process.identity();
        let owner = Owner {
            pid: identity.pid.as_u32(),
            start_ticks: identity.start_ticks,
            boot_id: host.boot_id().unwrap().to_owned(),
            pid_ns: host.pid_ns().unwrap(),
        };
        Self { process, run: leash_core::generate_run_id().unwrap(), owner }
    }

    /// Returns a VM that has ended and left its record.
    pub fn dead(dir: &TestDir) -> Self {
        let mut vm = Self::start();
        vm.record(dir, "test");
        vm.process.die();
        vm
    }

    pub fn record(&self, dir: &TestDir, app: &str) -> PathBuf {
        self.record_with(dir, app, &MarkLoss::default())
    }

    pub fn record_with(&self, dir: &TestDir, app: &str, loss: &MarkLoss) -> PathBuf {
        let about = About { app: app.into(), ..About::default() };
        let path = dir.record_path(self.run);
        std::fs::write(&path, Record::head_line(self.run, &self.owner, &about, loss)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    pub fn env(&self, worker: u16) -> String {
        let Owner { pid, start_ticks, boot_id, pid_ns } = &self.owner;
        format!("{}.{worker}.{pid}.{start_ticks}.{pid_ns}.{}", self.run, &boot_id[..8])
    }

    /// Returns a command that marks itself and has this run's environment tag.
    pub fn worker(&self, worker: u16, program: &str) -> Command {
        let mut command = self.marked(worker, program);
        command.env(ENV_NAME, self.env(worker));
        command
    }

    /// Returns a command that marks itself and has an empty environment.
    pub fn marked(&self, worker: u16, program: &str) -> Command {
        let mark = Mark::nested_in(Limits::UNLIMITED, self.run, WorkerNumber::new(worker), false)
            .unwrap();
        let mut command = under(mark, program);
        command.env_clear();
        command
    }

    /// Returns a command with the environment tag alone.
    pub fn tagged(&self, worker: u16, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env(ENV_NAME, self.env(worker));
        command
    }
}

/// Returns a command that sets a mark on itself and then becomes `program`.
pub fn under(mark: Mark, program: &str) -> Command {
    let Limits { soft, hard } = mark.limits();
    let mut command = Command::new("prlimit");
    command.arg(format!("--locks={soft}:{hard}")).arg("--").arg(program);
    command
}

/// Starts `sleep 60` with this environment tag below a shell that exits at once, so that pid 1
/// adopts it. The caller needs a pid namespace that ends with the test.
pub fn orphan(vm: &Vm, worker: u16) -> Pid {
    let output = vm
        .tagged(worker, "sh")
        .args(["-c", "sleep 60 >/dev/null 2>&1 & echo $!"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let pid = Pid::parse(output.stdout.trim_ascii()).unwrap();
    settle(pid);
    pid
}

/// Starts a command with the argument `60`.
pub fn sleeper(command: &mut Command) -> Process {
    start(command.arg("60"))
}

pub fn start(command: &mut Command) -> Process {
    let process = Process(command.stdin(Stdio::null()).spawn().unwrap());
    settle(process.pid());
    process
}

/// Waits until a `prlimit` in front of a command has become that command.
pub fn settle(pid: Pid) {
    wait_until("the command to begin", || {
        std::fs::read(format!("/proc/{pid}/comm"))
            .is_ok_and(|comm| comm != b"prlimit\n" && comm != b"setpriv\n")
            && std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|cmdline| !cmdline.is_empty())
    });
}

pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Returns whether any part of a process runs, without the crate under test.
pub fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with(['Z', 'X'])
    })
}

/// Returns every running process whose hard limit holds a run's mark, without the crate under
/// test.
pub fn marked_and_running(run: RunId) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let limits =
                std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
            let line =
                limits.lines().find(|line| line.starts_with("Max file locks")).unwrap_or("");
            let hard = line.split_whitespace().nth(4).and_then(|word| word.parse::<u64>().ok());
            hard.is_some_and(|hard| {
                (hard >> 16) & ((1 << 37) - 1) == run.number() && hard >> 56 == 0x4c
            }) && is_running(*pid)
        })
        .collect()
}

pub fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}

pub fn spec(dir: &Path, kind: CleanupKind) -> CleanupSpec {
    CleanupSpec {
        kind,
        ladder: Ladder::new(vec![(leash_core::Signal::TERM, ms(200))]),
        deadline: ms(5_000),
        run_dir: Some(Arc::new(RunDir::open(dir).unwrap())),
        records_unusable: false,
    }
}

pub fn sweep(dir: &TestDir) -> Report {
    sweep_as(dir, Mode::End)
}

pub fn sweep_as(dir: &TestDir, mode: Mode) -> Report {
    Cleanup::new(spec(&dir.path, CleanupKind::Sweep { own_run: None, app: None, mode }))
        .unwrap()
        .run()
}

/// Returns the entry of a report about a process.
pub fn found(report: &Report, pid: Pid) -> Option<&leash_core::report::Match> {
    report.matches.iter().find(|found| found.pid == pid.as_u32())
}

pub fn fake_shim() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().and_then(Path::parent).unwrap().join("examples/fake_shim");
    assert!(program.exists(), "examples are built by `cargo test` without `--test`");
    program
}
