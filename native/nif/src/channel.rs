//! Shims that the run's warden starts: the request, and the channel for a shim's reports and the
//! requests to it (native/PROTOCOL.md, section 10).

use crate::ends::{Ends, Opened};
use crate::sys::{ArmError, Fd, Readiness, Sent, receive_from, send_with};
use crate::terms::args::List;
use crate::terms::atoms;
use crate::terms::failure::Reason;
use crate::terms::reply::{Done, again, answer, new_fd, ok};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket, sockopt,
};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::io::Errno;
use rustler::{Binary, Encoder, Env, NewBinary, NifResult, Term};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// `warden_listen() :: {:ok, fd, name} | {:error, posix}`
///
/// Opens an abstract socket to which a warden connects.
///
/// Normal scheduler: four system calls of constant time.
#[rustler::nif]
fn warden_listen(env: Env<'_>) -> Term<'_> {
    let bound = bind_socket().map_err(Reason::from);
    let term = bound
        .and_then(|(socket, name)| Ok((atoms::ok(), new_fd(env, socket)?, name).encode(env)));
    answer(env, term)
}

/// Binds a socket to a name that cannot be guessed. Returns it with the name, without the leading
/// NUL.
fn bind_socket() -> Result<(OwnedFd, String), Errno> {
    let name = random_name()?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket =
        socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).map_err(from_nix)?;
    let address = UnixAddr::new_abstract(name.as_bytes()).map_err(from_nix)?;
    bind(socket.as_raw_fd(), &address).map_err(from_nix)?;
    listen(&socket, Backlog::new(4).map_err(from_nix)?).map_err(from_nix)?;
    Ok((socket, name))
}

fn random_name() -> Result<String, Errno> {
    let mut bytes = [0_u8; 16];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    // getrandom(2) never cuts up to 256 bytes short.
    if filled != bytes.len() {
        return Err(Errno::IO);
    }
    Ok(format!("leash-{:032x}", u128::from_ne_bytes(bytes)))
}

fn from_nix(errno: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(errno as i32)
}

/// `warden_accept(fd, os_pid) :: {:ok, fd} | :again | {:error, reason}`
///
/// Accepts the connection of that warden, whose user must be our own. Closes every other
/// connection. After `:again` the caller gets `{:leash_fd, fd, :ready}`.
///
/// Normal scheduler: three system calls of constant time.
#[rustler::nif]
fn warden_accept<'a>(env: Env<'a>, fd: Term<'a>, os_pid: i32) -> NifResult<Term<'a>> {
    let listener: Fd = fd.decode()?;
    let accepted = listener.with(|listener| {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let connection =
            nix::sys::socket::accept4(listener.as_raw_fd(), flags).map_err(from_nix)?;
        let connection = crate::sys::owned(connection);
        let peer = nix::sys::socket::getsockopt(&connection, sockopt::PeerCredentials)
            .map_err(from_nix)?;
        let is_ours = peer.pid() == os_pid && peer.uid() == rustix::process::geteuid().as_raw();
        is_ours.then_some(connection).ok_or(Errno::AGAIN)
    });
    let term = match accepted {
        None => Err(ArmError::Closed.into()),
        Some(Ok(connection)) => new_fd(env, connection).map(|fd| ok(env, fd)).map_err(Into::into),
        Some(Err(Errno::AGAIN)) => again(env, (&listener, fd), Readiness::Read, atoms::again()),
        Some(Err(reason)) => Err(reason.into()),
    };
    Ok(answer(env, term))
}

/// The limits of a request without a file; the warden has room for more.
const INLINE_BYTES: usize = 30 * 1024;
const INLINE_STRINGS: u32 = 2_000;

