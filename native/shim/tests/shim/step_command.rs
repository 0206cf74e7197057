//! Commands as steps of the ladder.

use crate::frames::Frame;
use crate::harness::*;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn shell(plan: Plan, script: &str) -> Plan {
    plan.step(&["sh", "-c", script])
}

/// Returns index and signal of each step, and of each command how it ended and with which status.
fn story(ended: &Ended) -> Vec<String> {
    ended
        .frames()
        .into_iter()
        .filter_map(|frame| match frame {
            Frame::Step { index, signal, .. } => Some(format!("step {index}: {signal}")),
            Frame::Command { index, how, status, errno } => {
                Some(format!("command {index}: {how} {status} {errno}"))
            }
            _ => None,
        })
        .collect()
}

/// A worker that TERM does not end.
const STUBBORN: &str = "trap '' TERM; while :; do sleep 0.02; done";

/// Returns a worker that ends only when a file appears. Another file says that it is up.
fn waits_for(path: &str) -> String {
    format!(
        "trap '' TERM; echo up > {path}.up; while ! [ -e {path} ]; do sleep 0.01; done; exit 7"
    )
}

#[track_caller]
fn up(dir: &Dir) {
    until("the worker is up", || dir.read("end.up") == "up\n");
}

#[test]
fn a_command_ends_the_worker_when_the_leash_is_let_go() {
    let dir = Dir::new();
    let plan = Plan::vm().option("--stop=CMD:20000,TERM:20000");
    let mut tree =
        shell(plan, &format!("touch {}", dir.path("end"))).sh(&waits_for(&dir.path("end")));
    up(&dir);
    let began = Instant::now();
    let ended = tree.let_go();
    assert!(began.elapsed() < Duration::from_secs(10), "the step is over with the tree");
    assert_eq!(ended.code, 7);
    assert_eq!(story(&ended), ["step 0: 0", "command 0: 1 0 0"]);
    let gone = ended.gone();
    assert_eq!((gone.cause, gone.last, gone.passes), (1, 0, 0));
    assert_eq!(gone.steps.len(), 1, "{gone:?}");
    assert_eq!(gone.steps.first().map(|(index, signal, _)| (*index, *signal)), Some((0, 0)));
}

#[test]
fn a_command_runs_by_hand_too() {
    let dir = Dir::new();
    let plan = Plan::by_hand().option("--stop=CMD:20000");
    let mut tree =
        shell(plan, &format!("touch {}", dir.path("end"))).sh(&waits_for(&dir.path("end")));
    up(&dir);
    assert_eq!(tree.stop(libc::SIGTERM).code, 7);
}

#[test]
fn the_arguments_come_as_they_are() {
    let dir = Dir::new();
    let odd = ["--", "--step=2", "", "a b\n", "--owner=1:2", "*"];
    let mut command = vec!["sh", "-c", "printf '[%s]' \"$@\" > \"$0\""];
    let path = dir.path("args");
    command.push(&path);
    command.extend(odd);
    let plan = Plan::vm().option("--stop=CMD:20000,TERM:1000");
    let mut tree = plan.step(&command).start(&[
        "sh",
        "-c",
        "while ! [ -s \"$0\" ]; do sleep 0.01; done",
        &path,
    ]);
    tree.grown(1);
    tree.let_go();
    assert_eq!(dir.read("args"), "[--][--step=2][][a b\n][--owner=1:2][*]");
}

