//! The worker's pipes: how their ends reach the VM, and reading and writing them.

use crate::pidfd::new_fd;
use crate::pipe_room::PipeRoom;
use crate::reply::{atoms, errno, error, ok};
use crate::sys::{ArmError, Fd, Readiness, Received, receive};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, setsockopt, socket, sockopt};
use rustix::io::Errno;
use rustler::{Binary, Encoder, Env, LocalPid, NewBinary, NifResult, Term, TermType};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// What one read or write moves at most, some 10 µs of copying. Larger binaries are slower: measured with 96 and 128 KiB, the VM
/// gave their memory back and got it anew, a page fault for every page read.
const CHUNK: usize = 64 * 1024;
/// How many elements of iodata one write looks at, at some 10 ns each.
const ELEMENTS: usize = 2048;
/// How many datagrams of others one accept throws away before it lets the scheduler go on.
const STRANGERS: usize = 16;
const MAGIC: &[u8; 4] = b"LSH1";

/// `listen() :: {:ok, fd, name} | {:error, posix}`: an abstract socket to which a shim sends its pipe ends.
///
/// Normal scheduler: four system calls of constant time.
#[rustler::nif]
fn listen(env: Env<'_>) -> Term<'_> {
    match bind_socket() {
        Ok((socket, name)) => match Fd::new(env, socket, &env.pid()) {
            Ok(fd) => (atoms::ok(), fd, name).encode(env),
            Err(_) => error(env, atoms::noproc()),
        },
        Err(reason) => errno(env, reason),
    }
}

/// A socket under a name that nobody can guess, and the name without its leading NUL.
fn bind_socket() -> Result<(OwnedFd, String), Errno> {
    let name = random_name()?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None).map_err(from_nix)?;
    // Before the bind: no datagram can arrive without credentials.
    setsockopt(&socket, sockopt::PassCred, &true).map_err(from_nix)?;
    let address = UnixAddr::new_abstract(name.as_bytes()).map_err(from_nix)?;
    bind(socket.as_raw_fd(), &address).map_err(from_nix)?;
    Ok((socket, name))
}

pub(crate) fn random_name() -> Result<String, Errno> {
    let mut bytes = [0_u8; 16];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    // getrandom(2): up to 256 bytes are never cut short.
    if filled != bytes.len() {
        return Err(Errno::IO);
    }
    Ok(format!("leash-{:032x}", u128::from_ne_bytes(bytes)))
}

/// `accept(fd, os_pid, worker) :: {:ok, %{stdin: fd | nil, stdout: .., stderr: ..}} | :again | {:error, reason}`.
///
/// Takes the datagram that the shim `os_pid` sent for `worker`; every other one is dropped, with its
/// descriptors. On `:again` the caller gets `{:leash_fd, fd, :ready}` when there is more.
///
/// Normal scheduler: at most [`STRANGERS`] receives that do not wait.
#[rustler::nif]
fn accept<'a>(env: Env<'a>, fd: Term<'a>, os_pid: i32, worker: u16) -> NifResult<Term<'a>> {
    let socket: Fd = fd.decode()?;
    let expected = Expected { pid: os_pid, uid: rustix::process::geteuid().as_raw(), worker };
    let received = socket.with(|socket| receive_ours(socket, &expected));
    Ok(match received {
        None => error(env, atoms::closed()),
        Some(Ok(Some(ends))) => accepted(env, ends),
        Some(Ok(None)) => again(env, &socket, Readiness::Read, fd, None),
        Some(Err(reason)) => errno(env, reason),
    })
}

fn accepted(env: Env<'_>, ends: Ends) -> Term<'_> {
    let owner = env.pid();
    let stdin = hand_over(env, ends.stdin, &owner);
    let stdout = hand_over(env, ends.stdout, &owner);
    let stderr = hand_over(env, ends.stderr, &owner);
    let pairs = [(atoms::stdin(), stdin), (atoms::stdout(), stdout), (atoms::stderr(), stderr)];
    let map = Term::map_from_pairs(env, &pairs).unwrap_or_else(|_| atoms::nil().encode(env));
    ok(env, map)
}

/// The owner is the caller, who runs this very moment: it cannot be gone.
fn hand_over<'a>(env: Env<'a>, end: Option<OwnedFd>, owner: &LocalPid) -> Term<'a> {
    end.and_then(|end| Fd::new(env, end, owner).ok()).encode(env)
}

