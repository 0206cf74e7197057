//! Kernels, limits and filters that refuse something. If there is a strace, it stands for them.

use crate::harness::*;
use std::process::{Command, Stdio};

/// Runs the shim with a system call that fails. Returns the exit code and the output.
fn without(call: &str, error: &str, options: &[&str], script: &str) -> Option<(i32, String)> {
    injected(&format!("{call}:error={error}"), options, &["sh", "-c", script])
}

/// Runs the shim with an injection of strace.
fn injected(what: &str, options: &[&str], command: &[&str]) -> Option<(i32, String)> {
    let can = Command::new("strace")
        .args(["-qq", "-o", "/dev/null", "true"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !can {
        return None;
    }
    let run = new_run();
    let output = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e"])
        .arg(format!("inject={what}"))
        .arg(binary())
        .arg(format!("--run-id={run}"))
        .args(options)
        .arg("--")
        .args(command)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(bearers(run), []);
    let text = [output.stdout, output.stderr].concat();
    Some((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned()))
}

#[track_caller]
fn assert_result(result: Option<(i32, String)>, code: i32, text: &str) {
    if let Some((got, said)) = result {
        assert_eq!((got, said.as_str()), (code, text));
    }
}

#[test]
fn no_close_range() {
    let script = "exec 8</dev/null; ls /proc/self/fd | wc -l; exit 4";
    assert_result(without("close_range", "ENOSYS", &[], script), 4, "5\n");
}

#[test]
fn no_pidfd() {
    let script =
        "trap '' TERM; setsid sh -c 'setsid sleep 52 & sleep 52; sleep 52' & sleep 0.2; exit 4";
    let options = ["--stop=TERM:100", "--linger=50", "--stdout=null", "--stderr=null"];
    assert_result(without("pidfd_open", "ENOSYS", &options, script), 4, "");
}

#[test]
fn no_process_left() {
    let said = "leash-shim: sh: too many processes (fork), errno 11\n";
    assert_result(without("clone", "EAGAIN", &[], "exit 4"), 125, said);
}

#[test]
fn a_kernel_that_knows_a_plain_fork_only() {
    assert_result(without("clone", "EINVAL:when=1", &[], "exit 4"), 4, "");
    let said = "leash-shim: leash-no-such-command: not found, errno 2\n";
    assert_result(
        injected("clone:error=EINVAL:when=1", &[], &["leash-no-such-command"]),
        127,
        said,
    );
}

#[test]
fn no_mark() {
    assert_result(without("prlimit64", "EPERM", &[], "exit 4"), 4, "");
}

#[test]
fn no_death_signal() {
    assert_result(
        without("prctl", "EINVAL:when=1", &[], "exit 4"),
        125,
        "leash-shim: sh: failed (death signal), errno 22\n",
    );
}

/// Here every look at the children takes so long that its result is no longer true.
#[test]
fn a_start_that_fails_between_two_looks_is_told() {
    let said = "leash-shim: leash-no-such-command: not found, errno 2\n";
    assert_result(
        injected("waitid:delay_exit=100000", &[], &["leash-no-such-command"]),
        127,
        said,
    );
}

#[test]
fn a_worker_that_ends_between_two_looks_was_started() {
    assert_result(injected("waitid:delay_exit=100000", &[], &["sh", "-c", "exit 4"]), 4, "");
}
