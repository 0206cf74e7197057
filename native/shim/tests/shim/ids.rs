//! The user, the groups and the privileges of the worker.

use crate::frames::Frame;
use crate::harness::*;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

/// The lines of proc_pid_status(5) that tell a process's rights.
const RIGHTS: [&str; 10] = [
    "Uid",
    "Gid",
    "Groups",
    "NoNewPrivs",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "Umask",
];

fn rights(status: &str) -> Vec<String> {
    let of = |name: &str| status.lines().find(|line| line.starts_with(&format!("{name}:")));
    RIGHTS.map(|name| of(name).unwrap_or(name).trim_end().to_owned()).to_vec()
}

/// Returns the rights of a worker with these options. It does not run as root unless they say so.
fn ours(options: &[&str]) -> Vec<String> {
    let plan = options.iter().fold(Plan::by_hand(), |plan, option| plan.option(*option));
    rights(&plan.start(&["cat", "/proc/self/status"]).ended().text())
}

/// Returns the rights that a shell line gives which ends with setpriv(1).
fn of_setpriv(line: &str) -> Vec<String> {
    let line = format!("{line} cat /proc/self/status");
    let output = Command::new("sh").args(["-c", &line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    rights(&String::from_utf8_lossy(&output.stdout))
}

#[test]
fn a_worker_has_the_rights_that_setpriv_gives() {
    if !root() {
        return;
    }
    let daemon = ["--uid=64318", "--gid=64319"];
    let setpriv = "setpriv --reuid=64318 --regid=64319";
    for (options, line) in [
        (&[][..], "".to_owned()),
        (&["--gid=64319"], "setpriv --regid=64319 --keep-groups".to_owned()),
        (&["--groups=64320,64321"], "setpriv --groups=64320,64321".to_owned()),
        (&daemon, format!("{setpriv} --clear-groups")),
        (
            &[daemon[0], daemon[1], "--groups=64321,64320"],
            format!("{setpriv} --groups=64321,64320"),
        ),
        (&["--no-new-privs"], "setpriv --no-new-privs".to_owned()),
        (&["--umask=027", "--no-new-privs"], "umask 027; setpriv --no-new-privs".to_owned()),
        (&[daemon[0], daemon[1], "--umask=0"], format!("umask 0; {setpriv} --clear-groups")),
        (
            &[daemon[0], daemon[1], "--capabilities=net_bind_service,kill", "--no-new-privs"],
            format!(
                "{setpriv} --clear-groups --inh-caps=-all,+net_bind_service,+kill \
                 --ambient-caps=-all,+net_bind_service,+kill --no-new-privs"
            ),
        ),
        (
            &[daemon[0], daemon[1], "--capabilities="],
            format!("{setpriv} --clear-groups --inh-caps=-all --ambient-caps=-all"),
        ),
    ] {
        assert_eq!(ours(options), of_setpriv(&line), "{options:?}");
    }
}

#[test]
fn a_change_of_user_takes_what_the_shim_passes_on() {
    if !root() {
        return;
    }
    // As from a unit with `User=` and `AmbientCapabilities=`.
    let line = |options: &str| {
        let caps = "+setuid,+setgid,+kill,+net_raw";
        let shim = binary().to_str().unwrap();
        let run = new_run();
        of_setpriv(&format!(
            "setpriv --reuid=64318 --regid=64319 --clear-groups --inh-caps=-all,{caps} \
             --ambient-caps=-all,{caps} {shim} --run-id={run} {options} --"
        ))
    };
    let ambient = |rights: Vec<String>| rights[8].split('\t').nth(1).unwrap().to_owned();
    let bits = |caps: &[u32]| format!("{:016x}", caps.iter().map(|cap| 1u64 << cap).sum::<u64>());
    assert_eq!(ambient(line("")), bits(&[5, 6, 7, 13]), "the same user");
    assert_eq!(ambient(line("--uid=64320")), bits(&[]));
    assert_eq!(ambient(line("--gid=64320")), bits(&[]));
    assert_eq!(ambient(line("--uid=64320 --capabilities=net_raw")), bits(&[13]));
    assert_eq!(ambient(line("--capabilities=net_raw,kill")), bits(&[5, 13]), "no other user");
}

#[test]
fn a_right_that_the_shim_does_not_have_is_a_start_that_fails() {
    if !root() {
        return;
    }
    // CAP_SETUID, CAP_SETGID, CAP_KILL and CAP_NET_RAW are 7, 6, 5 and 13.
    for (without, options, stage) in [
        (7, &["--uid=64318"][..], 5),
        (6, &["--gid=64318"], 5),
        (6, &["--groups=64318"], 5),
        (6, &["--uid=64318"], 5),
        (5, &["--uid=64318"], 18),
        (13, &["--uid=64318", "--capabilities=kill,net_raw"], 19),
    ] {
        let plan = Plan::vm().before_exec(move || {
            // SAFETY: only numbers.
            assert_eq!(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, without, 0, 0, 0) }, 0);
        });
        let mut tree =
            options.iter().fold(plan, |plan, option| plan.option(*option)).start(&["true"]);
        let ended = tree.ended();
        assert_eq!(ended.code, 125, "{options:?}");
        let failed = Frame::StartFailed { stage, errno: 1 };
        assert!(ended.frames().contains(&failed), "{options:?}: {:?}", ended.frames());
    }
    // To its own user the shim may send signals anyway.
    let plan = Plan::by_hand().before_exec(|| {
        // SAFETY: only numbers.
        assert_eq!(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, 5, 0, 0, 0) }, 0);
    });
    assert_eq!(plan.option("--uid=0").start(&["true"]).ended().code, 0);
}