struct Expected {
    pid: i32,
    uid: u32,
    worker: u16,
}

/// The VM's ends of a worker's pipes.
#[derive(Default)]
struct Ends {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

/// `None` when nothing more is there, or too much of others'.
fn receive_ours(socket: BorrowedFd<'_>, expected: &Expected) -> Result<Option<Ends>, Errno> {
    for _ in 0..STRANGERS {
        match receive(socket) {
            Ok(received) => {
                if let Some(ends) = ends_of(received, expected) {
                    return ends.map(Some);
                }
            }
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(reason) => return Err(reason),
        }
    }
    Ok(None)
}

/// `None` for a stranger's or malformed datagram: dropping it closes what came with it.
fn ends_of(received: Received, expected: &Expected) -> Option<Result<Ends, Errno>> {
    let sender = received.sender?;
    if sender.pid != expected.pid || sender.uid != expected.uid {
        return None;
    }
    let [m0, m1, m2, m3, high, low, mask @ 0..=7, 0, _] = received.payload else { return None };
    let well_formed = received.length == 8 && [m0, m1, m2, m3] == *MAGIC;
    if !well_formed || u16::from_be_bytes([high, low]) != expected.worker {
        return None;
    }
    if received.truncated {
        // The shim sends what there is room for: our table of descriptors is full (unix(7)).
        return Some(Err(Errno::MFILE));
    }
    let complete = received.descriptors.len() == mask.count_ones() as usize;
    complete.then(|| Ends::from_mask(mask, received.descriptors))
}

impl Ends {
    fn from_mask(mask: u8, descriptors: Vec<OwnedFd>) -> Result<Self, Errno> {
        let mut ends = Self::default();
        let mut rest = descriptors.into_iter();
        for (bit, end) in [(1, &mut ends.stdin), (2, &mut ends.stdout), (4, &mut ends.stderr)] {
            if mask & bit != 0 {
                *end = rest.next();
            }
            if let Some(end) = end {
                // Ours alone: the two ends of a pipe are different open file descriptions (pipe(7)).
                rustix::io::ioctl_fionbio(end, true)?;
            }
        }
        Ok(ends)
    }
}

/// `fd_read(fd, max) :: {:ok, binary} | :eof | :again | {:error, posix | :closed}`.
///
/// On `:again` the caller gets `{:leash_fd, fd, :ready}` when there is more to read. `max` above 64 KiB is 64 KiB.
///
/// Normal scheduler: two system calls that do not wait and copy at most 64 KiB, now and then two more that resize the pipe.
#[rustler::nif]
fn fd_read<'a>(env: Env<'a>, fd: Term<'a>, max: usize) -> NifResult<Term<'a>> {
    let source: Fd = fd.decode()?;
    let max = max.clamp(1, CHUNK);
    Ok(match source.with_room(|source, room| read_some(env, source, room, max)) {
        None => error(env, atoms::closed()),
        Some(Ok(Some(data))) => {
            account(env, data.len());
            ok(env, data)
        }
        Some(Ok(None)) => atoms::eof().encode(env),
        Some(Err(Errno::AGAIN)) => again(env, &source, Readiness::Read, fd, None),
        Some(Err(reason)) => errno(env, reason),
    })
}

/// Asks first how much there is, so that the binary fits: a short line costs no large block.
fn read_some<'a>(
    env: Env<'a>,
    source: BorrowedFd<'_>,
    room: &mut PipeRoom,
    max: usize,
) -> Result<Option<Binary<'a>>, Errno> {
    let available = rustix::io::ioctl_fionread(source).map_or(max, |n| usize::try_from(n).unwrap_or(max));
    room.found(source, available);
    if available == 0 {
        // Empty or at its end. The buffer is for what arrived since the question.
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
    // Shorter only when another process reads the same pipe.
    if got == whole.len() { Ok(Some(whole)) } else { Ok(whole.make_subbinary(0, got).ok()) }
}

fn copy<'a>(env: Env<'a>, data: &[u8]) -> Binary<'a> {
    NewBinary::from_slice(env, data).into()
}

