//! In the foreground of a terminal.

use crate::harness::*;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::{Child, Command};

/// A shell that leads the session of a new terminal; the result is the terminal's other side.
fn in_terminal(script: &str) -> (Child, File) {
    let (mut ours, mut theirs) = (0, 0);
    // SAFETY: two places for descriptors; no name, modes or size are asked for.
    let result = unsafe {
        libc::openpty(
            &raw mut ours,
            &raw mut theirs,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
    assert_eq!(result, 0);
    // SAFETY: just opened, and nobody else's.
    let (ours, theirs) = unsafe { (File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) };
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command.stdin(theirs.try_clone().unwrap()).stdout(theirs.try_clone().unwrap()).stderr(theirs);
    // SAFETY: single system calls.
    unsafe {
        use std::os::unix::process::CommandExt;
        command.pre_exec(|| {
            libc::setsid();
            libc::ioctl(0, libc::TIOCSCTTY, 0);
            Ok(())
        });
    }
    (command.spawn().unwrap(), ours)
}

fn read_until(terminal: &mut File, end: &str) -> String {
    let mut text = String::new();
    let mut byte = [0];
    while !text.contains(end) && matches!(terminal.read(&mut byte), Ok(1)) {
        text.push(char::from(byte[0]));
    }
    assert!(text.contains(end), "{text:?}");
    text
}

#[test]
fn the_worker_reads_the_terminal_and_gives_it_back() {
    let run = new_run();
    let script = format!(
        "{} --run-id={run} --foreground -- sh -c 'echo ready; read line; echo got $line'; echo code $?; \
         read line; echo back $line",
        binary().to_str().unwrap()
    );
    let (mut shell, mut terminal) = in_terminal(&script);
    read_until(&mut terminal, "ready");
    terminal.write_all(b"one\n").unwrap();
    read_until(&mut terminal, "got one");
    read_until(&mut terminal, "code 0");
    terminal.write_all(b"two\n").unwrap();
    // A shell that is not in the foreground any more would have been stopped by reading.
    read_until(&mut terminal, "back two");
    assert!(shell.wait().unwrap().success());
}

#[test]
fn an_interrupt_from_the_keyboard_goes_to_the_worker() {
    let run = new_run();
    let script = format!(
        "{} --run-id={run} --foreground -- sh -c 'trap \"exit 33\" INT; echo ready; i=0; while [ $i -lt 1000 ]; do i=$((i+1)); sleep 0.02; done'; \
         echo code $?",
        binary().to_str().unwrap()
    );
    let (mut shell, mut terminal) = in_terminal(&script);
    read_until(&mut terminal, "ready");
    terminal.write_all(b"\x03").unwrap();
    read_until(&mut terminal, "code 33");
    assert!(shell.wait().unwrap().success());
    assert_eq!(bearers(run), []);
}
