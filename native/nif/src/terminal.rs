//! Pseudoterminals (pty(7)). The VM has the master, and a worker the slave.

use crate::sys::{ArmError, Fd};
use crate::terms::failure::Reason;
use crate::terms::reply::Done;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Winsize, tcgetattr, tcgetwinsize,
    tcsetattr, tcsetwinsize,
};
use std::os::fd::{BorrowedFd, OwnedFd};

/// A terminal to open.
pub(crate) struct Terminal {
    /// The number of lines.
    pub(crate) rows: u16,
    /// The number of columns.
    pub(crate) cols: u16,
    /// Whether typed characters are shown.
    pub(crate) echo: bool,
}

/// Opens a terminal. Returns its master, which never blocks, and its slave.
///
/// The slave is opened through the master (TIOCGPTPEER). Its name may mean another terminal in
/// this mount namespace, or none. No flag makes either of them the VM's controlling terminal.
pub(crate) fn open(terminal: &Terminal) -> Result<(OwnedFd, OwnedFd), Errno> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let master = rustix::fs::open(c"/dev/ptmx", flags, Mode::empty())?;
    rustix::pty::unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    let mut settings = tcgetattr(&slave)?;
    // A backspace takes back a character, and not one of its bytes.
    settings.input_modes.insert(InputModes::IUTF8);
    settings.local_modes.set(LocalModes::ECHO, terminal.echo);
    tcsetattr(&slave, OptionalActions::Now, &settings)?;
    tcsetwinsize(&slave, size(terminal.rows, terminal.cols))?;
    Ok((master, slave))
}

fn size(rows: u16, cols: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 }
}

/// `terminal_resize(fd, rows, cols) :: :ok | {:error, posix | :closed}`
///
/// Gives a terminal another size. If that is a change, then the kernel sends SIGWINCH to the
/// foreground group.
///
/// Normal scheduler: one system call, which signals one group.
#[rustler::nif]
fn terminal_resize(fd: Fd, rows: u16, cols: u16) -> Done {
    Done(of(&fd, |master| tcsetwinsize(master, size(rows, cols))))
}

/// `terminal_info(fd) :: {:ok, {device, rows, cols}} | {:error, posix | :closed}`
///
/// Returns the name of a terminal and its present size.
///
/// Normal scheduler: two system calls of constant time.
#[rustler::nif]
fn terminal_info(fd: Fd) -> Result<(String, u16, u16), Reason> {
    of(&fd, |master| {
        let name = rustix::pty::ptsname(master, Vec::new())?;
        let size = tcgetwinsize(master)?;
        Ok((name.to_string_lossy().into_owned(), size.ws_row, size.ws_col))
    })
}

/// `terminal_eof(fd) :: {:ok, {byte, by_line?}} | {:error, posix | :closed}`
///
/// Returns the character that ends the input, 0 if there is none, and whether the terminal hands
/// on whole lines. Otherwise that character is one like any other.
///
/// Normal scheduler: one system call of constant time.
#[rustler::nif]
fn terminal_eof(fd: Fd) -> Result<(u8, bool), Reason> {
    of(&fd, |master| {
        // The master has the settings of its slave (tty_mode_ioctl in the kernel).
        let settings = tcgetattr(master)?;
        let eof = settings.special_codes[SpecialCodeIndex::VEOF];
        Ok((eof, settings.local_modes.contains(LocalModes::ICANON)))
    })
}

fn of<T>(fd: &Fd, call: impl FnOnce(BorrowedFd<'_>) -> Result<T, Errno>) -> Result<T, Reason> {
    Ok(fd.with(call).ok_or(ArmError::Closed)??)
}
