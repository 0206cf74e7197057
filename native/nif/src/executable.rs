//! Whether a file can be a program.

use crate::reply::{atoms, errno, error};
use rustix::fs::{FileType, Mode};
use rustler::{Binary, Encoder, Env, Term};

/// `executable(path) :: :ok | {:error, posix | {:type, type}}`: a regular file that somebody may execute, behind
/// symbolic links or not; `type` as in Erlang's `file_info`. A path is bytes; with a NUL among them it is `:einval`.
///
/// Normal scheduler: one system call, and not more than `open_port` does there itself, which calls access(2) with the
/// same path on the same thread (seen with strace). A file system that hangs holds up a scheduler either way, whereas waking a dirty
/// one costs every start more than the call.
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

// Whether it is us who may is said by execve(2), which knows of more than these bits.
fn executable_by_any(mode: u32) -> bool {
    Mode::from_raw_mode(mode).intersects(Mode::XUSR | Mode::XGRP | Mode::XOTH)
}
