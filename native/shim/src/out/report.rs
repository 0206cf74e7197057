//! Report frames, as laid out in native/PROTOCOL.md, section 2.

use core::cell::Cell;
use leash_tag::stop_steps::MAX_STEPS;
use rustix::fd::BorrowedFd;
use rustix::process::Pid;

use super::offer::{PARTS, offer};
use crate::os::exit_status::{CommandOutcome, ExitStatus};
use crate::os::text::Text;

/// The facts about the end of a tree.
pub(crate) struct End {
    /// `exited` was not reported yet. Each write wakes the VM, so both share one.
    pub(crate) with_exit: bool,
    /// The way in which the worker ended.
    pub(crate) ended: ExitStatus,
    /// The reason why the tree was ended.
    pub(crate) cause: u8,
    /// The index of the last step that began.
    pub(crate) last: u8,
    /// Milliseconds since the ladder began.
    pub(crate) elapsed: u64,
    /// The number of passes of SIGKILL.
    pub(crate) passes: u32,
}

/// The receiver of reports, if there is one.
#[derive(Clone, Copy)]
pub(crate) struct Report<'a> {
    fd: Option<BorrowedFd<'a>>,
    ready: &'a Ready,
}

/// Bytes for all steps of a report, the final phase included.
const STEPS: usize = 6 * (MAX_STEPS + 1);

/// The `ready` frame, sent together with the next report, since each write wakes the VM.
pub(crate) type Ready = Cell<Option<[u8; 10]>>;

/// Returns a time as the frames have it. One that is longer than 49 days is cut.
fn ms(value: u64) -> [u8; 4] {
    u32::try_from(value).unwrap_or(u32::MAX).to_be_bytes()
}

impl<'a> Report<'a> {
    /// Reports to a descriptor, or to none.
    pub(crate) fn new(fd: Option<BorrowedFd<'a>>, ready: &'a Ready) -> Self {
        Self { fd, ready }
    }

    /// Returns a report that sends nothing.
    pub(crate) fn silent(self) -> Self {
        Self { fd: None, ..self }
    }

    /// Sends a frame, behind others that are to come in the same write.
    ///
    /// The write is whole or not at all: one of at most PIPE_BUF to a pipe is atomic (pipe(7)).
    /// If a VM does not read its reports, it does not hold up the end of the tree.
    fn send(self, before: &[u8], kind: u8, body: &[&[u8]]) {
        let Some(fd) = self.fd else { return };
        let len = 1 + body.iter().map(|part| part.len()).sum::<usize>();
        let [high, low] = u16::try_from(len).unwrap_or(0).to_be_bytes();
        let head = [high, low, kind];
        let ready = self.ready.take();
        let ready = ready.iter().flat_map(|ready| [&[0, 10][..], ready]);
        let all = ready.chain([before, &head]).chain(body.iter().copied());
        let mut parts = [&[][..]; PARTS];
        for (place, part) in parts.iter_mut().zip(all) {
            *place = part;
        }
        offer(fd, &parts);
    }

    /// Keeps the `ready` frame for the next report.
    pub(crate) fn ready(self, pid: Pid, mark: u8, mark_errno: u16, flags: u8) {
        let [a, b, c, d] = pid.as_raw_pid().to_be_bytes();
        let [high, low] = mark_errno.to_be_bytes();
        self.ready.set(Some([1, 1, a, b, c, d, mark, high, low, flags]));
    }

    /// Sends the `ready` frame now.
    pub(crate) fn ready_now(self) {
        if let (Some(fd), Some(ready)) = (self.fd, self.ready.take()) {
            offer(fd, &[&[0, 10], &ready]);
        }
    }

    /// Reports that the worker has been executed.
    pub(crate) fn started(self, pid: Pid) {
        self.send(b"", 2, &[&pid.as_raw_pid().to_be_bytes()]);
    }

    /// Reports the start of an attached tree: how many of its processes have the mark, and how
    /// many cannot have it.
    pub(crate) fn attached(self, pid: Pid, marked: u32, unmarked: u32) {
        let pid = pid.as_raw_pid().to_be_bytes();
        self.send(b"", 2, &[&pid, &marked.to_be_bytes(), &unmarked.to_be_bytes()]);
    }

    /// Reports why there is no worker.
    pub(crate) fn start_failed(self, stage: u8, errno: u16) {
        self.send(b"", 3, &[&[stage], &errno.to_be_bytes()]);
    }

    /// Reports that a step begins.
    pub(crate) fn step(self, cause: u8, index: u8, signal: u8, elapsed: u64) {
        self.send(b"", 4, &[&[cause, index, signal], &ms(elapsed)]);
    }

    /// Reports the worker's end, while some of its tree is left.
    pub(crate) fn exited(self, ended: ExitStatus) {
        self.send(b"", 5, &[&[ended.how, ended.value]]);
    }

    /// Reports the outcome of a command of the ladder.
    pub(crate) fn command(self, index: u8, outcome: CommandOutcome) {
        let (how, value, errno) = match outcome {
            CommandOutcome::NotStarted(errno) => (0, 0, errno),
            CommandOutcome::Ended(ExitStatus { how, value }) => (how, value, 0),
        };
        self.send(b"", 7, &[&[index, how, value, 0, errno]]);
    }

    /// Reports that nothing of the tree is left, and what each step did.
    pub(crate) fn gone(self, end: &End, steps: impl Iterator<Item = (u8, u8, u32)>) {
        let ExitStatus { how, value } = end.ended;
        let (mut count, mut text) = (0u8, Text::<STEPS>::new());
        for (index, signal, reaped) in steps {
            let [a, b, c, d] = reaped.to_be_bytes();
            text = text.add(&[index, signal, a, b, c, d]);
            count += 1;
        }
        let exited: &[u8] = if end.with_exit { &[0, 3, 5, how, value] } else { b"" };
        let facts = [how, value, end.cause, end.last];
        let passes = end.passes.to_be_bytes();
        self.send(exited, 6, &[&facts, &ms(end.elapsed), &passes, &[count], text.as_bytes()]);
    }
}