/// The environment of a command: the parts that it gets, and the parts that it does not get.
#[test]
fn a_command_has_the_shim_s_world_and_not_the_worker_s() {
    let dir = Dir::new();
    let (out, worker) = (dir.path("out"), dir.path("worker"));
    let script = format!(
        "exec 3>{out}.part; \
         echo \"stdin $(readlink /proc/$$/fd/0) stdout $(readlink /proc/$$/fd/1) stderr $(readlink /proc/$$/fd/2)\" >&3; \
         echo \"cwd $(pwd) parent $PPID\" >&3; \
         echo \"files $(ulimit -n) session $(cut -d' ' -f6 /proc/$$/stat) self $$ locks $(grep locks /proc/$$/limits | tr -s ' ')\" >&3; \
         grep -E '^Sig(Blk|Ign)' /proc/self/status >&3; echo \"run $LEASH_RUN\" >&3; mv {out}.part {out}"
    );
    fs::create_dir(dir.path("cd")).unwrap();
    let stderr = fs::File::create(dir.path("stderr")).unwrap();
    let plan = Plan::vm()
        .option("--stop=CMD:20000,TERM:1000")
        .option("--limits=NOFILE:77")
        .option(format!("--cd={}", dir.path("cd")))
        .option(format!("--stderr=file:{worker}"))
        .with(|command| {
            command.env("LEASH_RUN", "x").stderr(stderr);
        })
        // The descriptor is not closed on exec, and the signal is ignored, as by the VM's fork
        // server.
        .before_exec(|| {
            // SAFETY: plain system calls.
            unsafe {
                libc::signal(libc::SIGPIPE, libc::SIG_IGN);
                libc::dup2(2, 9);
            }
        });
    let mut tree = shell(plan, &script).sh(&format!("while ! [ -e {out} ]; do sleep 0.01; done"));
    tree.grown(1);
    let (shim, run) = (tree.pid, tree.run);
    tree.let_go();
    let text = dir.read("out");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines.first(),
        Some(&&*format!("stdin /dev/null stdout /dev/null stderr {}", dir.path("stderr")))
    );
    assert_eq!(lines.get(1), Some(&&*format!("cwd {} parent {shim}", dir.path("cd"))));
    let fields: Vec<&str> = lines.get(2).unwrap().split(' ').collect();
    assert_ne!(fields.get(1), Some(&"77"), "no limit of the worker");
    assert_eq!(fields.get(3), fields.get(5), "it leads a session");
    let number =
        |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap();
    let limits = leash_tag::Limits { soft: number(10), hard: number(11) };
    assert_eq!(leash_tag::Mark::decode(limits).map(|mark| mark.run()), Some(run), "{fields:?}");
    assert!(
        lines.iter().any(|line| line.starts_with("SigBlk") && line.ends_with("0000000000000000")),
        "{text}"
    );
    assert!(
        lines.iter().any(|line| line.starts_with("SigIgn") && line.ends_with("0000000000000000")),
        "{text}"
    );
    assert_eq!(lines.last(), Some(&"run x"));
}

#[test]
fn a_directory_that_is_gone_or_relative_does_not_keep_a_command_from_running() {
    for relative in [false, true] {
        let dir = Dir::new();
        fs::create_dir(dir.path("cd")).unwrap();
        let (cd, out, home) = (dir.path("cd"), dir.path("out"), dir.0.clone());
        let option = if relative { "--cd=cd".into() } else { format!("--cd={cd}") };
        let plan =
            Plan::vm().option("--stop=CMD:20000,TERM:1000").option(option).with(|command| {
                command.current_dir(home);
            });
        let script = format!("pwd > {out}.part; mv {out}.part {out}");
        let mut tree = shell(plan, &script)
            .sh(&format!("cd /; rmdir {cd}; while ! [ -e {out} ]; do sleep 0.01; done; exit 3"));
        tree.grown(1);
        until("the directory is gone", || !fs::exists(&cd).unwrap());
        assert_eq!(tree.let_go().code, 3);
        assert_eq!(dir.read("out"), "/\n");
    }
}

#[test]
fn a_command_that_hangs_is_killed_at_the_end_of_its_time_with_its_group() {
    let dir = Dir::new();
    let plan = Plan::vm().option("--stop=CMD:400,TERM:15000");
    // TERM ends neither it nor the process that it left in its group.
    let script = format!("trap '' TERM; sleep 43 & echo up > {}; sleep 43", dir.path("up"));
    let mut tree = shell(plan, &script).start(&["sleep", "42"]);
    tree.member("sleep 42");
    let began = Instant::now();
    tree.hang_up();
    until("the command works", || dir.read("up") == "up\n");
    let ended = tree.ended();
    assert!(began.elapsed() >= Duration::from_millis(400));
    assert!(began.elapsed() < Duration::from_secs(10), "its group did not hold up the next step");
    assert_eq!(ended.code, 143);
    assert_eq!(story(&ended).first().map(String::as_str), Some("step 0: 0"));
    let mut rest: Vec<String> = story(&ended).into_iter().skip(1).collect();
    rest.sort();
    assert_eq!(rest, ["command 0: 2 9 0", "step 1: 15"]);
    assert_eq!(ended.gone().last, 1);
}

