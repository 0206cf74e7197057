//! A VM as its warden sees it: the other end of the control socket and of the channels.

use crate::frames::{self, Frame};
use crate::harness::*;
use leash_tag::RunId;
use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::{Child, Command, Stdio};

/// A warden that this process listens for, and its control socket.
pub struct Vm {
    pub run: RunId,
    pub warden: Child,
    pub control: Option<OwnedFd>,
}

/// The VM's end of a shim's channel, and the frames that came by it.
pub struct Channel {
    pub fd: Option<OwnedFd>,
    pub frames: Vec<Frame>,
    /// The pidfd with which the warden announced the shim.
    pub pidfd: Option<OwnedFd>,
}

/// The parts of a request beside the command.
#[derive(Default)]
pub struct Request {
    pub options: Vec<String>,
    pub environment: Vec<String>,
    pub directory: Option<String>,
    /// stdin, stdout, stderr.
    pub ends: [Option<OwnedFd>; 3],
    /// The program to start instead of the shim.
    pub program: Option<String>,
}

fn socket(flags: i32) -> OwnedFd {
    // SAFETY: only numbers.
    let fd = unsafe {
        libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | flags, 0)
    };
    assert!(fd >= 0);
    // SAFETY: just opened, and known to nothing else.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn listen(name: &str) -> OwnedFd {
    let socket = socket(0);
    // SAFETY: zero is a valid address.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as u16;
    for (place, byte) in address.sun_path.iter_mut().skip(1).zip(name.bytes()) {
        *place = byte as _;
    }
    let len = u32::try_from(std::mem::offset_of!(libc::sockaddr_un, sun_path) + 1 + name.len())
        .unwrap();
    // SAFETY: the address is as long as that.
    assert_eq!(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) }, 0);
    // SAFETY: only numbers.
    assert_eq!(unsafe { libc::listen(socket.as_raw_fd(), 1) }, 0);
    socket
}

fn pair() -> (OwnedFd, OwnedFd) {
    let mut fds = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: room for two descriptors.
    assert_eq!(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) }, 0);
    // SAFETY: just opened, and known to nothing else.
    fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).into()
}

/// Sends one message with descriptors.
pub fn send(socket: &OwnedFd, message: &[u8], fds: &[RawFd]) {
    #[repr(C, align(8))]
    struct Space([u8; 128]);
    let mut space = Space([0; 128]);
    let mut iov =
        libc::iovec { iov_base: message.as_ptr().cast_mut().cast(), iov_len: message.len() };
    // SAFETY: zero is a valid msghdr. Every pointer is to a buffer above, of the length beside
    // it.
    unsafe {
        let mut header: libc::msghdr = std::mem::zeroed();
        (header.msg_iov, header.msg_iovlen) = (&mut iov, 1);
        let bytes = u32::try_from(size_of_val(fds)).unwrap();
        header.msg_control = space.0.as_mut_ptr().cast();
        header.msg_controllen = libc::CMSG_SPACE(bytes) as _;
        let first = libc::CMSG_FIRSTHDR(&header);
        (*first).cmsg_level = libc::SOL_SOCKET;
        (*first).cmsg_type = libc::SCM_RIGHTS;
        (*first).cmsg_len = libc::CMSG_LEN(bytes) as _;
        std::ptr::copy_nonoverlapping(
            fds.as_ptr().cast(),
            libc::CMSG_DATA(first),
            size_of_val(fds),
        );
        let sent = libc::sendmsg(socket.as_raw_fd(), &header, 0);
        assert_eq!(sent, message.len() as isize, "{}", std::io::Error::last_os_error());
    }
}

/// Receives one message, and a descriptor that came with it. Returns `None` at the end.
fn receive(socket: &OwnedFd) -> Option<(Vec<u8>, Option<OwnedFd>)> {
    #[repr(C, align(8))]
    struct Space([u8; 128]);
    let (mut space, mut message) = (Space([0; 128]), [0u8; 256]);
    let mut iov = libc::iovec { iov_base: message.as_mut_ptr().cast(), iov_len: message.len() };
    // SAFETY: as in `send`; the descriptor is the kernel's to give, and ours alone.
    unsafe {
        let mut header: libc::msghdr = std::mem::zeroed();
        (header.msg_iov, header.msg_iovlen) = (&mut iov, 1);
        header.msg_control = space.0.as_mut_ptr().cast();
        header.msg_controllen = space.0.len() as _;
        let mut polled =
            libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        assert!(libc::poll(&mut polled, 1, 30_000) > 0, "nothing came");
        let len = libc::recvmsg(socket.as_raw_fd(), &mut header, libc::MSG_CMSG_CLOEXEC);
        let len = usize::try_from(len).unwrap_or(0);
        let first = libc::CMSG_FIRSTHDR(&header).as_ref();
        let fd = first.filter(|first| first.cmsg_type == libc::SCM_RIGHTS).map(|first| {
            OwnedFd::from_raw_fd(libc::CMSG_DATA(first).cast::<RawFd>().read_unaligned())
        });
        (len > 0).then(|| (message[..len].to_vec(), fd))
    }
}

