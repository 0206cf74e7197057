//! The check whether a file can be a program.

use crate::terms::atoms;
use crate::terms::failure::Reason;
use crate::terms::reply::Done;
use rustix::fs::{FileType, Mode};
use rustler::Binary;

/// `executable(path) :: :ok | {:error, posix | {:type, type}}`
///
/// Returns `:ok` for a regular file that at least one user may execute, behind symbolic links or
/// not. `type` is as in Erlang's `file_info`. A path is bytes. If it has a NUL, the reason is
/// `:einval`.
///
/// Normal scheduler: one system call. `open_port` does no less there: it calls access(2) with the
/// same path on the same thread (seen with strace). A file system that hangs blocks a scheduler
/// either way. Waking a dirty scheduler costs every start more than the call.
#[rustler::nif]
fn executable(path: Binary<'_>) -> Done {
    Done(check(path.as_slice()))
}

fn check(path: &[u8]) -> Result<(), Reason> {
    let mode = rustix::fs::stat(path)?.st_mode;
    let kind = match FileType::from_raw_mode(mode) {
        FileType::RegularFile if executable_by_any(mode) => return Ok(()),
        FileType::RegularFile => return Err(atoms::eacces().into()),
        FileType::Directory => atoms::directory(),
        FileType::BlockDevice | FileType::CharacterDevice => atoms::device(),
        _ => atoms::other(),
    };
    Err(Reason::Type(kind))
}

// Tests the mode bits only. execve(2) decides whether our user may execute the file, and it
// considers more than these bits.
fn executable_by_any(mode: u32) -> bool {
    Mode::from_raw_mode(mode).intersects(Mode::XUSR | Mode::XGRP | Mode::XOTH)
}
