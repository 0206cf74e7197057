//! Races between the shim and all other processes, every one of them. The test holds the shim at
//! each of its system calls in turn, until the other side has acted.

use crate::frames::Frame;
use crate::harness::{BOUND, Plan, Tree, cmdline, state};
use std::fs;
use std::time::{Duration, Instant};

/// The time in which a held shim must come to its next system call. After that time it counts as
/// waiting for another process.
const IDLE: Duration = Duration::from_millis(250);

/// A time longer than a shim waits until its worker counts as one that stays.
const SETTLED: Duration = Duration::from_millis(60);

/// A held shim. ptrace(2) lets only this thread hold it.
struct Held {
    pid: i32,
}

enum Stop {
    /// The shim is at the entry or the exit of a system call.
    Call,
    /// The shim waits, or has ended.
    None,
}

impl Held {
    /// Starts a plan whose shim stops at its exec and is held by this thread.
    fn start(plan: Plan, worker: &[&str]) -> (Self, Tree) {
        let tree = plan
            .before_exec(|| {
                // SAFETY: a system call with numbers.
                unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
            })
            .start(worker);
        let held = Self { pid: tree.pid };
        assert!(held.wait(IDLE).is_some(), "it stops at its exec");
        // TRACESYSGOOD distinguishes these stops from signals; EXITKILL ends the shim with this
        // thread.
        held.ptrace(
            libc::PTRACE_SETOPTIONS,
            libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL,
        );
        (held, tree)
    }

    fn ptrace(&self, request: libc::c_uint, data: libc::c_int) {
        // SAFETY: requests that take numbers.
        unsafe { libc::ptrace(request, self.pid, 0, libc::c_long::from(data)) };
    }