/// `shim_start(control, args, {environment, count}, ends) :: {:ok, channel,
/// {fd | nil, fd | nil, fd | nil}} | :again | {:error, posix | {:pty, posix} | :closed |
/// :no_working_directory}`
///
/// Asks the warden for a shim in the VM's directory. `args` are binaries. `environment` has
/// `count` strings, each followed by a NUL. `ends` has three elements for stdin, stdout and
/// stderr. Each is `:none`, `:pipe` (its other end is returned) or `:inherit` (the VM's own). Or
/// `ends` is `{:terminal, rows, cols, echo?}`. Then the first two descriptors that are returned
/// are the terminal's master. The caller owns the channel and the other descriptors. `:again`
/// means that the warden has not read requests for a while.
///
/// Normal scheduler: some fifteen system calls that do not wait, and a copy of at most the size
/// that execve(2) accepts.
#[rustler::nif]
fn shim_start<'a>(
    env: Env<'a>,
    control: Fd,
    arguments: List<Binary<'a>>,
    environment: (Binary<'a>, u32),
    ends: Ends,
) -> NifResult<Term<'a>> {
    let asked = control.with(|control| ask(control, arguments.as_slice(), environment, &ends));
    let term = match asked {
        None => Err(ArmError::Closed.into()),
        Some(Ok(Started { channel, ours })) => {
            let give = |fd: Option<OwnedFd>| fd.and_then(|fd| new_fd(env, fd).ok()).encode(env);
            let channel = give(Some(channel));
            let [stdin, stdout, stderr] = ours;
            Ok((atoms::ok(), channel, (give(stdin), give(stdout), give(stderr))).encode(env))
        }
        Some(Err(Reason::Errno(Errno::AGAIN))) => Ok(atoms::again().encode(env)),
        Some(Err(Reason::Errno(Errno::NOENT))) => Err(atoms::no_working_directory().into()),
        Some(Err(reason)) => Err(reason),
    };
    Ok(answer(env, term))
}

struct Started {
    channel: OwnedFd,
    /// The VM's ends.
    ours: [Option<OwnedFd>; 3],
}

fn ask<'a>(
    control: BorrowedFd<'_>,
    arguments: &[Binary<'a>],
    (environment, variables): (Binary<'a>, u32),
    ends: &Ends,
) -> Result<Started, Reason> {
    let texts = texts(arguments, &environment)?;
    let arguments = u32::try_from(arguments.len()).map_err(|_| Errno::TOOBIG)?;
    let is_small =
        texts.len() <= INLINE_BYTES && arguments.saturating_add(variables) <= INLINE_STRINGS;
    let file = if is_small { None } else { Some(file_of(&texts)?) };
    let directory =
        rustix::fs::open(".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // A deleted directory can be opened; only getcwd(2) tells.
    if rustix::process::getcwd(Vec::new()) == Err(Errno::NOENT) {
        return Err(Errno::NOENT.into());
    }
    let (channel, theirs) = pair()?;
    let Opened { mask, theirs: worker, ours } = ends.open()?;
    let mut request = *b"LWR1\x01\0\0\0\0\0\0\0\0\0\0\0";
    (request[5], request[6]) = (mask, u8::from(file.is_some()));
    request[8..12].copy_from_slice(&arguments.to_be_bytes());
    request[12..].copy_from_slice(&variables.to_be_bytes());
    let fds: Vec<_> =
        [&theirs, &directory].into_iter().chain(&file).chain(worker.iter().flatten()).collect();
    let fds: Vec<_> = fds.into_iter().map(AsFd::as_fd).collect();
    let inline = if is_small { texts.as_slice() } else { &[] };
    request_with(control, &[&request, inline], &fds)?;
    Ok(Started { channel, ours })
}

fn request_with(
    control: BorrowedFd<'_>,
    parts: &[&[u8]],
    fds: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    send_with(control, parts, fds).map_err(|error| match error {
        // Either too many descriptors are in messages that were not received yet (unix(7)), or
        // there is too little memory for one more message. Both states pass.
        Errno::TOOMANYREFS | Errno::NOBUFS => Errno::AGAIN,
        other => other,
    })
}

/// Joins all strings, and puts a NUL behind each argument.
fn texts<'a>(arguments: &[Binary<'a>], environment: &Binary<'a>) -> Result<Vec<u8>, Errno> {
    let bytes: usize = arguments.iter().map(|argument| argument.len() + 1).sum();
    let mut text = Vec::with_capacity(bytes + environment.len());
    for binary in arguments {
        if binary.contains(&0) {
            return Err(Errno::INVAL);
        }
        text.extend_from_slice(binary);
        text.push(0);
    }
    text.extend_from_slice(environment);
    Ok(text)
}

