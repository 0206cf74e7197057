//! Messages on stderr, for a shim without a reader of its reports.

use super::offer::offer;
use crate::cli::arg_error::ArgError;
use crate::os::descriptors;
use crate::os::text::Text;

/// Writes a line to stderr, if that takes it at once.
fn print(parts: &[&[u8]]) {
    offer(descriptors::borrow(2), parts);
}

/// Says what is wrong with the command line.
pub(crate) fn arg_error(error: &ArgError<'_>) {
    let expected = error.expected.as_bytes();
    print(&[
        b"leash-shim: ",
        error.option,
        b": expected ",
        expected,
        b", got: ",
        error.value,
        b"\n",
    ]);
}

/// Says why a process was not attached.
pub(crate) fn not_attached(pid: i32, errno: u16) {
    let number = Text::<16>::new().number(i64::from(pid));
    let why: &[u8] = match errno {
        2 => b"no /proc of this pid namespace",
        16 => b"it carries a mark of Leash already",
        22 => b"an ancestor, or a thread of the kernel",
        40 => b"too many runs in one another",
        other => reason(other),
    };
    print(&[b"leash-shim: --attach: ", number.as_bytes(), b": ", why, b"\n"]);
}

/// Says why there is no warden.
pub(crate) fn no_warden(errno: u16) {
    let why: &[u8] = match errno {
        2 => b"no /proc of this pid namespace",
        3 => b"its owner has ended",
        38 => b"its owner cannot be watched (pidfd_open)",
        40 => b"too many runs in one another",
        other => reason(other),
    };
    print(&[b"leash-shim: --warden: ", why, b"\n"]);
}

/// Returns what an errno means where no better text is known.
fn reason(errno: u16) -> &'static [u8] {
    match errno {
        1 => b"not permitted",
        2 => b"not found",
        3 => b"no such process",
        7 => b"arguments too long",
        8 => b"not an executable format",
        11 => b"too many processes",
        12 => b"out of memory",
        13 => b"permission denied",
        20 => b"not a directory",
        24 => b"too many open files",
        25 => b"not a terminal",
        111 => b"connection refused",
        _ => b"failed",
    }
}

/// Says why there is no worker.
pub(crate) fn start_failed(command: &[u8], stage: u8, errno: u16) {
    // A port that was closed before its program was executed: its caller has gone.
    if matches!((stage, errno), (11, 125) | (12, _)) {
        return;
    }
    let at: &[u8] = match stage {
        2 => b" (pipe)",
        3 => b" (fork)",
        4 => b" (session)",
        5 => b" (uid, gid, groups)",
        6 => b" (death signal)",
        7 => b" (stdin)",
        8 => b" (stdout)",
        9 => b" (stderr)",
        10 => b" (working directory)",
        17 => b" (control group)",
        18 => b" (its user could not be signalled without CAP_KILL)",
        19 => b" (capabilities)",
        20 => b" (controlling terminal)",
        _ => b"",
    };
    let number = Text::<16>::new().add(b", errno ").number(i64::from(errno));
    print(&[b"leash-shim: ", command, b": ", reason(errno), at, number.as_bytes(), b"\n"]);
}
