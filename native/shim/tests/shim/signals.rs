//! Signals to the shim, and the signal state that its worker inherits.

use crate::harness::*;
use std::io::Read;
use std::process::Command;

#[test]
fn stop_signals_by_hand() {
    for signal in [libc::SIGTERM, libc::SIGHUP, libc::SIGINT] {
        let mut tree = Plan::by_hand().start(&["sleep", "44"]);
        tree.member("sleep 44");
        assert_eq!(
            tree.stop(signal).code,
            143,
            "the worker gets the ladder's signal, whichever it was"
        );
    }
}

#[test]
fn other_signals_are_passed_on_by_hand() {
    let mut tree = Plan::by_hand()
        .sh("trap 'exit 21' USR1; echo up; i=0; while [ $i -lt 2000 ]; do i=$((i+1)); sleep 0.02; done");
    let mut stdout = tree.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 3]).unwrap();
    assert_eq!(tree.stop(libc::SIGUSR1).code, 21);
}

#[test]
fn other_signals_are_not_passed_on_by_a_vm_s_shim() {
    let dir = Dir::new();
    let script = format!(
        "trap 'echo usr1 >> {0}' USR1; echo up > {0}; i=0; while [ $i -lt 2000 ]; do i=$((i+1)); sleep 0.02; done",
        dir.path("log")
    );
    let mut tree = Plan::vm().sh(&script);
    until("it is up", || dir.read("log") == "up\n");
    tree.signal(libc::SIGUSR1);
    tree.signal(libc::SIGWINCH);
    tree.let_go();
    assert_eq!(dir.read("log"), "up\n");
}

/// A VM under systemd or in a container gets TERM together with all other processes, and drains.
#[test]
fn term_from_pid_1_is_not_for_us_while_the_leash_holds() {
    if !root() {
        return;
    }
    let shim = binary().to_str().unwrap();
    for (option, heeds) in [("--on-term=auto", false), ("--on-term=ladder", true)] {
        let dir = Dir::new();
        let run = new_run();
        let worker = dir.path("worker");
        let log = dir.path("log");
        std::fs::write(
            &worker,
            format!(
                "trap 'echo told >> {log}; exit 0' TERM; echo up > {log}; i=0; while [ $i -lt 1000 ]; do i=$((i+1)); sleep 0.02; done"
            ),
        )
        .unwrap();
        // The shell is pid 1 of its namespace. The leash is a FIFO that the shell holds open. The
        // second TERM does not come from pid 1. If the shim heeds it, it received the first one
        // and did nothing.
        let second = format!("(sleep 0.3; echo second >> {log}; exec /bin/kill -TERM $shim) &");
        let script = format!(
            "mkfifo {fifo}; exec 9<>{fifo}; \
             {shim} --run-id={run} --worker=1 --leash=8 --stop=TERM:20000 {option} --stdout=null -- \
               sh {worker} 8<{fifo} 9>&- & \
             shim=$!; while ! [ -s {log} ]; do sleep 0.02; done; \
             kill -TERM $shim; {after} wait $shim; echo $? > {status}",
            fifo = dir.path("fifo"),
            status = dir.path("status"),
            after = if heeds { "" } else { &second },
        );
        let status = Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "sh", "-c", &script])
            .status()
            .unwrap();
        assert!(status.success());
        let expected = if heeds { "up\ntold\n" } else { "up\nsecond\ntold\n" };
        assert_eq!(
            (dir.read("log").as_str(), dir.read("status").as_str()),
            (expected, "0\n"),
            "{option}"
        );
        assert_eq!(bearers(run), []);
    }
}

/// Starts a shim with some signals ignored, and all of them blocked.
fn with_ignored(plan: Plan, signals: &'static [i32]) -> Plan {
    plan.before_exec(move || {
        // SAFETY: no handler is installed; the set is a valid local.
        unsafe {
            for &signal in signals {
                libc::signal(signal, libc::SIG_IGN);
            }
            let mut set = std::mem::zeroed();
            libc::sigfillset(&mut set);
            libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        }
    })
}