#[test]
fn what_a_command_leaves_outside_of_its_group_is_ended() {
    let dir = Dir::new();
    let script = format!(
        "setsid sh -c 'trap \"\" TERM; echo up > {}; while :; do sleep 0.02; done' & exit 0",
        dir.path("up")
    );
    let mut tree =
        shell(Plan::vm().option("--stop=CMD:1000,TERM:200"), &script).start(&["sleep", "42"]);
    tree.member("sleep 42");
    tree.hang_up();
    until("it has escaped", || dir.read("up") == "up\n");
    let ended = tree.ended();
    assert_eq!(story(&ended), ["step 0: 0", "command 0: 1 0 0", "step 1: 15", "step 255: 9"]);
}

/// Some commands, such as `docker rm`, exit before the work that they began is over.
#[test]
fn after_a_command_that_succeeded_the_tree_has_the_rest_of_its_time() {
    let mut tree = shell(Plan::vm().option("--stop=CMD:20000,KILL:0"), "exit 0")
        .sh("trap '' TERM; sleep 1; exit 5");
    tree.grown(1);
    let ended = tree.let_go();
    assert_eq!(
        (ended.code, story(&ended)),
        (5, vec!["step 0: 0".into(), "command 0: 1 0 0".into()])
    );
}

#[test]
fn after_a_command_that_failed_the_next_step_begins_at_once() {
    for (script, how, status) in [("exit 3", 1, 3), ("kill -KILL $$", 2, 9)] {
        let mut tree =
            shell(Plan::vm().option("--stop=CMD:inf,TERM:20000"), script).start(&["sleep", "42"]);
        tree.member("sleep 42");
        let ended = tree.let_go();
        assert_eq!(ended.code, 143);
        assert_eq!(
            ended.gone().steps,
            [(0, 0, 0), (1, 15, 1)],
            "the command is none of the worker's"
        );
        assert_eq!(
            story(&ended),
            ["step 0: 0".into(), format!("command 0: {how} {status} 0"), "step 1: 15".into()]
        );
    }
}

#[test]
fn a_command_that_cannot_be_executed_says_why_and_the_next_step_begins() {
    let dir = Dir::new();
    let plain = dir.path("plain");
    fs::write(&plain, "x").unwrap();
    for (program, errno) in [
        ("/no/such/program", 2),
        ("leash-no-such-program", 2),
        (plain.as_str(), 13),
        ("/dev/null/x", 20),
    ] {
        let plan = Plan::vm().option("--stop=CMD:inf,TERM:20000");
        let mut tree = plan.step(&[program]).start(&["sleep", "42"]);
        tree.member("sleep 42");
        let ended = tree.let_go();
        assert_eq!(ended.code, 143);
        assert_eq!(
            story(&ended),
            ["step 0: 0".into(), format!("command 0: 0 0 {errno}"), "step 1: 15".into()]
        );
    }
}

#[test]
fn by_hand_it_is_said_on_stderr_and_the_worker_hears_nothing_of_it() {
    let dir = Dir::new();
    let stderr = fs::File::create(dir.path("stderr")).unwrap();
    let plan = Plan::by_hand().option("--stop=CMD:inf,TERM:300").with(|command| {
        command.stderr(stderr);
    });
    // A child that ends before its exec reports that by SIGURG.
    let script = format!(
        "trap 'echo urg >> {0}' URG; trap 'echo term >> {0}' TERM; echo up > {0}; while :; do sleep 0.02; done",
        dir.path("log")
    );
    let mut tree = plan.step(&["/no/such/program"]).sh(&script);
    until("it is up", || dir.read("log") == "up\n");
    tree.stop(libc::SIGTERM);
    assert_eq!(dir.read("log"), "up\nterm\n");
    let said = dir.read("stderr");
    assert!(said.starts_with("leash-shim: /no/such/program: not found, errno 2\n"), "{said}");
}

#[test]
fn quit_kills_a_command_at_once() {
    second(libc::SIGQUIT);
}

#[test]
fn a_second_term_kills_a_command_at_once() {
    second(libc::SIGINT);
}

#[track_caller]
fn second(signal: i32) {
    let dir = Dir::new();
    let script =
        format!("trap '' TERM; setsid sleep 43 & echo up > {}; sleep 43", dir.path("up"));
    let mut tree = shell(Plan::vm().option("--stop=CMD:inf,TERM:inf"), &script).sh(STUBBORN);
    tree.grown(1);
    tree.signal(libc::SIGTERM);
    until("the command works", || dir.read("up") == "up\n");
    tree.member("sleep 43");
    let began = Instant::now();
    let ended = tree.stop(signal);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!((ended.code, ended.gone().cause, ended.gone().last), (137, 4, 255));
}