    /// Returns the signal of a stop, if the shim stopped. Its end is left for the harness to see.
    fn wait(&self, idle: Duration) -> Option<i32> {
        let deadline = Instant::now() + idle;
        loop {
            let mut status = 0;
            // Only waitid has WNOWAIT. So this looks at the state first: a process that has ended
            // must stay a zombie.
            if matches!(state(self.pid), None | Some('Z' | 'X')) {
                return None;
            }
            // SAFETY: `status` is ours.
            let pid = unsafe {
                libc::waitpid(self.pid, &raw mut status, libc::WNOHANG | libc::WUNTRACED)
            };
            if pid == self.pid && libc::WIFSTOPPED(status) {
                return Some(libc::WSTOPSIG(status));
            }
            if Instant::now() > deadline {
                return None;
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    fn next(&self) -> Stop {
        self.next_within(IDLE)
    }

    fn next_within(&self, idle: Duration) -> Stop {
        let mut signal = 0;
        loop {
            self.ptrace(libc::PTRACE_SYSCALL, signal);
            match self.wait(idle) {
                Some(stop) if stop == libc::SIGTRAP | 0x80 => return Stop::Call,
                // The shim must get its signals.
                Some(stop) => signal = stop,
                None => return Stop::None,
            }
        }
    }

    fn child(&self) -> Option<i32> {
        let list = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid)).ok()?;
        list.split_whitespace().next()?.parse().ok()
    }

    fn release(self) {
        self.ptrace(libc::PTRACE_DETACH, 0);
    }
}

/// Holds a shim at the `nth` stop since its worker exists, until the worker is a zombie. Returns
/// `None` if there are not so many stops.
fn worker_ends_at(nth: usize, worker: &[&str]) -> Option<Vec<Frame>> {
    let (held, mut tree) = Held::start(Plan::vm(), worker);
    let mut seen = 0;
    loop {
        if matches!(held.next(), Stop::None) {
            return None;
        }
        let Some(child) = held.child() else { continue };
        if seen == nth {
            let deadline = Instant::now() + BOUND;
            while state(child) != Some('Z') {
                assert!(Instant::now() < deadline, "the worker ends");
                std::thread::sleep(Duration::from_micros(50));
            }
            held.release();
            return Some(tree.ended().frames());
        }
        seen += 1;
    }
}

/// Returns the reports, without the parts that differ from run to run.
fn kinds(frames: &[Frame]) -> Vec<String> {
    frames
        .iter()
        .map(|frame| match frame {
            Frame::Ready { .. } => "ready".into(),
            Frame::Started { .. } => "started".into(),
            Frame::StartFailed { stage, errno } => format!("failed {stage} {errno}"),
            Frame::Step { signal, .. } => format!("step {signal}"),
            Frame::Exited { how, status } => format!("exited {how} {status}"),
            Frame::Attached { .. } => "attached".into(),
            Frame::Gone(_) => "gone".into(),
            Frame::Spawned { .. } => "spawned".into(),
            Frame::Command { how, .. } => format!("command {how}"),
        })
        .collect()
}

#[track_caller]
fn whenever_it_ends(worker: &[&str], expected: &[&str]) {
    let mut held = 0;
    while let Some(frames) = worker_ends_at(held, worker) {
        assert_eq!(kinds(&frames), expected, "held at stop {held}");
        held += 1;
    }
    assert!(held > 5, "only {held} stops");
}

#[test]
fn a_worker_that_ends_at_any_moment_is_reported_whole() {
    whenever_it_ends(&["true"], &["ready", "started", "exited 1 0", "gone"]);
}

#[test]
fn an_exec_that_fails_at_any_moment_is_reported_as_that() {
    whenever_it_ends(&["/no/such/program"], &["ready", "failed 11 2", "gone"]);
}

/// Holds a shim at its `nth` stop, acts on it, and lets it go on.
fn at(nth: usize, act: impl FnOnce(&mut Tree)) -> Option<i32> {
    let (held, mut tree) = Held::start(Plan::vm(), &["sleep", "60"]);
    for _ in 0..nth {
        if matches!(held.next(), Stop::None) {
            return None;
        }
    }
    act(&mut tree);
    held.release();
    Some(tree.ended().code)
}

#[test]
fn a_leash_that_breaks_at_any_moment_ends_the_tree() {
    let mut held = 0;
    while at(held, Tree::hang_up).is_some() {
        held += 1;
    }
    assert!(held > 20, "only {held} stops");
}

#[test]
fn a_signal_to_end_at_any_moment_ends_the_tree() {
    let mut held = 0;
    while at(held, |tree| tree.signal(libc::SIGQUIT)).is_some() {
        held += 1;
    }
    assert!(held > 20, "only {held} stops");
}

/// Holds a shim at the `nth` stop since its leash was closed. Its ladder is a command. Returns
/// `None` if there are not so many stops.
fn at_command(nth: usize, command: &str, act: impl FnOnce(&mut Tree)) -> Option<Vec<Frame>> {
    let plan = Plan::vm().option("--stop=CMD:inf,TERM:20000").step(&[command, "61"]);
    let (held, mut tree) = Held::start(plan, &["sleep", "60"]);
    // This lasts until the shim waits and its worker runs its program.
    while matches!(held.next_within(SETTLED), Stop::Call)
        || !tree.members().iter().any(|&pid| cmdline(pid).concat() == "sleep60")
    {}
    tree.hang_up();
    for _ in 0..=nth {
        if matches!(held.next(), Stop::None) {
            return None;
        }
    }
    act(&mut tree);
    held.release();
    Some(tree.ended().frames())
}

/// Returns the child beside the worker, which is the command.
fn command_of(tree: &Tree) -> Option<i32> {
    let list = fs::read_to_string(format!("/proc/{0}/task/{0}/children", tree.pid)).ok()?;
    list.split_whitespace().nth(1)?.parse().ok()
}

#[track_caller]
fn whenever_the_command_ends(command: &str, how: u8) {
    let mut held = 0;
    let ends = |tree: &mut Tree| {
        let Some(pid) = command_of(tree) else { return };
        let deadline = Instant::now() + BOUND;
        while state(pid).is_some_and(|state| state != 'Z') {
            assert!(Instant::now() < deadline, "the command ends");
            std::thread::sleep(Duration::from_micros(50));
        }
    };
    while let Some(frames) = at_command(held, command, ends) {
        let told = format!("command {how}");
        let expected = ["ready", "started", "step 0", &told, "step 15", "exited 2 15", "gone"];
        assert_eq!(kinds(&frames), expected, "held at stop {held}");
        held += 1;
    }
    assert!(held > 10, "only {held} stops");
}

#[test]
fn a_command_that_fails_at_any_moment_is_heard_of_once() {
    whenever_the_command_ends("false", 1);
}

#[test]
fn a_command_that_never_runs_is_heard_of_once() {
    whenever_the_command_ends("/no/such/program", 0);
}

#[test]
fn a_kill_at_any_moment_of_a_command_leaves_nothing() {
    let mut held = 0;
    while at_command(held, "sleep", |tree| tree.signal(libc::SIGQUIT)).is_some() {
        held += 1;
    }
    assert!(held > 10, "only {held} stops");
}
