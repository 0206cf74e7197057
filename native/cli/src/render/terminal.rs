//! The terminal: its size, and a separate screen that is given back whatever happens.
//!
//! Signals that would end this process are read from a descriptor instead. Only SIGKILL leaves
//! the terminal as it is.

use crate::exit::{Exit, Failure};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios};
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// Returns the columns and rows of the terminal on stdout, `None` if stdout is not a terminal.
pub(crate) fn size() -> Option<(usize, usize)> {
    if !std::io::stdout().is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    // A serial line does not know its size and reports 0.
    let or = |number: u16, else_: usize| if number == 0 { else_ } else { usize::from(number) };
    Some((or(size.ws_col, 80), or(size.ws_row, 24)))
}

/// The alternate screen. Dropping it restores the old one.
pub(crate) struct Screen {
    before: Termios,
    signals: SignalFd,
}

/// The event that ended a wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The time is over, or the size has changed.
    Draw,
    /// The user typed these bytes.
    Typed(Vec<u8>),
    /// The user, a signal or the loss of the terminal ends the command.
    Quit,
}

impl Screen {
    /// Switches to the alternate screen, and makes the terminal raw.
    pub(crate) fn enter() -> Result<Self, Failure> {
        let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
        if !stdin.is_terminal() || !stdout.is_terminal() {
            return Err(Failure::new(
                Exit::Usage,
                "top needs a terminal; for programs there is `leash ps --json`",
            ));
        }
        // The signals are blocked and read, so that the terminal is restored before one of them
        // ends this process.
        let set = SigSet::from_iter([
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGHUP,
            Signal::SIGQUIT,
            Signal::SIGWINCH,
        ]);
        set.thread_block().map_err(failed)?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let signals = SignalFd::with_flags(&set, flags).map_err(failed)?;
        let before = rustix::termios::tcgetattr(&stdin).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(&stdin, OptionalActions::Flush, &raw).map_err(failed)?;
        let screen = Self { before, signals };
        write("\x1b[?1049h\x1b[?25l")?;
        Ok(screen)
    }

    /// Shows these lines and nothing else. The new lines overwrite the old ones, so that nothing
    /// flickers.
    pub(crate) fn draw(&self, lines: &[String]) -> Result<(), Failure> {
        write(&format!("\x1b[H{}\x1b[K\x1b[J", lines.join("\x1b[K\r\n")))
    }

    /// Waits for a key, a signal or the end of the interval.
    pub(crate) fn wait(&self, interval: Duration) -> Event {
        let until = Instant::now() + interval;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let stdin = std::io::stdin();
            let mut fds =
                [PollFd::new(&stdin, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
            let ready = match poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
                Ok(0) => return Event::Draw,
                Ok(_) => fds.map(|fd| !fd.revents().is_empty()),
                Err(Errno::INTR) => continue,
                Err(_) => return Event::Quit,
            };
            if ready[1] {
                match self.signals.read_signal() {
                    Ok(Some(info)) if info.ssi_signo != Signal::SIGWINCH as u32 => {
                        return Event::Quit;
                    }
                    _ => return Event::Draw,
                }
            }
            if ready[0] {
                if let Some(event) = typed() {
                    return event;
                }
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = write("\x1b[?25h\x1b[?1049l");
        let _ =
            rustix::termios::tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.before);
    }
}

/// Returns what was typed, `None` if there is nothing. The loss of the terminal ends the command.
fn typed() -> Option<Event> {
    let mut keys = [0; 64];
    match rustix::io::read(std::io::stdin(), &mut keys) {
        Ok(0) => Some(Event::Quit),
        Ok(count) => {
            let keys = keys.get(..count).unwrap_or_default();
            // 3 is Ctrl-C and 4 is Ctrl-D: in a raw terminal both are only bytes.
            let is_end = keys.iter().any(|key| matches!(key, 3 | 4));
            Some(if is_end { Event::Quit } else { Event::Typed(keys.to_vec()) })
        }
        Err(Errno::INTR | Errno::AGAIN) => None,
        Err(_) => Some(Event::Quit),
    }
}

/// Writes to the terminal at once.
fn write(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(failed)
}

/// Returns the failure of a call on the terminal.
fn failed(error: impl Into<std::io::Error>) -> Failure {
    Failure::new(Exit::Unusable, format!("the terminal: {}", error.into()))
}