fn file_of(text: &[u8]) -> Result<OwnedFd, Errno> {
    let file = rustix::fs::memfd_create("leash", MemfdFlags::CLOEXEC)?;
    let mut rest = text;
    while !rest.is_empty() {
        let written = rustix::io::write(&file, rest)?;
        rest = rest.get(written..).unwrap_or_default();
    }
    Ok(file)
}

/// `channel_read(fd) :: {:ok, binary} | {:spawned, binary, pidfd} | :eof | :again | {:error,
/// posix | :closed}`
///
/// Receives one message, and the pidfd that came with it. After `:again` the caller gets
/// `{:leash_fd, fd, :ready}`.
///
/// Normal scheduler: one receive that does not wait.
#[rustler::nif]
fn channel_read<'a>(env: Env<'a>, fd: Term<'a>) -> NifResult<Term<'a>> {
    let channel: Fd = fd.decode()?;
    let mut buffer = [0u8; 512];
    let received = channel.with(|channel| match receive_from(channel, &mut buffer) {
        // If the other end was closed before it had read everything, this comes once, before the
        // data that it sent (af_unix.c).
        Err(Errno::CONNRESET) => receive_from(channel, &mut buffer),
        other => other,
    });
    let term = match received {
        None => Err(ArmError::Closed.into()),
        Some(Ok(Sent { length: 0, .. })) => Ok(atoms::eof().encode(env)),
        Some(Ok(Sent { length, descriptor })) => {
            let data: Binary<'a> =
                NewBinary::from_slice(env, buffer.get(..length).unwrap_or_default()).into();
            Ok(match descriptor.and_then(|pidfd| new_fd(env, pidfd).ok()) {
                Some(pidfd) => (atoms::spawned(), data, pidfd).encode(env),
                None => ok(env, data),
            })
        }
        Some(Err(Errno::AGAIN)) => again(env, (&channel, fd), Readiness::Read, atoms::again()),
        Some(Err(reason)) => Err(reason.into()),
    };
    Ok(answer(env, term))
}

/// `channel_ask(fd, :ladder | :kill) :: :ok | {:error, posix | :closed}`
///
/// Sends a request to a shim. If the shim is gone, the reason is `:epipe`.
///
/// Normal scheduler: one send that does not wait.
#[rustler::nif]
fn channel_ask(fd: Fd, what: rustler::Atom) -> NifResult<Done> {
    let message = match what {
        it if it == atoms::ladder() => b"E".as_slice(),
        it if it == atoms::kill() => b"K".as_slice(),
        _ => return Err(rustler::Error::BadArg),
    };
    Ok(send(&fd, message))
}

/// `channel_signal(fd, number, scope) :: :ok | {:error, posix | :closed}`
///
/// Asks a shim to send a signal to its program (scope 0), the program's group (1) or the tree
/// (2). If the shim is gone, the reason is `:epipe`.
///
/// Normal scheduler: one send that does not wait.
#[rustler::nif]
fn channel_signal(fd: Fd, number: u8, scope: u8) -> Done {
    send(&fd, &[b'S', number, scope])
}

fn send(fd: &Fd, message: &[u8]) -> Done {
    let sent = fd.with(|channel| send_with(channel, &[message], &[])).ok_or(ArmError::Closed);
    Done(sent.map_err(Into::into).and_then(|sent| Ok(sent?)))
}

/// `warden_word(control) :: {:ok, fd} | :again | {:error, posix | :closed}`
///
/// Returns a descriptor whose next message is `"W"` once no orphan of a killed shim is left. If
/// it ends without that message, its end says nothing.
///
/// Normal scheduler: three system calls that do not wait.
#[rustler::nif]
fn warden_word(env: Env<'_>, control: Fd) -> Term<'_> {
    let asked = control.with(|control| {
        let (ours, theirs) = pair()?;
        request_with(control, &[b"LWR1\x02\0\0\0\0\0\0\0\0\0\0\0"], &[theirs.as_fd()])?;
        Ok(ours)
    });
    let term = match asked {
        None => Err(ArmError::Closed.into()),
        Some(Ok(fd)) => new_fd(env, fd).map(|fd| ok(env, fd)).map_err(Into::into),
        Some(Err(Errno::AGAIN)) => Ok(atoms::again().encode(env)),
        Some(Err(reason)) => Err(reason.into()),
    };
    answer(env, term)
}

/// Returns two connected sockets: one to keep and one to give away.
fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}
