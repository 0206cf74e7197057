//! Races between the shim and everybody else, every one of them: the shim is held at each of its system calls
//! in turn until the other side has done what it does.

use crate::frames::Frame;
use crate::harness::{BOUND, Plan, Tree, state};
use std::fs;
use std::time::{Duration, Instant};

/// A shim held at a system call has that long to come to its next one, before it counts as waiting for
/// somebody else.
const IDLE: Duration = Duration::from_millis(250);

/// The only process that ptrace(2) lets this thread hold.
struct Held {
    pid: i32,
}

enum Stop {
    /// At the entry or the exit of a system call.
    Call,
    /// It waits, or has ended.
    None,
}

impl Held {
    /// A plan whose shim stops at its exec and is held by this thread.
    fn start(plan: Plan, worker: &[&str]) -> (Self, Tree) {
        let tree = plan
            .before_exec(|| {
                // SAFETY: a system call with numbers.
                unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
            })
            .start(worker);
        let held = Self { pid: tree.pid };
        assert!(held.wait().is_some(), "it stops at its exec");
        // TRACESYSGOOD tells these stops from signals; EXITKILL ends it with this thread.
        held.ptrace(libc::PTRACE_SETOPTIONS, libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL);
        (held, tree)
    }

    fn ptrace(&self, request: libc::c_uint, data: libc::c_int) {
        // SAFETY: requests that take numbers.
        unsafe { libc::ptrace(request, self.pid, 0, libc::c_long::from(data)) };
    }

    /// The signal it stopped with, if it stopped. Its end is left for the harness to see.
    fn wait(&self) -> Option<i32> {
        let deadline = Instant::now() + IDLE;
        loop {
            let mut status = 0;
            // WNOWAIT is waitid's alone: whoever has ended must stay.
            if matches!(state(self.pid), None | Some('Z' | 'X')) {
                return None;
            }
            // SAFETY: `status` is ours.
            let pid = unsafe { libc::waitpid(self.pid, &raw mut status, libc::WNOHANG | libc::WUNTRACED) };
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
        let mut signal = 0;
        loop {
            self.ptrace(libc::PTRACE_SYSCALL, signal);
            match self.wait() {
                Some(stop) if stop == libc::SIGTRAP | 0x80 => return Stop::Call,
                // It is to get its signals.
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

/// Holds a shim at the `nth` stop since its worker exists until that is a zombie; `None` when there are not so
/// many.
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

/// What was reported, without what differs from run to run.
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

/// Holds a shim at its `nth` stop, does something to it, and lets it go on.
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
