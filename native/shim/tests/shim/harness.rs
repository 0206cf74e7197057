//! Starts a shim, and observes it. The observer shares nothing with the shim but the definition
//! of the mark.

use leash_tag::{Limits, Mark, RunId};
use std::fs;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::frames::{self, Frame};

/// An upper bound for every wait, even on a busy machine.
pub const BOUND: Duration = Duration::from_secs(30);

/// Returns the path of the binary under test.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("LEASH_SHIM") {
            return path.into();
        }
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("freestanding");
        let status = Command::new(env!("CARGO"))
            .args([
                "build",
                "--quiet",
                "--profile",
                "shim",
                "--features",
                "freestanding",
                "--bin",
                "leash-shim",
            ])
            .arg("--manifest-path")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
            .arg("--target-dir")
            .arg(&target)
            .status()
            .expect("cargo runs");
        assert!(status.success(), "the shim must build");
        target.join("shim/leash-shim")
    })
}

/// Returns a run id that no other test uses.
pub fn new_run() -> RunId {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let nanos = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().subsec_nanos();
    let number = (u64::from(std::process::id()) << 20)
        + (u64::from(nanos) % 1024) * 1024
        + COUNT.fetch_add(1, Ordering::Relaxed);
    RunId::from_number(number % (RunId::COUNT - 1) + 1).unwrap()
}

/// Polls until the condition holds.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + BOUND;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {BOUND:?}: {what}");
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// Waits for so many more forks on this machine (`processes` in proc_stat(5)). A search by pid
/// does not find a process that lives only as long as a fork takes.
#[track_caller]
pub fn until_forks(count: u64) {
    let forks = || -> u64 {
        let text = std::fs::read_to_string("/proc/stat").unwrap();
        text.lines().find_map(|line| line.strip_prefix("processes ")).unwrap().parse().unwrap()
    };
    let begun = forks();
    until(&format!("{count} forks"), || forks() >= begun + count);
}

/// Polls until there is a value.
#[track_caller]
pub fn find<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    until(what, || {
        found = look();
        found.is_some()
    });
    found.unwrap()
}

/// Returns the fields of `/proc/<pid>/stat` from the third on.
pub fn stat(pid: i32) -> Option<Vec<String>> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let close = text.iter().rposition(|&byte| byte == b')')?;
    let rest = String::from_utf8_lossy(text.get(close + 2..)?).into_owned();
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

pub fn state(pid: i32) -> Option<char> {
    stat(pid)?.first()?.chars().next()
}

pub fn ppid(pid: i32) -> Option<i32> {
    stat(pid)?.get(1)?.parse().ok()
}

pub fn start_ticks(pid: i32) -> u64 {
    stat(pid).and_then(|fields| fields.get(19)?.parse().ok()).expect("it lives")
}

pub fn lives(pid: i32) -> bool {
    !matches!(state(pid), None | Some('Z' | 'X'))
}

pub fn cmdline(pid: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.split(|&byte| byte == 0).map(|arg| String::from_utf8_lossy(arg).into_owned()).collect()
}

pub fn limits(pid: i32) -> Option<Limits> {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let mut fields =
        text.lines().find_map(|line| line.strip_prefix("Max file locks"))?.split_whitespace();
    let mut next = || {
        let field = fields.next()?;
        if field == "unlimited" { Some(u64::MAX) } else { field.parse().ok() }
    };
    Some(Limits { soft: next()?, hard: next()? })
}

pub fn pids() -> Vec<i32> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

/// Returns the living processes that carry the run's mark, the shim itself included.
pub fn bearers(run: RunId) -> Vec<i32> {
    pids()
        .into_iter()
        .filter(|&pid| {
            lives(pid) && limits(pid).and_then(Mark::decode).is_some_and(|mark| mark.run() == run)
        })
        .collect()
}

pub fn kill(pid: i32, signal: i32) {
    assert!(pid > 1);
    // SAFETY: only numbers.
    unsafe { libc::kill(pid, signal) };
}

/// A foreign process next to the tree, which the shim must not touch.
pub struct Decoy(Child);

impl Decoy {
    pub fn start() -> Self {
        Self(Command::new("sleep").arg("60").spawn().unwrap())
    }

    #[track_caller]
    pub fn assert_alive(&mut self) {
        assert_eq!(self.0.try_wait().unwrap(), None, "the decoy was touched");
    }
}