fn file_of(bytes: &[u8]) -> OwnedFd {
    // SAFETY: a string, and a number.
    let fd = unsafe { libc::memfd_create(c"request".as_ptr(), libc::MFD_CLOEXEC) };
    // SAFETY: just opened.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(bytes).unwrap();
    file.into()
}

/// Installs a filter (seccomp(2)) in the calling process.
fn refuse(calls: &[libc::c_long]) -> std::io::Result<()> {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    // struct seccomp_data begins with the number of the system call.
    let mut filter = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0)];
    for &call in calls {
        let jump = statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, call as u32);
        filter.push(libc::sock_filter { jf: 1, ..jump });
        filter.push(statement(
            libc::BPF_RET | libc::BPF_K,
            libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32,
        ));
    }
    filter.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program outlives the call, which copies it.
    let result = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

impl Vm {
    /// Starts a VM whose warden is ready.
    pub fn start() -> Self {
        Self::of(new_run(), |_| ())
    }

    pub fn of(run: RunId, change: impl FnOnce(&mut Command)) -> Self {
        let (vm, ready) = Self::launch(run, change);
        let pid = vm.warden.id();
        assert_eq!(ready, [Frame::Ready { protocol: 1, pid, mark: 1, errno: 0, flags: 0b1111 }]);
        vm
    }

    /// Starts a VM whose warden and shims get ENOSYS from these system calls. Returns it with the
    /// warden's reports.
    pub fn without(calls: &'static [libc::c_long]) -> (Self, Vec<Frame>) {
        Self::launch(new_run(), |command| {
            use std::os::unix::process::CommandExt;
            // SAFETY: two system calls.
            unsafe { command.pre_exec(|| refuse(calls)) };
        })
    }

