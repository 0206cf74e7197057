//! Descriptors of the VM: reading and writing the worker's pipes, closing, and giving away.

use crate::pipe_room::PipeRoom;
use crate::sys::{ArmError, Fd, Readiness};
use crate::terms::atoms;
use crate::terms::failure::Reason;
use crate::terms::reply::{Done, again, answer, new_fd, ok};
use rustix::io::Errno;
use rustler::{Atom, Binary, Encoder, Env, LocalPid, NewBinary, NifResult, Term, TermType};
use std::os::fd::BorrowedFd;

/// The most that one read or write moves, some 10 µs of copying. Larger binaries are slower. In
/// measurements with 96 and 128 KiB, the VM returned their memory and got it anew. That cost a
/// page fault for every page read.
const CHUNK: usize = 64 * 1024;
/// The number of iodata elements that one write looks at, at some 10 ns each.
const ELEMENTS: usize = 2048;

/// `fd_read(fd, max) :: {:ok, binary} | :eof | :again | {:error, posix | :closed}`
///
/// Reads at most `max` bytes. A `max` above 64 KiB counts as 64 KiB. After `:again` the caller
/// gets `{:leash_fd, fd, :ready}` when there is more to read.
///
/// Normal scheduler: two system calls that do not wait and copy at most 64 KiB. Now and then two
/// more calls resize the pipe.
#[rustler::nif]
fn fd_read<'a>(env: Env<'a>, fd: Term<'a>, max: usize) -> NifResult<Term<'a>> {
    let source: Fd = fd.decode()?;
    let max = max.clamp(1, CHUNK);
    let term = match source.with_room(|source, room| read_some(env, source, room, max)) {
        None => Err(ArmError::Closed.into()),
        Some(Ok(Some(data))) => {
            account(env, data.len());
            Ok(ok(env, data))
        }
        // EIO: no process has the slave of this terminal any more.
        Some(Ok(None) | Err(Errno::IO)) => Ok(atoms::eof().encode(env)),
        Some(Err(Errno::AGAIN)) => again(env, (&source, fd), Readiness::Read, atoms::again()),
        Some(Err(reason)) => Err(reason.into()),
    };
    Ok(answer(env, term))
}

/// Asks first how much data there is, so that the binary fits. So a short line costs no large
/// block.
fn read_some<'a>(
    env: Env<'a>,
    source: BorrowedFd<'_>,
    room: &mut PipeRoom,
    max: usize,
) -> Result<Option<Binary<'a>>, Errno> {
    let available =
        rustix::io::ioctl_fionread(source).map_or(max, |n| usize::try_from(n).unwrap_or(max));
    room.found(source, available);
    if available == 0 {
        // The pipe is empty or at its end. The buffer is for data that arrived since the
        // question.
        let mut buffer = [0; 512];
        let room = buffer.len().min(max);
        let got = retry(|| rustix::io::read(source, &mut buffer[..room]))?;
        return Ok(buffer.get(..got).filter(|data| !data.is_empty()).map(|data| copy(env, data)));
    }
    let mut data = NewBinary::new(env, available.min(max));
    let got = retry(|| rustix::io::read(source, data.as_mut_slice()))?;
    if got == 0 {
        return Ok(None);
    }
    let whole = Binary::from(data);
    // It is shorter only if another process reads the same pipe.
    if got == whole.len() { Ok(Some(whole)) } else { Ok(whole.make_subbinary(0, got).ok()) }
}

fn copy<'a>(env: Env<'a>, data: &[u8]) -> Binary<'a> {
    NewBinary::from_slice(env, data).into()
}

/// `fd_write(fd, iodata) :: {:ok, n} | {:again, n} | {:error, posix | :closed}`
///
/// Writes data; `n` bytes were taken. If `n` of `{:ok, n}` is below the whole size, call again
/// with the rest. `{:again, n}` means that the pipe is full. The caller gets `{:leash_fd, fd,
/// :writable}` when there is room. If the pipe has no reader any more, the result is `{:error,
/// :epipe}` (the VM ignores SIGPIPE).
///
/// Normal scheduler: one write that does not wait, of at most 64 KiB from at most 2,048 elements.
/// Every call walks again through data that is nested deeply to the left. It is better to make
/// such data one binary first.
#[rustler::nif]
fn fd_write<'a>(env: Env<'a>, fd: Term<'a>, data: Term<'a>) -> NifResult<Term<'a>> {
    let sink: Fd = fd.decode()?;
    let gathered;
    let bytes = if let Ok(binary) = Binary::from_term(data) {
        let whole = binary.as_slice();
        whole.get(..CHUNK).unwrap_or(whole)
    } else {
        gathered = gather(data)?;
        &gathered
    };
    let full = |n: usize| again(env, (&sink, fd), Readiness::Write, (atoms::again(), n));
    let write = |sink: BorrowedFd<'_>| match bytes {
        [] => Ok(0),
        bytes => retry(|| rustix::io::write(sink, bytes)),
    };
    let term = match sink.with(write) {
        None => Err(ArmError::Closed.into()),
        Some(Ok(written)) if written == bytes.len() => {
            account(env, written);
            Ok(ok(env, written))
        }
        Some(Ok(written)) => full(written),
        Some(Err(Errno::AGAIN)) => full(0),
        Some(Err(reason)) => Err(reason.into()),
    };
    Ok(answer(env, term))
}

