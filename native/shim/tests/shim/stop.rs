//! The ladder.

use crate::frames::Frame;
use crate::harness::*;
use std::time::{Duration, Instant};

fn steps(ended: &Ended) -> Vec<(u8, u8, u8)> {
    ended
        .frames()
        .into_iter()
        .filter_map(|frame| match frame {
            Frame::Step { cause, index, signal, .. } => Some((cause, index, signal)),
            _ => None,
        })
        .collect()
}

#[test]
fn a_worker_that_heeds_term_is_not_killed() {
    let mut tree = Plan::vm().start(&["sleep", "42"]);
    let worker = tree.member("sleep 42");
    let ended = tree.let_go();
    assert_eq!(ended.code, 128 + 15);
    assert_eq!(steps(&ended), [(1, 0, 15)]);
    let frames = ended.frames();
    assert!(matches!(
        frames.first(),
        Some(Frame::Ready { protocol: 1, mark: 0, errno: 0, flags: 0b101, .. })
    ));
    assert_eq!(frames.get(1), Some(&Frame::Started { pid: u32::try_from(worker).unwrap() }));
    assert_eq!(frames.get(3), Some(&Frame::Exited { how: 2, status: 15 }));
    let gone = ended.gone();
    assert_eq!((gone.how, gone.status, gone.cause, gone.last, gone.passes), (2, 15, 1, 0, 0));
    assert_eq!(gone.steps, [(0, 15, 1)]);
}

#[test]
fn a_worker_that_ignores_term_is_killed_after_the_grace() {
    let mut tree = Plan::vm().option("--stop=TERM:300").sh("trap '' TERM; sleep 42; sleep 42");
    tree.member("sleep 42");
    let began = Instant::now();
    let ended = tree.let_go();
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(ended.code, 128 + 9);
    assert_eq!(steps(&ended), [(1, 0, 15), (1, 255, 9)]);
    let gone = ended.gone();
    assert_eq!((gone.how, gone.status, gone.last), (2, 9, 255));
    assert!(gone.ms >= 300 && gone.passes >= 1);
}

#[test]
fn a_worker_may_take_most_of_its_grace() {
    let mut tree = Plan::vm()
        .option("--stop=TERM:8000")
        .sh("trap 'sleep 0.9; exit 5' TERM; sleep 42 & wait; wait");
    tree.member("sleep 42");
    let ended = tree.let_go();
    assert_eq!((ended.code, ended.gone().last), (5, 0));
}

#[test]
fn a_stopped_worker_can_heed_term() {
    let mut tree =
        Plan::vm().option("--stop=TERM:20000").sh("trap 'exit 6' TERM; kill -STOP $$; sleep 42");
    until("it stops", || tree.members().iter().any(|&pid| state(pid) == Some('T')));
    let ended = tree.let_go();
    assert_eq!((ended.code, ended.gone().last), (6, 0));
}

#[test]
fn a_worker_that_stops_itself_again_is_killed() {
    let mut tree = Plan::vm()
        .option("--stop=TERM:200")
        .sh("trap 'kill -STOP $$' TERM CONT; i=0; while [ $i -lt 800 ]; do i=$((i+1)); sleep 0.05; done");
    tree.grown(2);
    let ended = tree.let_go();
    assert_eq!((ended.code, ended.gone().last), (137, 255));
}

#[test]
fn the_steps_come_in_their_order() {
    let dir = Dir::new();
    let script = format!(
        "trap 'echo int >> {0}' INT; trap 'echo usr1 >> {0}' USR1; echo up > {0}; i=0; while [ $i -lt 2000 ]; do i=$((i+1)); sleep 0.02; done",
        dir.path("log")
    );
    let mut tree =
        Plan::vm().option("--stop=SIGINT:200@leader,USR1:200@leader,15:200@leader").sh(&script);
    until("it is up", || dir.read("log") == "up\n");
    let ended = tree.let_go();
    assert_eq!(ended.code, 143);
    assert_eq!(dir.read("log"), "up\nint\nusr1\n");
    assert_eq!(steps(&ended), [(1, 0, 2), (1, 1, 10), (1, 2, 15)]);
}