impl Drop for Decoy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns a full pipe: its reading end, and its writing end. Writes to the latter block, as
/// pipe(2) left it.
pub fn full_pipe() -> (OwnedFd, OwnedFd) {
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors.
    assert_eq!(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
    // SAFETY: just opened, and known to nothing else.
    let [read, write] = fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    let fd = write.as_raw_fd();
    // SAFETY: a descriptor of ours and numbers; a buffer of the given size.
    unsafe {
        libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK);
        for len in [4096, 1] {
            while libc::write(fd, [0u8; 4096].as_ptr().cast(), len) > 0 {}
        }
        libc::fcntl(fd, libc::F_SETFL, 0);
    }
    (read, write)
}

/// Returns whether writes to a description wait. The flag is the same for every process that
/// shares it.
pub fn waits(fd: &impl AsRawFd) -> bool {
    // SAFETY: only numbers.
    unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) & libc::O_NONBLOCK == 0 }
}

/// A directory of one test.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(format!("leash-shim-test-{}", new_run()));
        fs::create_dir(&path).unwrap();
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        Self(path)
    }

    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap_or_default()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A shim that is not started yet.
pub struct Plan {
    pub run: RunId,
    command: Command,
    options: Vec<String>,
    /// The arguments that follow all options.
    steps: Vec<String>,
}

impl Plan {
    /// Plans a shim as a VM starts it: stdin is the leash, stdout takes the reports, the worker
    /// has neither.
    pub fn vm() -> Self {
        Self::vm_with_stdin("null")
    }

    /// Plans a shim as a VM starts it, with this stdin for the worker.
    pub fn vm_with_stdin(stdin: &str) -> Self {
        let mut plan = Self::by_hand();
        plan.command.stdin(Stdio::piped()).stdout(Stdio::piped());
        plan.options.extend(["--worker=1", "--leash=0", "--report=1"].map(str::to_owned));
        plan.option(format!("--stdin={stdin}"))
    }

    /// Plans a shim as a person starts it.
    pub fn by_hand() -> Self {
        let mut command = Command::new(binary());
        // If PATH names directories that may not be searched, the lookup says EACCES.
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin");
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        // The tests themselves may run in the background, or under nohup(1).
        Self { run: new_run(), command, options: Vec::new(), steps: Vec::new() }.before_exec(
            || {
                for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
                    // SAFETY: no handler is installed.
                    unsafe { libc::signal(signal, libc::SIG_DFL) };
                }
            },
        )
    }

    pub fn option(mut self, option: impl Into<String>) -> Self {
        self.options.push(option.into());
        self
    }

    /// Gives the worker another number than 1.
    pub fn number(mut self, number: u16) -> Self {
        for option in self.options.iter_mut().filter(|option| option.starts_with("--worker=")) {
            *option = format!("--worker={number}");
        }
        self
    }

    /// Adds the next command of the ladder.
    pub fn step(mut self, command: &[&str]) -> Self {
        self.steps.push(format!("--step={}", command.len()));
        self.steps.extend(command.iter().map(|&argument| argument.to_owned()));
        self
    }

    pub fn with(mut self, change: impl FnOnce(&mut Command)) -> Self {
        change(&mut self.command);
        self
    }

    /// Runs a function between fork and exec of the shim.
    pub fn before_exec(self, act: impl FnMut() + Send + Sync + 'static) -> Self {
        let mut act = act;
        self.with(|command| {
            // SAFETY: the functions of the tests are single system calls.
            unsafe {
                command.pre_exec(move || {
                    act();
                    Ok(())
                })
            };
        })
    }

    pub fn has_stdout(&self) -> bool {
        self.options.iter().any(|option| option.starts_with("--stdout"))
    }

    /// Attaches a process instead of starting one. The options are those of a VM: leash, reports,
    /// a number, and no more.
    pub fn attach(mut self, target: &str) -> Tree {
        self.options.retain(|option| !option.starts_with("--stdin"));
        self.command.arg(format!("--run-id={}", self.run));
        self.command.args(&self.options).arg(format!("--attach={target}")).args(&self.steps);
        self.spawn()
    }

    pub fn start(mut self, worker: &[&str]) -> Tree {
        if self.options.iter().any(|option| option == "--report=1") && !self.has_stdout() {
            self.options.push("--stdout=null".into());
        }
        self.command.arg(format!("--run-id={}", self.run));
        self.command.args(&self.options).args(&self.steps).arg("--").args(worker);
        self.spawn()
    }

    fn spawn(mut self) -> Tree {
        let mut child = self.command.spawn().expect("the shim starts");
        Tree {
            run: self.run,
            pid: i32::try_from(child.id()).unwrap(),
            leash: child.stdin.take(),
            stdout: child.stdout.take(),
            child,
            decoy: Decoy::start(),
        }
    }

    /// Starts a shell as the worker.
    pub fn sh(self, script: &str) -> Tree {
        self.start(&["sh", "-c", script])
    }

    /// Starts one of the adversaries as the worker.
    pub fn adversary(self, role: &str) -> Tree {
        let this = std::env::current_exe().unwrap();
        self.with(|command| {
            command.env(crate::adversary::ROLE, role);
        })
        .start(&[
            this.to_str().unwrap(),
            "--exact",
            "adversary::adversary",
            "--nocapture",
            "--quiet",
        ])
    }
}