/// `fd_write(fd, iodata) :: {:ok, n} | {:again, n} | {:error, posix | :closed}`, `n` bytes were taken.
///
/// `{:ok, n}` with `n` below the whole size means: call again with the rest. `{:again, n}` means the pipe is full;
/// the caller gets `{:leash_fd, fd, :writable}` when there is room. Nobody reads any more: `{:error, :epipe}` (the VM
/// ignores SIGPIPE).
///
/// Normal scheduler: one write that does not wait, of at most 64 KiB from at most 2,048 elements. What is nested deeply to the left is
/// gone through again by every call: better made one binary before.
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
    if bytes.is_empty() {
        return Ok(if sink.with(|_| ()).is_some() { ok(env, 0) } else { error(env, atoms::closed()) });
    }
    Ok(match sink.with(|sink| retry(|| rustix::io::write(sink, bytes))) {
        None => error(env, atoms::closed()),
        Some(Ok(written)) if written == bytes.len() => {
            account(env, written);
            ok(env, written)
        }
        Some(Ok(written)) => again(env, &sink, Readiness::Write, fd, Some(written)),
        Some(Err(Errno::AGAIN)) => again(env, &sink, Readiness::Write, fd, Some(0)),
        Some(Err(reason)) => errno(env, reason),
    })
}

/// The first bytes of iodata, as far as one write goes.
fn gather(data: Term<'_>) -> NifResult<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut left = ELEMENTS;
    // What comes behind the lists that are being looked into. Neither iodata itself nor a tail can be a byte.
    let mut tails = vec![data];
    while let Some(mut rest) = tails.pop() {
        // A flat list needs no stack.
        while let Ok((head, tail)) = rest.list_get_cell() {
            // Whoever gets nothing written would come again with the same: what comes before the first byte does not count.
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

/// Not decoded as a u8: rustler would cut off what is above.
fn byte(term: Term<'_>) -> NifResult<u8> {
    u8::try_from(term.decode::<i64>()?).map_err(|_| rustler::Error::BadArg)
}

/// `fd_close(fd) :: :ok`, also when it is closed already.
///
/// Normal scheduler: hands the descriptor to the VM's poll set, which closes it.
#[rustler::nif]
fn fd_close(env: Env<'_>, fd: Fd) -> Term<'_> {
    fd.close(env);
    atoms::ok().encode(env)
}

/// `fd_give(fd, pid) :: :ok | {:error, :noproc}`: from now on `pid`'s end closes the descriptor.
///
/// Normal scheduler: moves a monitor.
#[rustler::nif]
fn fd_give(env: Env<'_>, fd: Fd, owner: LocalPid) -> Term<'_> {
    match fd.give(env, &owner) {
        Ok(()) => atoms::ok().encode(env),
        Err(_) => error(env, atoms::noproc()),
    }
}

/// `fd_dup(fd) :: {:ok, fd} | {:error, posix | :closed}`: a second descriptor of the same thing, owned by the caller
/// and armed independently of the first.
///
/// Normal scheduler: one system call of constant time.
#[rustler::nif]
fn fd_dup(env: Env<'_>, fd: Fd) -> Term<'_> {
    match fd.with(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 3)) {
        None => error(env, atoms::closed()),
        Some(Ok(copy)) => new_fd(env, copy),
        Some(Err(reason)) => errno(env, reason),
    }
}

/// Arms the descriptor and answers `:again`, or `{:again, n}` to a write.
fn again<'a>(
    env: Env<'a>,
    fd: &Fd,
    readiness: Readiness,
    term: Term<'a>,
    written: Option<usize>,
) -> Term<'a> {
    let word = match readiness {
        Readiness::Read => atoms::ready(),
        Readiness::Write => atoms::writable(),
    };
    match fd.arm(env, readiness, (atoms::leash_fd(), term, word).encode(env)) {
        Ok(()) => match written {
            None => atoms::again().encode(env),
            Some(written) => (atoms::again(), written).encode(env),
        },
        Err(ArmError::Closed) => error(env, atoms::closed()),
        Err(ArmError::Refused) => error(env, atoms::not_pollable()),
    }
}

/// Charges the caller for the call and for copying, or a loop of calls would keep its scheduler for as long as there
/// is data: a call takes some 5 to 10 µs of the millisecond that a timeslice has, and 64 KiB some 20 µs more.
fn account(env: Env<'_>, bytes: usize) {
    const PERCENT: usize = 16 * 1024;
    let percent = i32::try_from(1 + bytes / PERCENT).unwrap_or(100);
    rustler::schedule::consume_timeslice(env, percent.min(100));
}

/// A signal handler of the VM interrupts a call at most now and then: once more is enough.
fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    match call() {
        Err(Errno::INTR) => call(),
        outcome => outcome,
    }
}

pub(crate) fn from_nix(errno: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(errno as i32)
}
