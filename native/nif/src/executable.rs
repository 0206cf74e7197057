//! The check whether a file can be a program.

use crate::reply::{atoms, errno, error};
use rustix::fs::{FileType, Mode};
use rustler::{Binary, Encoder, Env, Term};

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
fn executable<'a>(env: Env<'a>, path: Binary<'a>) -> Term<'a> {
    let stat = match rustix::fs::stat(path.as_slice()) {
        Ok(stat) => stat,
        Err(failure) => return errno(env, failure),
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if executable_by_any(stat.st_mode) => atoms::ok().encode(env),
        FileType::RegularFile => error(env, atoms::eacces()),
        FileType::Directory => error(env, (atoms::r#type(), atoms::directory())),
        FileType::BlockDevice | FileType::CharacterDevice => {
            error(env, (atoms::r#type(), atoms::device()))
        }
        _ => error(env, (atoms::r#type(), atoms::other())),
    }
}

// Tests the mode bits only. execve(2) decides whether our user may execute the file, and it
// considers more than these bits.
fn executable_by_any(mode: u32) -> bool {
    Mode::from_raw_mode(mode).intersects(Mode::XUSR | Mode::XGRP | Mode::XOTH)
}
