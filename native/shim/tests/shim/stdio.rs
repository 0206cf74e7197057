//! The worker's streams, and the pipe ends that go to the VM.

use crate::frames::Frame;
use crate::harness::*;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

fn listen() -> (String, UnixDatagram) {
    let name = format!("leash-test-{}", new_run());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let socket = UnixDatagram::bind_addr(&address).unwrap();
    socket.set_read_timeout(Some(BOUND)).unwrap();
    let on: libc::c_int = 1;
    // SAFETY: a valid option value of the given size.
    unsafe {
        let size = libc::socklen_t::try_from(size_of_val(&on)).unwrap();
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PASSCRED,
            (&raw const on).cast(),
            size,
        );
    }
    (name, socket)
}

/// Payload, descriptors and the sender as the kernel names it.
fn receive(socket: &UnixDatagram) -> (Vec<u8>, Vec<File>, libc::ucred) {
    let mut payload = [0u8; 64];
    let mut control = [0u64; 32];
    let mut iov = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
    // SAFETY: zero is a valid msghdr; pointers and lengths belong together; the control messages are walked by
    // the macros made for it.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        let len = libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC);
        assert!(len > 0, "{}", std::io::Error::last_os_error());
        let (mut files, mut sender) = (Vec::new(), None);
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            let data = libc::CMSG_DATA(header);
            match (*header).cmsg_type {
                libc::SCM_CREDENTIALS => sender = Some(data.cast::<libc::ucred>().read_unaligned()),
                libc::SCM_RIGHTS => {
                    let bytes = (*header).cmsg_len - (data as usize - header as usize);
                    for index in 0..bytes / 4 {
                        files.push(File::from_raw_fd(data.cast::<i32>().add(index).read_unaligned()));
                    }
                }
                _ => {}
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
        (payload[..len.unsigned_abs()].to_vec(), files, sender.unwrap())
    }
}

fn read_to_end(file: &mut File) -> String {
    let mut bytes = Vec::new();
    until("the end of it", || match file.read_to_end(&mut bytes) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
            false
        }
    });
    String::from_utf8(bytes).unwrap()
}

#[test]
fn pipes_reach_the_vm() {
    let (name, socket) = listen();
    let mut tree = Plan::by_hand()
        .with(|command| {
            command.stdin(std::process::Stdio::piped());
        })
        .option("--worker=1234")
        .option("--leash=0")
        .option("--report=1")
        .option(format!("--stdio={name}"))
        .option("--stdin=pipe")
        .option("--stdout=pipe")
        .option("--stderr=pipe")
        .sh("read line; echo \"out $line\"; echo err >&2; cat >/dev/null; exit 3");
    let (payload, mut files, sender) = receive(&socket);
    assert_eq!(payload, [b'L', b'S', b'H', b'1', 0x04, 0xd2, 0b111, 0]);
    assert_eq!(sender.pid, tree.pid);
    assert_eq!(files.len(), 3);
    for file in &files {
        // SAFETY: only numbers.
        assert_ne!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) } & libc::O_NONBLOCK, 0);
    }
    let (mut stderr, mut stdout, mut stdin) =
        (files.pop().unwrap(), files.pop().unwrap(), files.pop().unwrap());
    stdin.write_all(b"hello\n").unwrap();
    until("a line", || stdout_has(&mut stdout, b"out hello\n"));
    let worker = tree.members();
    for pid in worker {
        for fd in 0..=2 {
            let flags = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default();
            assert!(!flags.contains("04000") || fd > 2, "the worker's ends block: {flags}");
        }
    }
    drop(stdin);
    assert_eq!(read_to_end(&mut stdout), "");
    assert_eq!(read_to_end(&mut stderr), "err\n");
    assert_eq!(tree.ended().code, 3);
}

fn stdout_has(file: &mut File, expected: &[u8]) -> bool {
    let mut bytes = vec![0; expected.len()];
    match file.read(&mut bytes) {
        Ok(len) => {
            assert_eq!(&bytes[..len], expected);
            true
        }
        Err(_) => false,
    }
}

#[test]
fn a_worker_that_closes_its_stdin_is_noticed() {
    let (name, socket) = listen();
    let mut tree = Plan::vm_with_pipes(&name, "--stdin=pipe").sh("exec <&-; sleep 47");
    let (payload, mut files, _) = receive(&socket);
    assert_eq!(payload[6], 0b001);
    let mut stdin = files.pop().unwrap();
    until("EPIPE", || stdin.write(b"x").is_err_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe));
    tree.let_go();
}

#[test]
fn an_open_stdin_ends_with_the_leash_and_needs_no_listener() {
    let dir = Dir::new();
    let ended = dir.path("ended");
    let mut tree = Plan::vm_with_pipes("leash-test-nobody", "--stdin=open")
        .option("--stop=WINCH:20000")
        .sh(&format!("cat; echo ended >{ended}"));
    let cat = tree.member("cat");
    until("it reads", || state(cat) == Some('S'));
    assert!(!std::path::Path::new(&ended).exists(), "stdin ended while the leash held");
    assert_eq!(tree.let_go().code, 0);
    assert_eq!(fs::read_to_string(&ended).unwrap(), "ended\n");
}

#[test]
fn nobody_listens() {
    let mut tree = Plan::vm_with_pipes("leash-test-nobody", "--stdin=pipe").start(&["true"]);
    let ended = tree.ended();
    assert_eq!(ended.code, 125);
    assert_eq!(ended.frames().get(1), Some(&Frame::StartFailed { stage: 1, errno: 111 }));
}

#[test]
fn a_listener_that_never_takes_anything_delays_no_end() {
    let (name, socket) = listen();
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler.send_to_addr(b"x", &address).is_ok() {}
    let mut tree = Plan::vm_with_pipes(&name, "--stdin=pipe").start(&["true"]);
    until("the shim waits", || state(tree.pid) == Some('S') && limits(tree.pid) != limits(1));
    let began = std::time::Instant::now();
    let ended = tree.let_go();
    assert!(began.elapsed().as_secs() < 4, "the hang-up was seen meanwhile");
    assert_eq!(ended.code, 125);
    drop(socket);
}

#[test]
fn files_are_appended_to() {
    let dir = Dir::new();
    fs::write(dir.path("out"), "before\n").unwrap();
    let mut tree = Plan::by_hand()
        .option(format!("--stdout=file:{}", dir.path("out")))
        .option("--stderr=stdout")
        .sh("echo out; echo err >&2");
    assert_eq!(tree.ended().code, 0);
    assert_eq!(dir.read("out"), "before\nout\nerr\n");

    let mut tree = Plan::by_hand()
        .option("--stdout=null")
        .option(format!("--stderr=file:{}", dir.path("new")))
        .option("--stdin=null")
        .sh("echo out; echo err >&2; cat");
    assert_eq!(tree.ended().code, 0);
    assert_eq!(dir.read("new"), "err\n");
}

#[test]
fn stderr_may_be_the_pipe_of_stdout() {
    let (name, socket) = listen();
    let mut tree = Plan::by_hand()
        .with(|command| {
            command.stdin(std::process::Stdio::piped());
        })
        .option("--leash=0")
        .option("--report=1")
        .option("--stdin=null")
        .option("--stdout=pipe")
        .option("--stderr=stdout")
        .option(format!("--stdio={name}"))
        .sh("echo out; echo err >&2");
    let (payload, mut files, _) = receive(&socket);
    assert_eq!((payload[6], files.len()), (0b010, 1));
    assert_eq!(read_to_end(&mut files.pop().unwrap()), "out\nerr\n");
    assert_eq!(tree.ended().code, 0);
}