/// Returns the first bytes of iodata, at most those of one write.
fn gather(data: Term<'_>) -> NifResult<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut left = ELEMENTS;
    // The tails of the lists whose heads are being read. Neither iodata itself nor a tail can be
    // a byte.
    let mut tails = vec![data];
    while let Some(mut rest) = tails.pop() {
        // A flat list needs no stack.
        while let Ok((head, tail)) = rest.list_get_cell() {
            // Elements before the first byte do not count. If a call wrote nothing, the caller
            // would repeat it with the same data.
            if bytes.is_empty() {
                left = ELEMENTS;
            }
            if bytes.len() >= CHUNK || left == 0 {
                return Ok(bytes);
            }
            left -= 1;
            rest = tail;
            match head.get_type() {
                TermType::Integer => bytes.push(byte(head)?),
                TermType::List => {
                    tails.push(tail);
                    rest = head;
                }
                _ => append(&mut bytes, head)?,
            }
        }
        if !rest.is_empty_list() {
            append(&mut bytes, rest)?;
        }
    }
    Ok(bytes)
}

fn append(bytes: &mut Vec<u8>, binary: Term<'_>) -> NifResult<()> {
    let binary = Binary::from_term(binary)?;
    let room = CHUNK - bytes.len();
    bytes.extend_from_slice(binary.get(..room).unwrap_or(&binary));
    Ok(())
}

/// Decodes a byte. Decoding it as a u8 does not do, because rustler would cut off the higher
/// bits.
fn byte(term: Term<'_>) -> NifResult<u8> {
    u8::try_from(term.decode::<i64>()?).map_err(|_| rustler::Error::BadArg)
}

/// `fd_close(fd) :: :ok`
///
/// Closes the descriptor, if it is not closed already.
///
/// Normal scheduler: hands the descriptor to the VM's poll set, which closes it.
#[rustler::nif]
fn fd_close(env: Env<'_>, fd: Fd) -> Atom {
    fd.close(env);
    atoms::ok()
}

/// `fd_give(fd, pid) :: :ok | {:error, :noproc}`
///
/// Makes `pid` the owner: from now on the end of `pid` closes the descriptor.
///
/// Normal scheduler: moves a monitor.
#[rustler::nif]
fn fd_give(env: Env<'_>, fd: Fd, owner: LocalPid) -> Done {
    Done(fd.give(env, &owner).map_err(Reason::from))
}

/// `fd_dup(fd) :: {:ok, fd} | {:error, posix | :closed}`
///
/// Returns a second descriptor of the same thing, which the caller owns. It is armed
/// independently of the first.
///
/// Normal scheduler: one system call of constant time.
#[rustler::nif]
fn fd_dup(env: Env<'_>, fd: Fd) -> Result<Fd, Reason> {
    let copy = fd.with(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 3)).ok_or(ArmError::Closed)??;
    Ok(new_fd(env, copy)?)
}

/// Charges the caller for the call and for copying. Otherwise a loop of calls would keep its
/// scheduler for as long as there is data. A call takes some 5 to 10 µs of the millisecond that a
/// timeslice has, and 64 KiB take some 20 µs more.
fn account(env: Env<'_>, bytes: usize) {
    const PERCENT: usize = 16 * 1024;
    let percent = i32::try_from(1 + bytes / PERCENT).unwrap_or(100);
    rustler::schedule::consume_timeslice(env, percent.min(100));
}

/// Repeats an interrupted call once. A signal handler of the VM interrupts calls only now and
/// then, so once is enough.
fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    match call() {
        Err(Errno::INTR) => call(),
        outcome => outcome,
    }
}
