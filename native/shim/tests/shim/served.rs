//! A warden that starts shims. If a shim is killed, the warden ends by descent the processes that
//! the shim leaves.

use crate::frames::Frame;
use crate::harness::*;
use crate::vm::{Request, Vm, send};
use leash_tag::Mark;
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};

fn is_gone(frame: &Frame) -> bool {
    matches!(frame, Frame::Gone(_))
}

/// A process without mark, environment, parent and session.
const STRIPPED: &str = "env -i prlimit --locks=1:1 setsid -f sleep";

fn strip(seconds: u32) -> String {
    format!("{STRIPPED} {seconds}; sleep {} & wait", seconds + 1)
}

/// Returns the processes that run exactly this command, whatever they carry.
fn running(command: &str) -> Vec<i32> {
    pids()
        .into_iter()
        .filter(|&pid| lives(pid) && cmdline(pid).join(" ").trim_end() == command)
        .collect()
}

#[track_caller]
fn one(command: &str) -> i32 {
    find(command, || running(command).first().copied())
}

#[test]
fn a_shim_reports_and_ends_as_asked_by_its_channel_alone() {
    let vm = Vm::start();
    let mut channel = vm.shim(1, &["--stop=TERM:9000"], &["sleep", "44"]);
    assert_eq!(ppid(channel.pid()), Some(vm.warden()));
    assert_eq!(ppid(channel.worker()), Some(channel.pid()));
    assert!(
        channel.frames.contains(&Frame::Spawned { pid: u32::try_from(channel.pid()).unwrap() })
    );
    assert!(channel.pidfd.is_some());
    channel.ask(b'E');
    match channel.ended().last() {
        Some(Frame::Gone(gone)) => assert_eq!((gone.cause, gone.last, gone.passes), (3, 0, 0)),
        other => panic!("{other:?}"),
    }
    until("it is reaped", || stat(channel.pid()).is_none());
    assert_eq!(bearers(vm.run), []);
}

#[test]
fn sigkill_can_be_asked_for_while_the_ladder_is_climbed() {
    let vm = Vm::start();
    let mut channel =
        vm.shim(1, &["--stop=TERM:60000"], &["sh", "-c", "trap '' TERM; exec sleep 64"]);
    one("sleep 64");
    channel.ask(b'E');
    channel.until(|frame| matches!(frame, Frame::Step { .. }));
    // A repeated request is for the same ladder.
    channel.ask(b'E');
    channel.ask(b'K');
    assert!(
        channel
            .until(is_gone)
            .is_some_and(|frame| matches!(frame, Frame::Gone(gone) if gone.cause == 4))
    );
}

#[test]
fn a_signal_reaches_those_of_its_scope_and_nothing_follows_it() {
    let (vm, mut decoy) = (Vm::start(), Decoy::start());
    let script = "sleep 101 & setsid sleep 102 & exec sleep 103";
    let mut channel = vm.shim(1, &["--stop=TERM:9000@tree"], &["sh", "-c", script]);
    let [member, other, leader] = ["sleep 101", "sleep 102", "sleep 103"].map(one);
    let stopped = |pid| state(pid) == Some('T');
    for (scope, reached) in
        [(0, &[leader][..]), (1, &[leader, member]), (2, &[leader, member, other])]
    {
        channel.ask_for_signal(libc::SIGSTOP, scope);
        until("those of the scope have stopped", || reached.iter().all(|&pid| stopped(pid)));
        // A request that means nothing, and one that comes after it.
        channel.ask_for_signal(libc::SIGKILL, 3);
        channel.ask_for_signal(libc::SIGWINCH, 2);
        for pid in [leader, member, other] {
            assert_eq!(stopped(pid), reached.contains(&pid), "{scope} {pid}");
        }
        channel.ask_for_signal(libc::SIGCONT, 2);
        until("all go on", || ![leader, member, other].iter().any(|&pid| stopped(pid)));
    }
    channel.ask(b'E');
    assert!(channel.ended().iter().any(is_gone));
    decoy.assert_alive();
}