#[test]
fn a_step_to_the_leader_leaves_the_others_to_it() {
    let dir = Dir::new();
    let script = format!(
        "trap 'sleep 0.3; echo leader >> {0}; exit 0' TERM; \
         sh -c 'trap \"echo child >> {0}; exit\" TERM; echo up > {0}; i=0; while [ $i -lt 2000 ]; do i=$((i+1)); sleep 0.02; done' & \
         i=0; while [ $i -lt 2000 ]; do i=$((i+1)); sleep 0.02; done",
        dir.path("log")
    );
    let mut tree = Plan::vm().option("--stop=TERM:10000@leader").sh(&script);
    until("it is up", || dir.read("log") == "up\n");
    let ended = tree.let_go();
    assert_eq!((ended.code, ended.gone().last), (0, 0));
    assert_eq!(
        dir.read("log"),
        "up\nleader\nchild\n",
        "the others are told once the leader is gone"
    );
}

#[test]
fn a_daemon_outside_the_group_gets_the_step_too() {
    let dir = Dir::new();
    let script = format!(
        "setsid sh -c 'trap \"echo daemon >> {0}; exit\" TERM; echo up > {0}; i=0; while [ $i -lt 2000 ]; do i=$((i+1)); sleep 0.02; done' & \
         sleep 42",
        dir.path("log")
    );
    let mut tree = Plan::vm().option("--stop=TERM:15000").sh(&script);
    until("it is up", || dir.read("log") == "up\n");
    let began = Instant::now();
    let ended = tree.let_go();
    assert_eq!(ended.gone().last, 0, "nobody had to be killed");
    assert_eq!(dir.read("log"), "up\ndaemon\n", "once");
    assert!(began.elapsed() < Duration::from_secs(5), "and the grace was not waited for in vain");
}

#[test]
fn a_daemon_waits_its_turn_while_the_group_lives() {
    let dir = Dir::new();
    let script = format!(
        "setsid sh -c 'trap \"echo daemon >> {0}; exit\" TERM; echo up > {0}; i=0; while [ $i -lt 2000 ]; do i=$((i+1)); sleep 0.02; done' & \
         (trap 'sleep 0.4; echo group >> {0}; exit' TERM; echo >&2; i=0; while [ $i -lt 2000 ]; do i=$((i+1)); sleep 0.02; done) 2>{1} & sleep 42",
        dir.path("log"),
        dir.path("ready")
    );
    let mut tree = Plan::vm().option("--stop=TERM:15000").sh(&script);
    until("both are up", || dir.read("log") == "up\n" && dir.read("ready") == "\n");
    tree.let_go();
    assert_eq!(dir.read("log"), "up\ngroup\ndaemon\n");
}

#[test]
fn a_step_to_the_tree_reaches_daemons_at_once() {
    let mut tree = Plan::vm()
        .option("--stop=TERM:20000@tree")
        .sh("setsid sleep 42 & (setsid sleep 42 &) ; sleep 42");
    tree.grown(4);
    assert_eq!(tree.let_go().gone().last, 0);
}

#[test]
fn a_second_term_kills_at_once() {
    let mut tree =
        Plan::vm().option("--stop=TERM:inf").sh("trap '' TERM; echo >&2; sleep 42; sleep 42");
    tree.member("sleep 42");
    tree.signal(libc::SIGINT);
    // Signals of one number do not queue: the second must be another signal or come later.
    tree.signal(libc::SIGTERM);
    let ended = tree.ended();
    assert_eq!(ended.code, 137);
    assert_eq!(ended.gone().cause, 4);
}

#[test]
fn quit_kills_at_once_and_overrides_a_ladder() {
    let dir = Dir::new();
    let script = format!(
        "trap 'echo told > {0}' TERM; echo up > {0}; i=0; while [ $i -lt 2000 ]; do i=$((i+1)); sleep 0.02; done",
        dir.path("log")
    );
    let mut tree = Plan::vm().option("--stop=TERM:inf").sh(&script);
    until("it is up", || dir.read("log") == "up\n");
    tree.hang_up();
    until("the ladder has begun", || dir.read("log") == "told\n");
    let ended = tree.stop(libc::SIGQUIT);
    assert_eq!((ended.code, ended.gone().last, ended.gone().cause), (137, 255, 4));
}

