//! The start, from the command line to exec.

use crate::frames::Frame;
use crate::harness::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

#[test]
fn the_status_is_the_worker_s() {
    for (script, code) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -9 $$", 137),
        ("kill -SEGV $$", 139),
    ] {
        assert_eq!(Plan::by_hand().sh(script).ended().code, code, "{script}");
    }
}

#[test]
fn what_cannot_be_executed_says_why() {
    let dir = Dir::new();
    let script = |name: &str, text: &str, mode| {
        let path = dir.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    let plain = script("plain", "x", 0o644);
    let no_interpreter = script("no-interpreter", "#!/nonexistent/interpreter\n", 0o755);
    let no_format = script("no-format", "\u{1}\u{2}\u{3}\u{4}", 0o755);
    for (command, code, errno) in [
        ("leash-no-such-command", 127, 2),
        ("/leash/no/such/command", 127, 2),
        (plain.as_str(), 126, 13),
        ("/", 126, 13),
        (no_interpreter.as_str(), 127, 2),
        (no_format.as_str(), 126, 8),
        ("/dev/null/x", 126, 20),
    ] {
        let mut tree = Plan::vm().start(&[command]);
        let ended = tree.ended();
        assert_eq!(ended.code, code, "{command}");
        let frames = ended.frames();
        assert_eq!(frames.get(1), Some(&Frame::StartFailed { stage: 11, errno }), "{command}");
        assert_eq!(frames.len(), 3, "{frames:?}");
        assert_eq!((ended.gone().cause, ended.gone().last), (5, 254));
    }
}

#[test]
fn other_failures_say_where() {
    for (option, stage, errno) in [
        ("--cd=/nonexistent", 10, 2),
        ("--stdout=file:/nonexistent/x", 8, 2),
        ("--stderr=file:/proc/nonexistent", 9, 2),
    ] {
        let mut tree = Plan::vm().option(option).start(&["true"]);
        let ended = tree.ended();
        assert_eq!(ended.code, 125, "{option}");
        assert!(
            ended.frames().contains(&Frame::StartFailed { stage, errno }),
            "{option}: {:?}",
            ended.frames()
        );
    }
    if !root() {
        let ended = Plan::vm().option("--uid=0").start(&["true"]).ended();
        assert!(ended.frames().contains(&Frame::StartFailed { stage: 5, errno: 1 }));
    }
}

#[test]
fn by_hand_it_is_said_on_stderr() {
    let run = format!("--run-id={}", new_run());
    let output = Command::new(binary())
        .args([&run, "--", "leash-no-such-command"])
        .env("PATH", "/usr/bin:/bin")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text, "leash-shim: leash-no-such-command: not found, errno 2\n");
}

#[test]
fn a_wrong_command_line_starts_nothing() {
    let dir = Dir::new();
    let touch = dir.path("started");
    let run = format!("--run-id={}", new_run());
    for args in [
        vec!["--", "touch", &touch],
        vec!["--run-id=S59M65F", "--", "touch", &touch],
        vec!["--worker=1", &run, "--", "touch", &touch],
        vec![&run, &run, "--", "touch", &touch],
        vec![&run, "--colour", "--", "touch", &touch],
        vec![&run, "--worker=x", "--", "touch", &touch],
        vec![&run, "--stop=TERM", "--", "touch", &touch],
        vec![&run, "touch", &touch],
        vec![&run, "--"],
        vec![&run],
    ] {
        let output = Command::new(binary()).args(&args).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{args:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.starts_with("leash-shim: ") && text.lines().count() == 1, "{text:?}");
    }
    assert!(!fs::exists(&touch).unwrap());
}