#[test]
fn a_hang_up_ends_the_tree_and_what_was_asked_before_counts() {
    let vm = Vm::start();
    for asked in [None, Some(b'K')] {
        let mut channel =
            vm.shim(1, &["--stop=TERM:60000"], &["sh", "-c", "trap '' TERM; exec sleep 54"]);
        let (shim, worker) = (channel.pid(), one("sleep 54"));
        asked.into_iter().for_each(|what| channel.ask(what));
        channel.hang_up();
        if asked.is_none() {
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert!(lives(worker), "it has a minute");
            kill(shim, libc::SIGQUIT);
        }
        until("both are gone", || !lives(shim) && !lives(worker));
    }
}

/// Each end of a socket learns once that the other end has not read everything, before it reads
/// the other end's data.
#[test]
fn what_was_asked_counts_though_the_reports_are_not_read() {
    let vm = Vm::start();
    let options = vec!["--stop=TERM:60000".to_owned()];
    let request = Request { options, ..Request::default() };
    let mut channel = vm.request(1, request, &["sh", "-c", "trap '' TERM; exec sleep 67"]);
    let worker = one("sleep 67");
    channel.ask(b'K');
    channel.hang_up();
    until("it has got SIGKILL", || !lives(worker));
}

/// There are no pidfds, and no marks to find anything by.
#[test]
fn a_warden_on_less_of_a_kernel_starts_shims_and_knows_what_they_leave_by_descent() {
    let calls = &[libc::SYS_pidfd_open, libc::SYS_pidfd_send_signal, libc::SYS_prlimit64];
    let (mut vm, ready) = Vm::without(calls);
    let pid = vm.warden.id();
    assert_eq!(ready, [Frame::Ready { protocol: 1, pid, mark: 1, errno: 0, flags: 0b0101 }]);
    let mut asked = vm.shim(1, &[], &["sleep", "68"]);
    let mut killed = vm.shim(2, &[], &["sh", "-c", "sleep 69 & setsid sleep 70"]);
    let (orphans, mut decoy) = ([one("sleep 69"), one("sleep 70")], Decoy::start());
    asked.ask(b'E');
    assert!(matches!(asked.ended().last(), Some(Frame::Gone(gone)) if gone.cause == 3));
    kill(killed.pid(), libc::SIGKILL);
    until("nothing of it is left", || !orphans.iter().any(|&pid| lives(pid)));
    assert!(!killed.ended().iter().any(is_gone));
    vm.word();
    let mut kept = vm.shim(3, &[], &["sleep", "71"]);
    let worker = one("sleep 71");
    vm.control = None;
    assert!(vm.warden.try_wait().unwrap().is_none(), "a shim lives");
    kept.hang_up();
    vm.warden_ended();
    assert!(!lives(worker));
    decoy.assert_alive();
}

/// The VM is under nohup(1), and its fork server also ignores SIGPIPE.
#[test]
fn a_warden_heeds_no_signal_and_its_programs_ignore_none_whatever_was_ignored_before() {
    let vm = Vm::of(new_run(), |command| {
        use std::os::unix::process::CommandExt;
        // SAFETY: no handler is installed.
        unsafe {
            command.pre_exec(|| {
                for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGPIPE, libc::SIGFPE] {
                    libc::signal(signal, libc::SIG_IGN);
                }
                Ok(())
            });
        }
    });
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
        kill(vm.warden(), signal);
    }
    let channel = vm.shim(1, &[], &["sleep", "72"]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", channel.worker())).unwrap();
    for field in ["SigBlk:\t0000000000000000\n", "SigIgn:\t0000000000000000\n"] {
        assert!(status.contains(field), "{status}");
    }
    assert!(lives(vm.warden()));
}

#[test]
fn the_mark_is_the_same_as_without_a_warden() {
    let vm = Vm::start();
    let channel = vm.shim(7, &[], &["sleep", "44"]);
    let mark = limits(channel.worker()).and_then(Mark::decode).unwrap();
    assert_eq!(
        (mark.depth(), mark.worker().map(|it| it.get()), mark.outlives()),
        (7, Some(7), false)
    );
}