#[test]
fn no_grace_is_an_immediate_kill() {
    let mut tree = Plan::vm().option("--stop=KILL:0").start(&["sleep", "42"]);
    tree.member("sleep 42");
    let ended = tree.let_go();
    assert_eq!(steps(&ended), [(1, 255, 9)]);
    assert_eq!(ended.gone().steps, [(255, 9, 1)]);
}

#[test]
fn output_of_a_background_child_arrives_within_the_linger() {
    let mut tree = Plan::by_hand()
        .option("--linger=10000")
        .sh("(sleep 0.2; echo late) & echo early; exit 4");
    let ended = tree.ended();
    assert_eq!((ended.code, ended.text().as_str()), (4, "early\nlate\n"));
}

#[test]
fn what_outlives_the_linger_gets_the_ladder() {
    let dir = Dir::new();
    let script = format!(
        "(trap 'echo told > {0}; exit' TERM; echo > {1}; i=0; while [ $i -lt 2000 ]; do i=$((i+1)); sleep 0.02; done) & \
         while ! [ -e {1} ]; do sleep 0.02; done; exit 4",
        dir.path("log"),
        dir.path("up")
    );
    let mut tree = Plan::vm().option("--linger=50").option("--stop=TERM:20000").sh(&script);
    let ended = tree.ended();
    assert_eq!((ended.code, ended.gone().cause, ended.gone().last), (4, 0, 0));
    assert_eq!(dir.read("log"), "told\n");
}

#[test]
fn a_worker_that_just_exits_needs_no_step() {
    let mut tree = Plan::vm().sh("exit 9");
    let ended = tree.ended();
    let gone = ended.gone();
    assert_eq!((ended.code, gone.how, gone.status, gone.cause, gone.last), (9, 1, 9, 0, 254));
    assert_eq!(gone.steps, []);
}

#[test]
fn a_start_that_hangs_can_be_ended() {
    let dir = Dir::new();
    let fifo = dir.path("fifo");
    let status = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(status.success());
    // Opening a FIFO for writing waits for a reader, so the child never comes to exec.
    let mut tree = Plan::vm()
        .option(format!("--stdout=file:{fifo}"))
        .option("--stop=TERM:100")
        .start(&["true"]);
    tree.grown(1);
    let ended = tree.let_go();
    assert!(
        ended.frames().contains(&Frame::StartFailed { stage: 11, errno: 125 }),
        "nothing was started: {:?}",
        ended.frames()
    );
    assert!(!ended.frames().iter().any(|frame| matches!(frame, Frame::Started { .. })));
}

/// With `open_port` and a VM that is gone, the leash and the worker's stdin end at the same
/// moment.
#[test]
fn a_worker_that_ends_by_the_end_of_stdin_is_left_the_time_for_it() {
    let dir = Dir::new();
    let saved = dir.path("saved");
    let mut tree = Plan::vm_with_stdin("inherit").option("--stop=STDIN:20000,TERM:20000").sh(
        &format!("trap '' TERM; echo up > {saved}; cat; sleep 1; echo data >> {saved}; exit 3"),
    );
    until("it is up", || dir.read("saved") == "up\n");
    let ended = tree.let_go();
    assert_eq!((ended.code, dir.read("saved").as_str()), (3, "up\ndata\n"));
    assert_eq!(steps(&ended), [(1, 0, 255)]);
    let gone = ended.gone();
    assert_eq!((gone.cause, gone.last, gone.passes), (1, 0, 0));
    assert!(matches!(gone.steps.as_slice(), [(0, 255, 1..)]), "{gone:?}");
}

#[test]
fn a_worker_that_does_not_heed_the_end_of_stdin_gets_the_next_step() {
    let mut tree = Plan::vm().option("--stop=STDIN:50,TERM:20000").start(&["sleep", "42"]);
    tree.member("sleep 42");
    let ended = tree.let_go();
    assert_eq!((ended.code, steps(&ended)), (143, vec![(1, 0, 255), (1, 1, 15)]));
}
