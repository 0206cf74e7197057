//! Report frames, as laid out in native/PROTOCOL.md, section 2.

use core::cell::Cell;
use rustix::fd::BorrowedFd;
use rustix::process::Pid;

use super::offer::offer;
use crate::os::exit_status::{CommandOutcome, ExitStatus};

/// The facts about the end of a tree.
pub(crate) struct End {
    /// `exited` was not reported yet. Each write wakes the VM, so both share one.
    pub(crate) with_exit: bool,
    pub(crate) ended: ExitStatus,
    pub(crate) cause: u8,
    pub(crate) last: u8,
    pub(crate) elapsed: u64,
    pub(crate) passes: u32,
}

/// The receiver of reports, if there is one.
#[derive(Clone, Copy)]
pub(crate) struct Report<'a> {
    fd: Option<BorrowedFd<'a>>,
    ready: &'a Ready,
}

/// The `ready` frame, sent together with the next report, since each write wakes the VM.
pub(crate) type Ready = Cell<Option<[u8; 10]>>;

/// Frames that are written by one `write`.
struct Frame {
    bytes: [u8; 112],
    len: usize,
    /// The start of the last frame.
    begin: usize,
}

impl Frame {
    fn new(kind: u8) -> Self {
        let mut frame = Self { bytes: [0; 112], len: 2, begin: 0 };
        frame.put(&[kind]);
        frame
    }

    fn and(&mut self, kind: u8) -> &mut Self {
        self.end();
        self.begin = self.len;
        self.put(&[0, 0, kind])
    }

    fn end(&mut self) {
        let len = self.len.saturating_sub(self.begin + 2);
        if let Some(head) = self.bytes.get_mut(self.begin..self.begin + 2) {
            head.copy_from_slice(&u16::try_from(len).unwrap_or(0).to_be_bytes());
        }
    }

    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        if let Some(place) = self.bytes.get_mut(self.len..self.len + bytes.len()) {
            place.copy_from_slice(bytes);
            self.len += bytes.len();
        }
        self
    }
}

fn ms(value: u64) -> [u8; 4] {
    u32::try_from(value).unwrap_or(u32::MAX).to_be_bytes()
}

impl<'a> Report<'a> {
    pub(crate) fn new(fd: Option<BorrowedFd<'a>>, ready: &'a Ready) -> Self {
        Self { fd, ready }
    }

    /// Returns a report that sends nothing.
    pub(crate) fn silent(self) -> Self {
        Self { fd: None, ..self }
    }

    /// Sends a frame, whole or not at all: a write of at most PIPE_BUF to a pipe is atomic
    /// (pipe(7)). If a VM does not read its reports, it does not hold up the end of the tree.
    fn send(self, frame: &mut Frame) {
        let Some(fd) = self.fd else { return };
        frame.end();
        let frame = frame.bytes.get(..frame.len).unwrap_or_default();
        match self.ready.take() {
            Some(ready) => offer(fd, &[&[0, 10], &ready, frame]),
            None => offer(fd, &[frame]),
        }
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

    pub(crate) fn started(self, pid: Pid) {
        self.send(Frame::new(2).put(&pid.as_raw_pid().to_be_bytes()));
    }

    /// Reports the start of an attached tree: how many of its processes have the mark, and how
    /// many cannot have it.
    pub(crate) fn attached(self, pid: Pid, marked: u32, unmarked: u32) {
        self.send(
            Frame::new(2)
                .put(&pid.as_raw_pid().to_be_bytes())
                .put(&marked.to_be_bytes())
                .put(&unmarked.to_be_bytes()),
        );
    }

    pub(crate) fn start_failed(self, stage: u8, errno: u16) {
        self.send(Frame::new(3).put(&[stage]).put(&errno.to_be_bytes()));
    }

    pub(crate) fn step(self, cause: u8, index: u8, signal: u8, elapsed: u64) {
        self.send(Frame::new(4).put(&[cause, index, signal]).put(&ms(elapsed)));
    }

    pub(crate) fn exited(self, ended: ExitStatus) {
        self.send(Frame::new(5).put(&[ended.how, ended.value]));
    }

    pub(crate) fn command(self, index: u8, outcome: CommandOutcome) {
        let (how, value, errno) = match outcome {
            CommandOutcome::NotStarted(errno) => (0, 0, errno),
            CommandOutcome::Ended(ExitStatus { how, value }) => (how, value, 0),
        };
        self.send(Frame::new(7).put(&[index, how, value, 0, errno]));
    }

    pub(crate) fn gone(self, end: &End, steps: impl Iterator<Item = (u8, u8, u32)> + Clone) {
        let ExitStatus { how, value } = end.ended;
        let mut frame = if end.with_exit { Frame::new(5) } else { Frame::new(6) };
        if end.with_exit {
            frame.put(&[how, value]).and(6);
        }
        frame
            .put(&[how, value, end.cause, end.last])
            .put(&ms(end.elapsed))
            .put(&end.passes.to_be_bytes());
        frame.put(&[u8::try_from(steps.clone().count()).unwrap_or(0)]);
        for (index, signal, reaped) in steps {
            frame.put(&[index, signal]).put(&reaped.to_be_bytes());
        }
        self.send(&mut frame);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_largest_reports_fit_one_write() {
        let (exited, gone) = (2 + 1 + 2, 2 + 1 + 4 + 4 + 4 + 1 + 9 * 6);
        assert!(exited + gone <= 112);
    }
}