#[test]
fn what_reaches_a_worker_is_what_was_asked_for() {
    let (vm, dir) = (Vm::start(), Dir::new());
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors, just opened and known to nothing else.
    let [read, write] = unsafe {
        assert_eq!(libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC), 0);
        fds.map(|fd| OwnedFd::from_raw_fd(fd))
    };
    let request = Request {
        options: vec!["--stdout=fd:5".into(), "--stderr=stdout".into()],
        environment: vec!["A=1".into(), "B=".into(), "PATH=/usr/bin:/bin".into()],
        directory: Some(dir.0.display().to_string()),
        ends: [None, Some(write), None],
        program: None,
    };
    let script = "pwd; env | sort; ls -l /proc/self/fd | grep -c ' -> '; grep -E '^(SigBlk|SigIgn)' /proc/self/status";
    let mut channel = vm.request(1, request, &["sh", "-c", script]);
    assert!(channel.until(is_gone).is_some());
    let mut text = String::new();
    std::fs::File::from(read).read_to_string(&mut text).unwrap();
    let lines: Vec<_> = text.lines().collect();
    // The fourth descriptor is the worker's own, of the directory that it lists.
    let signals = ["SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000"];
    let directory = dir.0.canonicalize().unwrap().display().to_string();
    let expected =
        [&[directory.as_str(), "A=1", "B=", "PATH=/usr/bin:/bin"], &["PWD=.."][..0]].concat();
    let seen: Vec<_> = lines
        .iter()
        .filter(|line| !["PWD=", "OLDPWD=", "_=", "SHLVL="].iter().any(|it| line.starts_with(it)))
        .copied()
        .collect();
    assert_eq!(seen, [expected, vec!["4"], signals.to_vec()].concat());
}

#[test]
fn arguments_and_environment_may_be_as_large_as_the_kernel_lets_them_be() {
    let vm = Vm::start();
    let large = "x".repeat(100_000);
    let environment = (0..10).map(|n| format!("V{n}={large}")).collect();
    let mut channel =
        vm.request(1, Request { environment, ..Request::default() }, &["/bin/true", &large]);
    let ended = channel.until(is_gone);
    assert!(matches!(ended, Some(Frame::Gone(gone)) if (gone.how, gone.status) == (1, 0)));
    let environment = (0..40).map(|n| format!("V{n}={large}")).collect();
    let mut channel =
        vm.request(2, Request { environment, ..Request::default() }, &["/bin/true"]);
    assert_eq!(channel.ended(), [Frame::StartFailed { stage: 16, errno: 7 }]);
}

#[test]
fn a_shim_that_cannot_be_started_is_told_of() {
    let vm = Vm::start();
    for (program, errno) in [("/nonexistent", 2), ("/", 13)] {
        let request = Request { program: Some(program.into()), ..Request::default() };
        assert_eq!(
            vm.request(1, request, &["true"]).ended(),
            [Frame::StartFailed { stage: 16, errno }]
        );
    }
    // A message that is not a request does no harm.
    let socket = vm.control.as_ref().unwrap();
    for message in [
        &b""[..],
        b"x",
        b"LWR1\x01\x08\0\0\0\0\0\0\0\0\0\0",
        b"LWR1\x09\0\0\0\0\0\0\0\0\0\0\0",
        &[255; 200],
    ] {
        if !message.is_empty() {
            send(socket, message, &[0]);
        }
    }
    let mut channel = vm.request(1, Request::default(), &["true"]);
    assert!(channel.until(is_gone).is_some());
}

