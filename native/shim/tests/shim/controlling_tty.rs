//! A worker with a terminal of its own, `--controlling-tty`.

use crate::frames::Frame;
use crate::harness::*;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::Stdio;

/// The stage of the report, and the errors of ioctl_tty(2).
const TERMINAL: u8 = 20;

/// The number at which the shim gets the slave.
const PASSED: RawFd = 57;

/// Opens a terminal: its master and its slave.
fn open() -> (File, OwnedFd) {
    let (mut master, mut slave) = (0, 0);
    let none = std::ptr::null_mut();
    // SAFETY: two places for descriptors; no name, modes or size are asked for.
    let result = unsafe {
        libc::openpty(
            &raw mut master,
            &raw mut slave,
            none,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
    assert_eq!(result, 0);
    // SAFETY: just opened, and known to nothing else.
    unsafe {
        libc::fcntl(master, libc::F_SETFD, libc::FD_CLOEXEC);
        libc::fcntl(slave, libc::F_SETFD, libc::FD_CLOEXEC);
        (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave))
    }
}

/// Has the shim get the slave at [`PASSED`], as all three streams of its worker.
fn passed(plan: Plan, slave: &OwnedFd) -> Plan {
    let slave = slave.as_raw_fd();
    plan.option(format!("--stdout=fd:{PASSED}"))
        .option(format!("--stderr=fd:{PASSED}"))
        .option("--controlling-tty")
        // SAFETY: only numbers; the copy stays open across exec.
        .before_exec(move || unsafe {
            libc::dup2(slave, PASSED);
        })
}

fn vm(slave: &OwnedFd) -> Plan {
    passed(Plan::vm_with_stdin(&format!("fd:{PASSED}")), slave)
}

/// Reads until no process has the slave any more, which the kernel calls EIO.
fn read_to_end(mut master: &File) -> String {
    let mut text = Vec::new();
    let error = master.read_to_end(&mut text).expect_err("a terminal has no other end");
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    String::from_utf8(text).unwrap()
}

/// Returns process group, session, controlling terminal and its foreground group.
fn terminal(pid: i32) -> [i32; 4] {
    let fields = stat(pid).unwrap();
    [2, 3, 4, 5].map(|at| fields[at].parse().unwrap())
}

#[test]
fn the_worker_leads_a_session_in_the_foreground_of_its_terminal() {
    let (master, slave) = open();
    let mut tree = vm(&slave).sh("echo hello > /dev/tty; exec sleep 61");
    let worker = tree.member("sleep 61");
    let [group, session, tty, foreground] = terminal(worker);
    assert_eq!([group, session, foreground], [worker; 3]);
    assert_ne!(tty, 0);
    let [_, _, of_shim, _] = terminal(tree.pid);
    assert_eq!(of_shim, 0, "the shim has no terminal");
    drop(slave);
    tree.hang_up();
    tree.ended();
    assert_eq!(read_to_end(&master), "hello\r\n");
    assert!(!lives(worker));
}

#[test]
fn the_shim_does_not_keep_the_terminal_open() {
    let (master, slave) = open();
    // Neither the worker nor the rest of its tree has it.
    let mut tree = vm(&slave).sh("echo bye; exec </dev/null >/dev/null 2>&1; sleep 61");
    tree.member("sleep 61");
    drop(slave);
    assert_eq!(read_to_end(&master), "bye\r\n");
    tree.hang_up();
    tree.ended();
}

#[test]
fn a_terminal_that_is_closed_is_a_hang_up_for_the_worker() {
    let (master, slave) = open();
    let mut tree = vm(&slave).sh("sleep 61 & exec sleep 61.5");
    tree.member("sleep 61.5");
    drop((master, slave));
    assert_eq!(tree.ended().code, 128 + libc::SIGHUP);
}

#[test]
fn what_is_no_terminal_is_a_failure_with_its_stage() {
    let mut tree = Plan::vm_with_stdin("inherit").option("--controlling-tty").sh("exit 3");
    let ended = tree.ended();
    assert_eq!(ended.code, 125);
    let failed = Frame::StartFailed { stage: TERMINAL, errno: libc::ENOTTY as u16 };
    assert!(ended.frames().contains(&failed), "{:?}", ended.frames());
}

#[test]
fn a_terminal_of_another_session_is_not_taken_from_it() {
    let (master, slave) = open();
    let mut first = vm(&slave).sh("exec sleep 61");
    let worker = first.member("sleep 61");
    let mut second = vm(&slave).sh("exit 3");
    let ended = second.ended();
    assert_eq!(ended.code, 125);
    let failed = Frame::StartFailed { stage: TERMINAL, errno: libc::EPERM as u16 };
    assert!(ended.frames().contains(&failed), "{:?}", ended.frames());
    let [_, session, tty, _] = terminal(worker);
    assert_eq!(session, worker);
    assert_ne!(tty, 0);
    first.hang_up();
    first.ended();
    drop(master);
}

/// A container's first process, say, has a terminal and no session.
#[test]
fn a_person_has_a_terminal_on_stdin_made_the_worker_s() {
    let (master, slave) = open();
    let streams = slave.try_clone().unwrap();
    let mut tree = Plan::by_hand()
        .option("--controlling-tty")
        .with(|command| {
            command
                .stdin(Stdio::from(streams.try_clone().unwrap()))
                .stdout(Stdio::from(streams.try_clone().unwrap()))
                .stderr(Stdio::from(streams));
        })
        .sh("echo hello > /dev/tty; exit 4");
    drop(slave);
    assert_eq!(tree.ended().code, 4);
    drop(tree);
    assert_eq!(read_to_end(&master), "hello\r\n");
}

#[test]
fn a_person_is_told_why_there_is_no_terminal() {
    let mut tree = Plan::by_hand()
        .option("--controlling-tty")
        .with(|command| {
            command.stderr(Stdio::piped());
        })
        .sh("exit 3");
    assert_eq!(tree.ended().code, 125);
    let mut text = String::new();
    tree.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(text.contains("not a terminal (controlling terminal)"), "{text}");
}

/// As after a login: a program opens its terminal by name, too.
#[test]
fn the_terminal_belongs_to_the_worker_s_user() {
    if !root() {
        return;
    }
    let (master, slave) = open();
    let mut tree = vm(&slave)
        .option("--uid=65534")
        .option("--gid=65534")
        .sh("echo opened > \"$(tty)\"; exit 4");
    drop(slave);
    assert_eq!(read_to_end(&master), "opened\r\n");
    assert_eq!(tree.ended().code, 4);
}