#[test]
fn quit_takes_no_command() {
    let dir = Dir::new();
    let plan = Plan::vm().option("--stop=CMD:1000");
    let mut tree = shell(plan, &format!("touch {}", dir.path("ran"))).sh(STUBBORN);
    tree.grown(1);
    assert_eq!(story(&tree.stop(libc::SIGQUIT)), ["step 255: 9"]);
    assert!(!fs::exists(dir.path("ran")).unwrap());
}

#[test]
fn a_worker_that_leaves_nothing_needs_no_command() {
    let dir = Dir::new();
    let plan = Plan::vm().option("--stop=CMD:1000");
    let mut tree = shell(plan, &format!("touch {}", dir.path("ran"))).sh("exit 4");
    let ended = tree.ended();
    assert_eq!((ended.code, ended.gone().last), (4, 254));
    assert!(!fs::exists(dir.path("ran")).unwrap());
}

#[test]
fn what_a_worker_leaves_that_exited_by_itself_gets_the_command() {
    let dir = Dir::new();
    let end = dir.path("end");
    let plan = Plan::vm().option("--stop=CMD:20000").option("--linger=50");
    let mut tree =
        shell(plan, &format!("touch {end}")).sh(&format!("({}) & exit 4", waits_for(&end)));
    let ended = tree.ended();
    assert_eq!((ended.code, ended.gone().cause, ended.gone().last), (4, 0, 0));
}

#[test]
fn a_command_may_go_on_when_the_tree_is_gone() {
    let dir = Dir::new();
    let (end, done) = (dir.path("end"), dir.path("done"));
    let plan = Plan::vm().option("--stop=CMD:20000,KILL:0");
    let mut tree =
        shell(plan, &format!("touch {end}; sleep 0.5; touch {done}")).sh(&waits_for(&end));
    up(&dir);
    let ended = tree.let_go();
    assert!(fs::exists(&done).unwrap(), "it had its time");
    assert_eq!((ended.code, ended.gone().last), (7, 0));
    assert_eq!(story(&ended), ["step 0: 0", "command 0: 1 0 0"]);
}

#[test]
fn a_command_has_no_more_than_its_time_when_the_tree_is_gone() {
    let dir = Dir::new();
    let end = dir.path("end");
    let plan = Plan::vm().option("--stop=CMD:500");
    let mut tree = shell(plan, &format!("touch {end}; sleep 43")).sh(&waits_for(&end));
    up(&dir);
    let ended = tree.let_go();
    assert_eq!((ended.code, ended.gone().last), (7, 255));
}

#[test]
fn each_step_has_its_own_command() {
    let dir = Dir::new();
    let log = dir.path("log");
    let say = |word: &str| format!("echo {word} >> {log}");
    let (one, two, three) = (say("one"), say("two"), say("three") + "; exit 1");
    let plan =
        Plan::vm().option("--stop=CMD:900,USR1:400@leader,CMD:900,CMD:900,TERM:5000@leader");
    let mut tree = shell(shell(shell(plan, &one), &two), &three).sh(&format!(
        "trap 'echo usr1 >> {log}' USR1; trap 'echo term >> {log}; exit 6' TERM; echo up > {log}; while :; do sleep 0.01; done"
    ));
    until("it is up", || dir.read("log") == "up\n");
    let ended = tree.let_go();
    assert_eq!(dir.read("log"), "up\none\nusr1\ntwo\nthree\nterm\n");
    assert_eq!((ended.code, ended.gone().last), (6, 4));
    let signals: Vec<_> =
        ended.gone().steps.iter().map(|(index, signal, _)| (*index, *signal)).collect();
    assert_eq!(signals, [(0, 0), (1, 10), (2, 0), (3, 0), (4, 15)]);
}

