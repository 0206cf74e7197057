//! Leash and owner.

use crate::frames::Frame;
use crate::harness::*;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

fn owner() -> std::process::Child {
    Command::new("sleep").arg("60").spawn().unwrap()
}

fn owner_option(owner: &std::process::Child) -> String {
    let pid = i32::try_from(owner.id()).unwrap();
    format!("--owner={pid}:{}", start_ticks(pid))
}

#[test]
fn the_leash_is_never_read() {
    let mut tree = Plan::vm().option("--stop=TERM:20000").start(&["sleep", "43"]);
    tree.member("sleep 43");
    tree.leash.as_mut().unwrap().write_all(&[0; 4096]).unwrap();
    assert_eq!(tree.let_go().gone().cause, 1, "data that nobody reads hides no hang-up");
}

#[test]
fn the_owner_s_end_ends_the_tree_though_the_leash_holds() {
    let mut owner = owner();
    let mut tree = Plan::vm().option(owner_option(&owner)).start(&["sleep", "43"]);
    tree.member("sleep 43");
    owner.kill().unwrap();
    // A zombie has ended; the test need not reap it first.
    let ended = tree.ended();
    owner.wait().unwrap();
    assert_eq!(ended.gone().cause, 2);
    assert!(matches!(ended.frames().first(), Some(Frame::Ready { flags: 0b111, .. })));
}

#[test]
fn the_leash_ends_the_tree_though_the_owner_lives() {
    let mut owner = owner();
    let mut tree = Plan::vm().option(owner_option(&owner)).start(&["sleep", "43"]);
    tree.member("sleep 43");
    assert_eq!(tree.let_go().gone().cause, 1);
    assert_eq!(owner.try_wait().unwrap(), None);
    owner.kill().unwrap();
    owner.wait().unwrap();
}

#[test]
fn a_stopped_owner_is_not_a_dead_one() {
    let mut owner = owner();
    let mut tree = Plan::vm().option(owner_option(&owner)).start(&["sleep", "43"]);
    let worker = tree.member("sleep 43");
    let pid = i32::try_from(owner.id()).unwrap();
    kill(pid, libc::SIGSTOP);
    until("it is stopped", || state(pid) == Some('T'));
    until("the shim sleeps", || state(tree.pid) == Some('S'));
    assert!(lives(worker));
    assert_eq!(tree.let_go().gone().cause, 1);
    owner.kill().unwrap();
    owner.wait().unwrap();
}

#[test]
fn an_owner_that_is_gone_or_another_gets_no_worker() {
    let dir = Dir::new();
    let script = format!("echo started > {}", dir.path("log"));
    let mut owner = owner();
    let another = format!("--owner={}:1", owner.id());
    let gone = owner_option(&owner);
    let mut tree = Plan::vm().option(another).sh(&script);
    let ended = tree.ended();
    assert_eq!(ended.code, 125);
    assert_eq!(ended.frames(), [Frame::StartFailed { stage: 12, errno: 3 }]);

    owner.kill().unwrap();
    owner.wait().unwrap();
    let mut tree = Plan::vm().option(gone).sh(&script);
    let ended = tree.ended();
    assert_eq!(
        (ended.code, ended.frames()),
        (125, vec![Frame::StartFailed { stage: 12, errno: 3 }])
    );
    assert_eq!(dir.read("log"), "");
}

#[test]
fn a_leash_that_is_gone_already_gets_no_worker() {
    let dir = Dir::new();
    let script = format!("echo started > {}", dir.path("log"));
    let refused = vec![Frame::StartFailed { stage: 12, errno: 32 }];

    // The second tree would outlive its VM. Its start had not begun when the program that asked
    // for it ended.
    for plan in [Plan::vm(), Plan::vm().option("--on-hangup=detach")] {
        let mut writer = Command::new("true").stdout(Stdio::piped()).spawn().unwrap();
        let mut hung_up = writer.stdout.take().unwrap();
        writer.wait().unwrap();
        // Another test's child may hold the other end until it execs.
        assert_eq!(hung_up.read(&mut [0]).unwrap(), 0);
        let mut tree = plan
            .with(|command| {
                command.stdin(hung_up);
            })
            .sh(&script);
        let ended = tree.ended();
        assert_eq!((ended.code, ended.frames()), (125, refused.clone()));
    }

    let mut tree = Plan::by_hand().option("--report=1").option("--leash=9").sh(&script);
    let ended = tree.ended();
    assert_eq!((ended.code, ended.frames()), (125, refused), "not even open");
    assert_eq!(dir.read("log"), "");
}

#[test]
fn a_detached_tree_outlives_leash_and_owner() {
    let mut owner = owner();
    let mut tree = Plan::vm()
        .option("--name=MyApp.A")
        .option(owner_option(&owner))
        .option("--on-hangup=detach")
        .option("--stderr=null")
        .start(&["sleep", "43"]);
    let worker = tree.member("sleep 43");
    let stderr = || std::fs::read_link(format!("/proc/{}/fd/2", tree.pid)).unwrap();
    until("it lets go of what was its VM's stderr", || {
        stderr() == std::path::Path::new("/dev/null")
    });
    assert!(leash_tag::Mark::decode(limits(worker).unwrap()).unwrap().outlives());
    owner.kill().unwrap();
    owner.wait().unwrap();
    tree.hang_up();
    drop(tree.stdout.take());
    // Both ends were noticed if the shim sleeps again. The test looks twice to be sure that it
    // does not spin.
    for _ in 0..2 {
        until("the shim sleeps", || state(tree.pid) == Some('S'));
        std::thread::yield_now();
    }
    let before = cpu_ticks(tree.pid);
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert!(cpu_ticks(tree.pid) - before < 10, "it does not spin");
    assert!(lives(worker) && lives(tree.pid));
    assert_eq!(
        tree.stop(libc::SIGTERM).code,
        143,
        "and still ends by a signal, though nobody reads reports"
    );
}

fn cpu_ticks(pid: i32) -> u64 {
    let fields = stat(pid).unwrap();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn a_child_forked_in_the_owner_that_holds_the_leash_changes_nothing() {
    let mut owner = owner();
    let mut tree =
        Plan::vm().option(owner_option(&owner)).option("--stop=KILL:0").start(&["sleep", "43"]);
    tree.member("sleep 43");
    owner.kill().unwrap();
    let ended = tree.ended();
    assert!(tree.leash.is_some(), "the other end was open all the time");
    assert_eq!(ended.gone().cause, 2);
    owner.wait().unwrap();
}

#[test]
fn the_leash_may_be_the_worker_s_stdin() {
    let mut tree = Plan::by_hand()
        .with(|command| {
            command.stdin(Stdio::piped());
        })
        .option("--leash=0")
        .option("--stop=TERM:20000")
        .start(&["cat"]);
    tree.leash.as_mut().unwrap().write_all(b"through").unwrap();
    let mut stdout = tree.stdout.take().unwrap();
    let mut bytes = [0; 7];
    stdout.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"through");
    let code = tree.let_go().code;
    assert!(code == 0 || code == 143, "by the end of its input or by the hang-up: {code}");
}