const STATUS: [&str; 4] = ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"];

#[test]
fn the_worker_s_signals_are_as_new() {
    let ignored = &[libc::SIGPIPE, libc::SIGFPE, libc::SIGCHLD, libc::SIGTERM, 40];
    let ended = with_ignored(Plan::by_hand(), ignored).start(&STATUS).ended();
    assert_eq!(ended.text(), "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
}

#[test]
fn a_worker_of_a_vm_has_no_signal_ignored_whatever_the_vm_ignores() {
    let dir = Dir::new();
    let ignored = &[libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGPIPE];
    let mut tree = with_ignored(Plan::vm(), ignored)
        .sh(&format!("grep SigIgn /proc/self/status > {}; exec sleep 44", dir.path("status")));
    tree.member("sleep 44");
    assert_eq!(dir.read("status"), "SigIgn:\t0000000000000000\n");
    assert_eq!(tree.stop(libc::SIGINT).code, 143, "INT is what a VM asks with");
}

#[test]
fn what_nohup_has_turned_off_stays_so_for_the_worker() {
    let ignored = &[libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGPIPE];
    let ended = with_ignored(Plan::by_hand(), ignored).start(&STATUS).ended();
    assert_eq!(ended.text(), "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000007\n");
}

#[test]
fn what_nohup_has_turned_off_ends_no_tree() {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
        let mut tree =
            with_ignored(Plan::by_hand(), &[libc::SIGHUP, libc::SIGINT, libc::SIGQUIT])
                .sh("trap 'exit 21' USR1; echo up; while :; do sleep 0.02; done");
        let mut stdout = tree.stdout.take().unwrap();
        stdout.read_exact(&mut [0; 3]).unwrap();
        tree.signal(signal);
        // The lower number comes first. If the worker has the second signal, the shim has seen
        // both.
        assert_eq!(tree.stop(libc::SIGUSR1).code, 21, "signal {signal}");
    }
    let mut tree = with_ignored(Plan::by_hand(), &[libc::SIGHUP]).start(&["sleep", "44"]);
    tree.member("sleep 44");
    assert_eq!(tree.stop(libc::SIGINT).code, 143, "the others still end it");
}

#[test]
fn statuses_are_right_with_sigchld_inherited_as_ignored() {
    let mut tree = Plan::vm()
        .before_exec(|| {
            // SAFETY: no handler is installed.
            unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        })
        .sh("exit 17");
    let ended = tree.ended();
    assert_eq!((ended.code, ended.gone().how, ended.gone().status), (17, 1, 17));
}

#[test]
fn a_reader_that_goes_away_ends_the_worker_by_sigpipe() {
    let mut tree = Plan::by_hand().start(&["yes"]);
    let mut stdout = tree.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 2]).unwrap();
    drop(stdout);
    assert_eq!(tree.ended().code, 128 + 13);
}

#[test]
fn no_process_reads_the_reports() {
    // The pipe is full from the start: every report is lost, nothing waits.
    let (_reader, full) = full_pipe();
    let shared = full.try_clone().unwrap();
    let mut tree = Plan::vm()
        .with(|command| {
            command.stdout(full);
        })
        .option("--stop=TERM:100")
        .sh("trap '' TERM; sleep 44; sleep 44");
    tree.member("sleep 44");
    assert_eq!(tree.let_go().code, 137);
    assert!(waits(&shared), "the description is others', too");
}

#[test]
fn the_reader_of_the_reports_is_gone() {
    let mut tree = Plan::vm()
        .option("--stop=TERM:100")
        .sh("trap '' TERM; (setsid sleep 44 &); sleep 44; sleep 44");
    tree.grown(3);
    drop(tree.stdout.take());
    assert_eq!(tree.let_go().code, 137, "SIGPIPE and EPIPE keep nobody from killing");
}