#[test]
fn root_keeps_no_selection_of_capabilities() {
    if !root() {
        return;
    }
    for options in [&["--capabilities=kill"][..], &["--uid=0", "--capabilities="]] {
        let plan = options.iter().fold(Plan::vm(), |plan, option| plan.option(*option));
        let ended = plan.start(&["true"]).ended();
        assert!(
            ended.frames().contains(&Frame::StartFailed { stage: 19, errno: 22 }),
            "{options:?}"
        );
    }
}

#[test]
fn a_refusal_by_hand_says_which_right_is_missing() {
    if !root() {
        return;
    }
    let run = format!("--run-id={}", new_run());
    let output = Command::new("setpriv")
        .args([
            "--bounding-set=-kill",
            binary().to_str().unwrap(),
            &run,
            "--uid=64318",
            "--",
            "true",
        ])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(125));
    assert!(
        text.contains("true: not permitted (its user could not be signalled without CAP_KILL)"),
        "{text}"
    );
}

#[test]
fn umask_and_user_hold_for_the_files_of_the_streams_and_not_for_the_shim() {
    if !root() {
        return;
    }
    let dir = Dir::new();
    let (out, ready) = (dir.path("out"), dir.path("ready"));
    let mut tree = Plan::vm()
        .option(format!("--stdout=file:{out}"))
        .option("--umask=0137")
        .option("--uid=64318")
        .option("--gid=64319")
        .sh(&format!("umask; : >{ready}; sleep 49"));
    tree.member("sleep 49");
    for (path, mode) in [(&out, 0o640), (&ready, 0o640)] {
        let meta = fs::metadata(path).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (64318, 64319), "{path}");
        assert_eq!(meta.permissions().mode() & 0o777, mode, "{path}");
    }
    let umask =
        |pid: i32| rights(&fs::read_to_string(format!("/proc/{pid}/status")).unwrap())[9].clone();
    assert_eq!(umask(tree.pid), umask(i32::try_from(std::process::id()).unwrap()));
    assert_eq!(dir.read("out"), "0137\n");
    assert_eq!(tree.let_go().code, 128 + 15);
}

#[test]
fn a_worker_of_another_user_ends_with_its_shim() {
    if !root() {
        return;
    }
    let tree = Plan::by_hand()
        .option("--uid=64318")
        .option("--gid=64319")
        .option("--groups=64320,64321")
        .sh("id -u; id -g; id -G; grep -c NoSuchLine /proc/self/status; kill -STOP $$; exit 0");
    let worker =
        find("it stops", || tree.members().into_iter().find(|&pid| state(pid) == Some('T')));
    let status = fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
    assert!(status.contains("Uid:\t64318\t64318\t64318\t64318"), "{status}");
    assert!(status.contains("Gid:\t64319\t64319\t64319\t64319"), "{status}");
    tree.signal(libc::SIGKILL);
    until("a change of ids costs no death signal", || !lives(worker));
}

#[test]
fn a_child_that_changes_its_rights_does_not_work_in_our_memory() {
    if !root() {
        return;
    }
    let dir = Dir::new();
    let fifo = dir.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for (option, shared) in
        [("--gid=0", false), ("--uid=0", false), ("--groups=0", false), ("--umask=22", true)]
    {
        // Opening a FIFO for writing waits for a reader, so the child never comes to exec.
        let mut tree = Plan::vm()
            .option(format!("--stdout=file:{fifo}"))
            .option(option)
            .option("--stop=KILL:0")
            .start(&["true"]);
        let child =
            find("the child", || pids().into_iter().find(|&pid| ppid(pid) == Some(tree.pid)));
        const KCMP_VM: i32 = 1;
        // SAFETY: only numbers.
        let differs = unsafe { libc::syscall(libc::SYS_kcmp, tree.pid, child, KCMP_VM, 0, 0) };
        if differs >= 0 {
            assert_eq!(differs == 0, shared, "{option}");
        }
        tree.let_go();
    }
}

#[test]
fn another_user_has_no_group_of_ours() {
    if !root() {
        return;
    }
    let groups = |options: &[&str]| {
        let plan = Plan::by_hand().before_exec(|| {
            let groups = [64330, 64331];
            // SAFETY: pointer and length of one array.
            assert_eq!(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) }, 0);
        });
        let plan = options.iter().fold(plan, |plan, option| plan.option(*option));
        let ended = plan.start(&["grep", "^Groups:", "/proc/self/status"]).ended();
        ended.text().split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(groups(&["--uid=64318", "--gid=64319"]), "");
    assert_eq!(groups(&["--uid=64318"]), "");
    assert_eq!(groups(&["--uid=64318", "--groups=64320"]), "64320");
    assert_eq!(groups(&["--gid=64319"]), "64330 64331", "the same user's");
    assert_eq!(groups(&[]), "64330 64331");
}