/// The limit is for the user's processes. The worker is root here, and the shim's uid has no room
/// for another process.
#[test]
fn a_command_that_cannot_be_forked_is_as_one_that_failed() {
    if !root() {
        return;
    }
    // The uid belongs to no other process, because the limit counts all processes of a user.
    let uid = 1_000_000 + std::process::id();
    let plan = Plan::vm()
        .option("--stop=CMD:inf,TERM:20000")
        .with(|command| {
            use std::os::unix::process::CommandExt;
            command.uid(uid).gid(uid);
        })
        .before_exec(|| {
            // There is room for shim and worker, and for no other process.
            let limit = libc::rlimit { rlim_cur: 2, rlim_max: 2 };
            // SAFETY: a valid struct.
            unsafe { libc::setrlimit(libc::RLIMIT_NPROC, &raw const limit) };
        });
    let mut tree = plan.step(&["true"]).start(&["sleep", "42"]);
    tree.member("sleep 42");
    let ended = tree.let_go();
    assert_eq!(ended.code, 143);
    assert_eq!(story(&ended), ["step 0: 0", "command 0: 0 0 11", "step 1: 15"]);
}

/// After a SIGKILL to the shim, other programs look for processes with its tags. The command is
/// not among them for long.
#[test]
fn a_command_dies_with_its_shim() {
    let dir = Dir::new();
    let script = format!("echo $$ > {}; exec sleep 43", dir.path("pid"));
    let mut tree = shell(Plan::vm().option("--stop=CMD:inf"), &script).sh(STUBBORN);
    tree.grown(1);
    tree.hang_up();
    until("the command works", || dir.read("pid").ends_with('\n'));
    let command: i32 = dir.read("pid").trim().parse().unwrap();
    assert!(lives(command) && bearers(tree.run).contains(&command));
    until("it is executed", || cmdline(command).join(" ").trim_end() == "sleep 43");
    let mut open: Vec<_> = fs::read_dir(format!("/proc/{command}/fd"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    open.sort();
    assert_eq!(open, ["0", "1", "2"], "nothing of the shim's is open in it");
    tree.signal(libc::SIGKILL);
    until("it is gone", || !lives(command));
}

#[test]
fn a_foreign_process_is_left_alone() {
    let mut stranger =
        Command::new("setsid").args(["sleep", "44"]).stdin(Stdio::null()).spawn().unwrap();
    let mut tree = shell(Plan::vm().option("--stop=CMD:100"), "sleep 43").sh(STUBBORN);
    tree.grown(1);
    tree.let_go();
    assert_eq!(stranger.try_wait().unwrap(), None);
    let _ = stranger.kill();
    let _ = stranger.wait();
}

/// If the worker's exec hangs, it does not run its program yet. The shim reports a command that
/// fails meanwhile all the same.
#[test]
fn a_command_ends_while_the_worker_s_exec_hangs() {
    let dir = Dir::new();
    let fifo = dir.path("fifo");
    let status = Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(status.success());
    // Opening the FIFO for writing blocks until there is a reader.
    let plan =
        Plan::vm().option("--stop=CMD:inf,TERM:100").option(format!("--stdout=file:{fifo}"));
    let mut tree = shell(plan, "exit 3").start(&["sleep", "42"]);
    tree.grown(1);
    let ended = tree.let_go();
    assert_eq!(story(&ended), ["step 0: 0", "command 0: 1 3 0", "step 1: 15", "step 255: 9"]);
}

/// The shim's message about the command would wait for ever.
#[test]
fn a_full_stderr_does_not_hold_up_the_ladder() {
    let (_reader, full) = full_pipe();
    let shared = full.try_clone().unwrap();
    let mut tree = Plan::by_hand()
        .with(|command| _ = command.stderr(full))
        .option("--stop=CMD:20000,TERM:20000")
        .step(&["/no/such/program"])
        .start(&["sleep", "44"]);
    tree.member("sleep 44");
    assert_eq!(tree.stop(libc::SIGTERM).code, 143);
    assert!(waits(&shared), "the description is others', too");
}

/// `open_port` starts a shim like this: nothing reads reports, and stderr is the VM's.
#[test]
fn a_full_stderr_does_not_hold_up_a_leash_without_reports() {
    let (_reader, full) = full_pipe();
    let mut tree = Plan::by_hand()
        .with(|command| _ = command.stdin(Stdio::piped()).stderr(full))
        .option("--leash=0")
        .option("--stop=CMD:20000,TERM:20000")
        .step(&["/no/such/program"])
        .start(&["sleep", "44"]);
    tree.member("sleep 44");
    assert_eq!(tree.let_go().code, 143);
}