    fn launch(run: RunId, change: impl FnOnce(&mut Command)) -> (Self, Vec<Frame>) {
        let name = format!("leash-test-{run}");
        let listener = listen(&name);
        let own = i32::try_from(std::process::id()).unwrap();
        let mut command = Command::new(binary());
        command
            .args([format!("--run-id={run}"), "--warden".into(), format!("--control={name}")])
            .args(["--report=1".into(), format!("--owner={own}:{}", start_ticks(own))])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        change(&mut command);
        let mut warden = command.spawn().unwrap();
        let mut frame = [0; 12];
        warden.stdout.as_mut().unwrap().read_exact(&mut frame).unwrap();
        // SAFETY: a descriptor of ours, and no address asked for.
        let fd = unsafe {
            libc::accept4(
                listener.as_raw_fd(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                libc::SOCK_CLOEXEC,
            )
        };
        assert!(fd >= 0);
        // SAFETY: just opened.
        let vm = Self { run, warden, control: Some(unsafe { OwnedFd::from_raw_fd(fd) }) };
        (vm, frames::all(&frame))
    }

    pub fn warden(&self) -> i32 {
        i32::try_from(self.warden.id()).unwrap()
    }

    /// Asks for a shim, and does not wait for it.
    pub fn request(&self, worker: u16, request: Request, command: &[&str]) -> Channel {
        let own = i32::try_from(std::process::id()).unwrap();
        let mut arguments =
            vec![request.program.unwrap_or_else(|| binary().display().to_string())];
        arguments.extend([format!("--run-id={}", self.run), format!("--worker={worker}")]);
        arguments.extend(["--channel=3".into(), format!("--owner={own}:{}", start_ticks(own))]);
        let defaults = [("--stdin=", "--stdin=null"), ("--stdout=", "--stdout=null")];
        for (option, default) in defaults {
            if !request
                .options
                .iter()
                .any(|given| given.starts_with(option) || given.starts_with("--attach"))
            {
                arguments.push(default.into());
            }
        }
        arguments.extend(request.options);
        if !command.is_empty() {
            arguments.push("--".into());
            arguments.extend(command.iter().map(|&argument| argument.to_owned()));
        }
        let mut text = Vec::new();
        for string in arguments.iter().chain(&request.environment) {
            text.extend(CString::new(string.as_str()).unwrap().as_bytes_with_nul());
        }
        // A VM does the same if a message would be too long.
        let texts = (text.len() > 30_000 || arguments.len() > 1_000).then(|| file_of(&text));
        let directory = File::open(request.directory.as_deref().unwrap_or(".")).unwrap();
        let (ours, theirs) = pair();
        let mut fds = vec![theirs.as_raw_fd(), directory.as_raw_fd()];
        fds.extend(texts.as_ref().map(AsRawFd::as_raw_fd));
        let mut message = b"LWR1\x01\0\0\0".to_vec();
        message[6] = u8::from(texts.is_some());
        for (bit, end) in request.ends.iter().enumerate() {
            if let Some(end) = end {
                message[5] |= 1 << bit;
                fds.push(end.as_raw_fd());
            }
        }
        message.extend(u32::try_from(arguments.len()).unwrap().to_be_bytes());
        message.extend(u32::try_from(request.environment.len()).unwrap().to_be_bytes());
        if texts.is_none() {
            message.extend(&text);
        }
        send(self.control.as_ref().unwrap(), &message, &fds);
        Channel { fd: Some(ours), frames: Vec::new(), pidfd: None }
    }

    /// Starts a shim, and waits until its program runs.
    #[track_caller]
    pub fn shim(&self, worker: u16, options: &[&str], command: &[&str]) -> Channel {
        let options = options.iter().map(|&option| option.to_owned()).collect();
        let mut channel =
            self.request(worker, Request { options, ..Request::default() }, command);
        channel.until(|frame| matches!(frame, Frame::Started { .. } | Frame::Attached { .. }));
        channel
    }

    /// Waits for the message that no orphan is left.
    pub fn word(&self) {
        let (ours, theirs) = pair();
        send(
            self.control.as_ref().unwrap(),
            b"LWR1\x02\0\0\0\0\0\0\0\0\0\0\0",
            &[theirs.as_raw_fd()],
        );
        drop(theirs);
        assert_eq!(receive(&ours).map(|(word, _)| word), Some(b"W".to_vec()));
    }

    /// Waits until the warden ends by itself.
    #[track_caller]
    pub fn warden_ended(&mut self) {
        let mut status = None;
        until("the warden ends", || {
            status = self.warden.try_wait().unwrap();
            status.is_some()
        });
        assert_eq!(status.unwrap().code(), Some(0));
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.warden.kill();
        let _ = self.warden.wait();
        for pid in bearers(self.run) {
            kill(pid, libc::SIGKILL);
        }
    }
}

impl Channel {
    /// Takes frames up to one that matches. Returns `None` if the channel ends first.
    pub fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        loop {
            let (bytes, pidfd) = receive(self.fd.as_ref().unwrap())?;
            self.pidfd = pidfd.or(self.pidfd.take());
            for frame in frames::all(&bytes) {
                self.frames.push(frame.clone());
                if wanted(&frame) {
                    return Some(frame);
                }
            }
        }
    }

    /// Returns all frames up to the end of the channel.
    pub fn ended(&mut self) -> Vec<Frame> {
        assert!(self.until(|_| false).is_none());
        self.frames.clone()
    }

    pub fn ask(&self, what: u8) {
        send(self.fd.as_ref().unwrap(), &[what], &[]);
    }

    /// Asks for a signal to the leader (scope 0), its group (1) or the tree (2).
    pub fn ask_for_signal(&self, number: i32, scope: u8) {
        let number = u8::try_from(number).unwrap();
        send(self.fd.as_ref().unwrap(), &[b'S', number, scope], &[]);
    }

    pub fn hang_up(&mut self) {
        drop(self.fd.take());
    }

    /// Returns the pid of the shim, as the warden or the shim itself reported it.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        let found = self.frames.iter().find_map(|frame| match frame {
            Frame::Ready { pid, .. } | Frame::Spawned { pid } => Some(*pid),
            _ => None,
        });
        i32::try_from(found.unwrap()).unwrap()
    }

    /// Returns the pid of the worker.
    #[track_caller]
    pub fn worker(&self) -> i32 {
        let found = self.frames.iter().find_map(|frame| match frame {
            Frame::Started { pid } => Some(*pid),
            _ => None,
        });
        i32::try_from(found.unwrap()).unwrap()
    }
}