#[test]
fn what_a_killed_shim_leaves_is_ended_whatever_it_has_shed() {
    let (vm, decoy) = (Vm::start(), Decoy::start());
    let mut other = vm.shim(2, &[], &["sleep", "144"]);
    let channel = vm.shim(1, &["--linger=100000"], &["sh", "-c", &strip(145)]);
    let (stripped, plain) = (one("sleep 145"), one("sleep 146"));
    assert_eq!(limits(stripped).and_then(Mark::decode), None);
    kill(channel.pid(), libc::SIGKILL);
    until("both are gone", || !lives(stripped) && !lives(plain));
    vm.word();
    until("it is reaped", || stat(channel.pid()).is_none() && stat(stripped).is_none());
    assert!(lives(other.worker()) && lives(other.pid()));
    other.ask(b'E');
    assert!(other.until(is_gone).is_some());
    let mut decoy = decoy;
    decoy.assert_alive();
}

#[test]
fn word_comes_at_once_where_nothing_is_to_be_ended() {
    let vm = Vm::start();
    vm.word();
    let _channel = vm.shim(1, &[], &["sleep", "44"]);
    vm.word();
}

/// It also comes if a shim ends itself because of a fault (SIGSEGV).
#[test]
fn word_comes_after_the_end_of_what_is_hard_to_end() {
    let vm = Vm::start();
    for shape in [
        "chain:12",
        "fan:40",
        "clone-parent",
        "subreaper",
        "stopped:3",
        "vfork",
        "scattered-hoppers:4",
    ] {
        let this = std::env::current_exe().unwrap().display().to_string();
        let role = format!("{}={shape}", crate::adversary::ROLE);
        let request = Request {
            options: vec!["--linger=100000".into()],
            environment: vec![role, "PATH=/usr/bin:/bin".into()],
            ..Request::default()
        };
        let command =
            [this.as_str(), "--exact", "adversary::adversary", "--nocapture", "--quiet"];
        let mut channel = vm.request(1, request, &command);
        channel.until(|frame| matches!(frame, Frame::Started { .. }));
        let count = SHAPES.iter().find(|it| it.0 == shape).map_or(1, |it| it.1);
        until(shape, || bearers(vm.run).len() > count);
        kill(channel.pid(), libc::SIGSEGV);
        kill(channel.pid(), libc::SIGKILL);
        until("the shim is gone", || !lives(channel.pid()));
        vm.word();
        assert_eq!(bearers(vm.run), [], "{shape}");
    }
}

const SHAPES: [(&str, usize); 6] = [
    ("chain:12", 13),
    ("fan:40", 41),
    ("clone-parent", 1),
    ("subreaper", 11),
    ("stopped:3", 4),
    ("vfork", 1),
];

#[test]
fn what_outlives_its_vm_on_purpose_is_left_alone_with_or_without_its_mark() {
    let vm = Vm::start();
    let kept = vm.shim(
        1,
        &["--on-hangup=detach", "--name=kept", "--linger=100000"],
        &["sh", "-c", &strip(155)],
    );
    let (stripped, plain) = (one("sleep 155"), one("sleep 156"));
    kill(kept.pid(), libc::SIGKILL);
    until("the shim is gone", || stat(kept.pid()).is_none());
    vm.word();
    let ended = vm.shim(2, &["--linger=100000"], &["sh", "-c", &strip(165)]);
    let (other, _) = (one("sleep 165"), one("sleep 166"));
    kill(ended.pid(), libc::SIGKILL);
    until("the other's is gone", || !lives(other));
    vm.word();
    assert!(lives(stripped) && lives(plain), "the kept tree");
    for pid in [stripped, plain] {
        kill(pid, libc::SIGKILL);
        until("it is reaped", || stat(pid).is_none());
    }
}