/// A running shim and the tree below it.
pub struct Tree {
    pub run: RunId,
    pub pid: i32,
    pub leash: Option<ChildStdin>,
    pub stdout: Option<ChildStdout>,
    pub child: Child,
    pub decoy: Decoy,
}

impl Tree {
    /// Returns the living processes below the shim that carry its mark.
    pub fn members(&self) -> Vec<i32> {
        bearers(self.run).into_iter().filter(|&pid| pid != self.pid).collect()
    }

    /// Waits until so many processes live.
    #[track_caller]
    pub fn grown(&self, count: usize) -> Vec<i32> {
        find(&format!("{count} processes"), || {
            Some(self.members()).filter(|pids| pids.len() >= count)
        })
    }

    /// Waits for a member that runs exactly this command.
    #[track_caller]
    pub fn member(&self, command: &str) -> i32 {
        find(command, || {
            self.members().into_iter().find(|&pid| cmdline(pid).join(" ").trim_end() == command)
        })
    }

    pub fn signal(&self, signal: i32) {
        kill(self.pid, signal);
    }

    /// Closes the leash.
    pub fn hang_up(&mut self) {
        drop(self.leash.take());
    }

    /// Waits for the shim's end, and checks that at this very moment nothing of its tree is left.
    #[track_caller]
    pub fn ended(&mut self) -> Ended {
        self.ended_beside(0)
    }

    /// Does the same if another process of the run may go on.
    #[track_caller]
    pub fn ended_beside(&mut self, other: i32) -> Ended {
        let deadline = Instant::now() + BOUND;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(
                Instant::now() < deadline,
                "the shim did not end; left: {:?}",
                self.members()
            );
            std::thread::sleep(Duration::from_millis(1));
        };
        let mut left = bearers(self.run);
        left.retain(|&pid| pid != other);
        assert!(
            left.is_empty(),
            "left: {:?}",
            left.iter().map(|&pid| cmdline(pid)).collect::<Vec<_>>()
        );
        self.decoy.assert_alive();
        let mut output = Vec::new();
        if let Some(mut stdout) = self.stdout.take() {
            stdout.read_to_end(&mut output).unwrap();
        }
        Ended { code: status.code().unwrap_or(-status.signal().unwrap_or(0)), output }
    }

    /// Closes the leash and waits for the end.
    #[track_caller]
    pub fn let_go(&mut self) -> Ended {
        self.hang_up();
        self.ended()
    }

    #[track_caller]
    pub fn stop(&mut self, signal: i32) -> Ended {
        self.signal(signal);
        self.ended()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        for _ in 0..200 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                break;
            }
            self.signal(libc::SIGCONT);
            self.signal(libc::SIGQUIT);
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in bearers(self.run) {
            kill(pid, libc::SIGKILL);
        }
    }
}

/// The end of a shim.
pub struct Ended {
    /// The exit code, or minus the signal.
    pub code: i32,
    pub output: Vec<u8>,
}

impl Ended {
    pub fn frames(&self) -> Vec<Frame> {
        frames::all(&self.output)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }

    /// Returns the last frame, which tells how the tree ended.
    #[track_caller]
    pub fn gone(&self) -> frames::Gone {
        match self.frames().pop() {
            Some(Frame::Gone(gone)) => gone,
            other => panic!("no last report: {other:?}"),
        }
    }
}

/// Returns whether the tests run as root. Root may still lack CAP_SYS_RESOURCE.
pub fn root() -> bool {
    // SAFETY: no arguments.
    unsafe { libc::geteuid() == 0 }
}