#[test]
fn help_and_version() {
    let run = |arg| {
        let output = Command::new(binary()).arg(arg).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(run("--version"), concat!(leash_tag::build_mark!("leash-shim"), "\n"));
    let help = run("--help");
    let protocol = include_str!("../../../PROTOCOL.md");
    for line in protocol.lines().filter(|line| line.starts_with("| `--")) {
        for name in line.split('|').nth(1).unwrap().split("--").skip(1) {
            let name: String =
                name.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
            assert!(help.contains(&format!("--{name}")), "--{name} is not explained");
        }
    }
    for status in ["127", "126", "125", "128+"] {
        assert!(help.contains(status), "{status}");
    }
    for signal in ["TERM", "HUP", "INT", "QUIT", "USR1"] {
        assert!(help.contains(signal), "{signal}");
    }
    assert!(help.lines().all(|line| line.len() < 80));
}

#[test]
fn no_descriptor_reaches_the_worker() {
    let mut tree = Plan::vm()
        .before_exec(|| {
            for fd in [3, 7, 63, 200, 1000] {
                // SAFETY: only numbers; without close-on-exec.
                unsafe { libc::dup2(2, fd) };
            }
        })
        .start(&["sleep", "45"]);
    let worker = tree.member("sleep 45");
    let fds = || {
        let entries = fs::read_dir(format!("/proc/{worker}/fd")).unwrap();
        let mut fds: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        fds.sort();
        fds
    };
    // The program opens libraries itself at first.
    until("0, 1, 2 and no more", || fds() == ["0", "1", "2"]);
    tree.let_go();
}

#[test]
fn closed_standard_descriptors_do_no_harm() {
    let dir = Dir::new();
    let mut tree = Plan::by_hand()
        .option(format!("--stdout=file:{}", dir.path("out")))
        .before_exec(|| {
            for fd in 0..=2 {
                // SAFETY: only a number.
                unsafe { libc::close(fd) };
            }
        })
        .sh("echo out; readlink /proc/self/fd/0 /proc/self/fd/2");
    assert_eq!(tree.ended().code, 0);
    assert_eq!(dir.read("out"), "out\n/dev/null\n/dev/null\n");
}

#[test]
fn the_shim_lets_go_of_directory_and_streams() {
    let dir = Dir::new();
    let path = dir.0.clone();
    let mut tree = Plan::by_hand()
        .with(|command| {
            command.current_dir(path);
        })
        .start(&["sleep", "45"]);
    let worker = tree.member("sleep 45");
    let link = |pid: i32, name: &str| fs::read_link(format!("/proc/{pid}/{name}")).unwrap();
    until("it has moved", || link(tree.pid, "cwd").to_str() == Some("/"));
    assert_eq!(link(worker, "cwd"), dir.0);
    assert_eq!(link(tree.pid, "fd/1").to_str(), Some("/dev/null"));
    assert!(link(worker, "fd/1").to_str().unwrap().starts_with("pipe:"));
    tree.stop(libc::SIGTERM);
}

#[test]
fn the_worker_has_a_session_of_its_own() {
    let mut tree = Plan::vm().start(&["sleep", "45"]);
    let worker = tree.member("sleep 45");
    let fields = stat(worker).unwrap();
    assert_eq!((fields[2].parse(), fields[3].parse()), (Ok(worker), Ok(worker)));
    tree.let_go();
}

#[test]
fn working_directory_name_and_path_lookup() {
    let mut tree = Plan::by_hand()
        .option("--cd=/proc")
        .option("--arg0=a name")
        .with(|command| {
            command.env("PATH", "/nonexistent::/dev/null:/bin:/usr/bin");
        })
        .start(&[
            "sh",
            "-c",
            "pwd; tr '\\0' ',' < /proc/$$/cmdline | head -c 7; echo; echo $PATH",
        ]);
    assert_eq!(tree.ended().text(), "/proc\na name,\n/nonexistent::/dev/null:/bin:/usr/bin\n");
}

#[test]
fn the_environment_is_passed_on() {
    let mut tree = Plan::by_hand()
        .with(|command| {
            command.env("LEASH_RUN", "x.y").env("A", "1");
        })
        .sh("echo $LEASH_RUN $A");
    assert_eq!(tree.ended().text(), "x.y 1\n");
}

#[test]
fn the_mark_is_on_shim_and_worker_and_nests() {
    let inner = new_run();
    let shim = binary().to_str().unwrap();
    let mut tree = Plan::vm().start(&[
        shim,
        &format!("--run-id={inner}"),
        "--worker=77",
        "--",
        "sleep",
        "45",
    ]);
    let innermost = find("the inner worker", || {
        bearers(inner).into_iter().find(|&pid| cmdline(pid).join(" ").trim_end() == "sleep 45")
    });
    let mark = |pid| leash_tag::Mark::decode(limits(pid).unwrap()).unwrap();
    let (outer, nested) = (mark(tree.pid), mark(innermost));
    assert_eq!((outer.run(), outer.worker().map(|worker| worker.get())), (tree.run, Some(1)));
    assert_eq!((nested.run(), nested.worker().map(|worker| worker.get())), (inner, Some(77)));
    assert!(!outer.outlives() && nested.depth() < outer.depth());
    tree.let_go();
    assert_eq!(bearers(inner), []);
}

#[test]
fn the_mark_can_be_left_out_and_lost() {
    let before = limits(i32::try_from(std::process::id()).unwrap()).unwrap();
    let mut tree = Plan::vm().option("--no-mark").start(&["sleep", "46"]);
    let worker = find("the worker", || {
        pids().into_iter().find(|&pid| ppid(pid) == Some(tree.pid) && cmdline(pid)[0] == "sleep")
    });
    assert_eq!(limits(worker), Some(before));
    let ended = tree.let_go();
    assert!(matches!(ended.frames()[0], Frame::Ready { mark: 1, errno: 0, .. }));
    assert!(!lives(worker));

    // A limit below every mark cannot be raised without the capability. The start goes on without
    // a mark.
    let mut tree = Plan::vm()
        .before_exec(|| {
            let limit = libc::rlimit { rlim_cur: 5, rlim_max: 5 };
            // SAFETY: a valid struct.
            unsafe { libc::setrlimit(libc::RLIMIT_LOCKS, &limit) };
        })
        .sh("exit 8");
    let ended = tree.ended();
    assert_eq!(ended.code, 8);
    let Frame::Ready { mark, errno, .. } = ended.frames()[0] else { panic!() };
    assert!((mark, errno) == (3, 1) || (mark, errno) == (0, 0), "EPERM, or root with all rights");
}

#[test]
fn a_small_stack_is_enough() {
    // The command, its arguments and its environment must fit, too, and the limit applies to them
    // as well.
    let mut tree = Plan::vm()
        .before_exec(|| {
            let limit = libc::rlimit { rlim_cur: 64 << 10, rlim_max: 64 << 10 };
            // SAFETY: a valid struct.
            unsafe { libc::setrlimit(libc::RLIMIT_STACK, &limit) };
        })
        .with(|command| {
            command.env_clear();
        })
        .start(&["/bin/sleep", "47"]);
    tree.grown(1);
    assert_eq!(tree.let_go().code, 128 + 15);
}

#[test]
fn limits_hold_for_the_command_alone() {
    let mut tree = Plan::vm()
        .option("--limits=NOFILE:77,NPROC:3000,CORE:0,FSIZE:4096,CPU:5,AS:1000000000,NICE:7")
        .start(&["sleep", "48"]);
    let worker = tree.member("sleep 48");
    let limits = std::fs::read_to_string(format!("/proc/{worker}/limits")).unwrap();
    for (name, value) in [
        ("Max open files", "77"),
        ("Max processes", "3000"),
        ("Max core file size", "0"),
        ("Max file size", "4096"),
        ("Max cpu time", "5"),
        ("Max address space", "1000000000"),
    ] {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        assert_eq!(line.split_whitespace().take(2).collect::<Vec<_>>(), [value, value], "{name}");
    }
    assert_eq!(stat(worker).unwrap()[16], "7", "nice");
    assert_eq!(stat(tree.pid).unwrap()[16], stat(std::process::id() as i32).unwrap()[16], "ours");
    let own = std::fs::read_to_string(format!("/proc/{}/limits", tree.pid)).unwrap();
    assert!(!own.lines().any(|line| line.starts_with("Max open files") && line.contains(" 77 ")));
    tree.let_go();
}

#[test]
fn a_limit_that_cannot_be_set_is_a_start_that_fails() {
    // This is more open files than the kernel allows any process (fs.nr_open).
    let mut tree = Plan::vm().option("--limits=NOFILE:4000000000").start(&["true"]);
    let ended = tree.ended();
    assert_eq!(ended.code, 125);
    assert!(ended.frames().contains(&Frame::StartFailed { stage: 13, errno: 1 }));
}

#[test]
fn a_full_stderr_does_not_hold_up_a_start_that_failed() {
    let (_reader, full) = full_pipe();
    let mut tree = Plan::by_hand()
        .with(|command| _ = command.stderr(full))
        .start(&["leash-no-such-command"]);
    assert_eq!(tree.ended().code, 127);
}

#[test]
fn the_arguments_are_the_worker_s_alone_once_it_runs() {
    let mut tree = Plan::vm()
        .option("--stop=CMD:20000,TERM:20000")
        .step(&["sh", "-c", "exit $0", "3"])
        .start(&["sh", "-c", "sleep 61; :", "--password", "s3cret"]);
    tree.member("sleep 61");
    let worker = find("the worker", || {
        tree.members().into_iter().find(|&pid| cmdline(pid).contains(&"s3cret".to_owned()))
    });
    until("they are wiped", || !cmdline(tree.pid).concat().contains("s3cret"));
    let line = cmdline(tree.pid);
    let end = line.iter().position(|argument| argument == "--").unwrap();
    let (ours, its) = line.split_at(end + 1);
    assert_eq!(ours.get(1), Some(&format!("--run-id={}", tree.run)));
    assert!(
        ours.ends_with(&["--step=4", "sh", "-c", "exit $0", "3", "--"].map(str::to_owned)),
        "{ours:?}"
    );
    assert_eq!(its.concat(), "sh", "the program's name is no secret");
    let theirs: Vec<_> =
        cmdline(worker).into_iter().filter(|argument| !argument.is_empty()).collect();
    assert_eq!(theirs, ["sh", "-c", "sleep 61; :", "--password", "s3cret"]);
    assert_eq!(tree.let_go().code, 143, "the command of the ladder is still there");
}

#[test]
fn a_tree_that_is_to_be_found_again_keeps_its_arguments() {
    for options in [&["--on-hangup=detach"][..], &["--name=found again"]] {
        let plan = options.iter().fold(Plan::vm(), |plan, option| plan.option(*option));
        let mut tree = plan.start(&["sleep", "62"]);
        let worker = tree.member("sleep 62");
        until("it runs", || ppid(worker) == Some(tree.pid));
        assert!(cmdline(tree.pid).join(" ").ends_with("-- sleep 62 "), "{:?}", cmdline(tree.pid));
        assert_eq!(tree.stop(libc::SIGTERM).code, 143);
    }
}