#[test]
fn what_a_worker_kept_is_left_alone_and_so_is_what_that_orphans_later() {
    let vm = Vm::start();
    let server = format!("(sleep 1194; {STRIPPED} 1195; sleep 1196) & sleep 1197 & exit 3");
    let mut kept = vm.shim(1, &["--on-exit=keep"], &["sh", "-c", &server]);
    let frames = kept.ended();
    assert!(
        matches!(frames.last(), Some(Frame::Gone(gone)) if (gone.status, gone.cause) == (3, 6)),
        "{frames:?}"
    );
    let shim = kept.pid();
    let plain = one("sleep 1197");
    assert!(lives(shim) && ppid(plain) == Some(shim), "their reaper stays");
    assert!(limits(shim).and_then(Mark::decode).unwrap().outlives());
    // A kept process starts the next one, which has neither its mark nor its session.
    kill(one("sleep 1194"), libc::SIGKILL);
    let stripped = one("sleep 1195");
    let mut ended = vm.shim(2, &["--linger=100000"], &["sh", "-c", &strip(1165)]);
    let others = [one("sleep 1165"), one("sleep 1166")];
    kill(ended.pid(), libc::SIGKILL);
    until("the other's tree is gone", || others.iter().all(|&pid| !lives(pid)));
    vm.word();
    ended.hang_up();
    assert!(lives(stripped) && lives(plain) && lives(shim));
    // A signal to the shim ends the processes that it keeps, by its ladder.
    kill(shim, libc::SIGINT);
    until("nothing is left of it", || stat(shim).is_none() && !lives(stripped) && !lives(plain));
}

#[test]
fn starts_do_not_wait_for_the_end_of_a_large_tree() {
    let vm = Vm::start();
    let script = "for n in $(seq 800); do sleep 200 & done; wait";
    let channel = vm.shim(1, &[], &["sh", "-c", script]);
    until("it has grown", || bearers(vm.run).len() > 800);
    kill(channel.pid(), libc::SIGKILL);
    let began = std::time::Instant::now();
    let mut quick = vm.shim(2, &[], &["sleep", "44"]);
    let took = began.elapsed();
    vm.word();
    println!("a start beside the end of 800: {took:?}; all gone after {:?}", began.elapsed());
    quick.ask(b'K');
    assert!(quick.until(is_gone).is_some());
    until("the shim has ended, too", || bearers(vm.run).is_empty());
}

#[test]
fn a_vm_that_lets_go_and_lives_is_left_by_its_warden_once_nothing_is_there() {
    let mut vm = Vm::start();
    let mut channel = vm.shim(1, &[], &["sleep", "44"]);
    drop(vm.control.take());
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(lives(vm.warden()) && lives(channel.worker()));
    channel.ask(b'E');
    assert!(channel.until(is_gone).is_some());
    vm.warden_ended();
}

/// Plays the VM that the test below kills; it is not a test of its own.
pub fn vm_role() -> ! {
    let run = std::env::var("LEASH_TEST_RUN").unwrap().parse().unwrap();
    let vm = Vm::of(run, |_| ());
    let channels: Vec<_> = [(1, 175), (2, 185)]
        .map(|(worker, seconds)| {
            vm.shim(worker, &["--linger=100000"], &["sh", "-c", &strip(seconds)])
        })
        .into();
    println!("{} {}", vm.warden(), channels[0].pid());
    loop {
        std::thread::sleep(std::time::Duration::from_secs(10));
    }
}

#[test]
fn a_warden_outlives_vm_and_shims_and_leaves_nothing() {
    use std::io::BufRead;
    let run = new_run();
    let mut vm = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "adversary::adversary", "--nocapture", "--quiet"])
        .envs([(crate::adversary::ROLE, "vm".to_owned()), ("LEASH_TEST_RUN", run.to_string())])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(vm.stdout.take().unwrap()).lines();
    let said = lines.find_map(|line| {
        Some(line.unwrap()).filter(|line| line.starts_with(|c: char| c.is_ascii_digit()))
    });
    let said = said.unwrap();
    let mut said = said.split(' ').map(|number| number.parse::<i32>().unwrap());
    let (warden, shim) = (said.next().unwrap(), said.next().unwrap());
    let all = ["sleep 175", "sleep 176", "sleep 185", "sleep 186"].map(one);
    kill(shim, libc::SIGSTOP);
    // The VM and the shim of one tree end at once. The other tree still has its shim.
    kill(i32::try_from(vm.id()).unwrap(), libc::SIGKILL);
    kill(shim, libc::SIGKILL);
    vm.wait().unwrap();
    until("nothing is left", || all.iter().all(|&pid| !lives(pid)));
    until("the warden goes last", || !lives(warden));
    assert_eq!(bearers(run), []);
}
