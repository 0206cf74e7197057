//! A process that another program started. It is the child of this test and not of the shim.

use crate::adversary::{QUEUED, ROLE, SIGNALLED, WAITING};
use crate::frames::Frame;
use crate::harness::*;
use leash_tag::{Limits, Mark};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

const NOBODY: u32 = 65_534;

/// A process with a group of its own, as a starter of servers gives it one. Its script has a
/// `read go` before the part that runs after the attachment.
struct Target(Child);

impl Target {
    fn sh(script: &str) -> Self {
        Self::start(Command::new("sh").args(["-c", script]))
    }

    fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(command.process_group(0).spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    /// Returns the value of its option, as the VM passes it.
    fn option(&self) -> String {
        format!("{}:{}", self.pid(), start_ticks(self.pid()))
    }

    fn go(&mut self) {
        self.0.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    }

    /// Waits until a process of the target writes that byte.
    fn waits(&mut self) {
        let mut byte = [0];
        while byte[0] != WAITING {
            assert_eq!(self.0.stdout.as_mut().unwrap().read(&mut byte).unwrap(), 1);
        }
    }

    /// Waits until the target reports that it is ready.
    fn ready(&mut self) {
        let mut text = [0; 6];
        self.0.stdout.as_mut().unwrap().read_exact(&mut text).unwrap();
        assert_eq!(&text, b"ready\n");
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            // SAFETY: the group of a child that is not reaped.
            unsafe { libc::kill(-self.pid(), libc::SIGKILL) };
            let _ = self.0.wait();
        }
    }
}

fn marks(pid: i32) -> Option<u16> {
    Mark::decode(limits(pid)?)?.worker().map(|worker| worker.get())
}

/// Attaches a target, and waits until it is marked.
#[track_caller]
fn attached(plan: Plan, target: &Target) -> Tree {
    let tree = plan.attach(&target.option());
    until("it is marked", || marks(target.pid()) == Some(1));
    tree
}

#[test]
fn ends_with_everything_that_it_had_started() {
    let mut target = Target::sh(
        "sleep 41 & setsid sh -c 'sleep 42 & sleep 43' & while [ $(pgrep -c -P $! sleep) != 2 ]; do :; done; \
         echo ready; sleep 44",
    );
    target.ready();
    until("all of it is there", || below(target.pid()) == 5);
    let mut tree = attached(Plan::vm(), &target);
    assert_eq!(tree.grown(6).len(), 6);
    let ended = tree.let_go();
    let frames = ended.frames();
    assert_eq!(frames[1], Frame::Attached { pid: target.0.id(), marked: 6, unmarked: 0 });
    assert!(matches!(frames[0], Frame::Ready { mark: 0, flags: 0b100, .. }));
    assert!(frames.contains(&Frame::Exited { how: 0, status: 0 }));
    let gone = ended.gone();
    assert_eq!((ended.code, gone.how, gone.cause, gone.last), (0, 0, 1, 0));
    assert_eq!(gone.steps, [(0, 15, 0)]);
}

#[test]
fn ends_with_everything_that_it_starts_later() {
    let mut target = Target::sh(
        "read go; sleep 41 & setsid sh -c 'sleep 42 & exit' & env -i setsid sleep 43 & echo ready; sleep 44",
    );
    let mut tree = attached(Plan::vm(), &target);
    target.go();
    target.ready();
    for command in ["sleep 41", "sleep 42", "sleep 43", "sleep 44"] {
        tree.member(command);
    }
    assert_eq!(tree.let_go().gone().cause, 1);
}

#[test]
fn what_ignores_everything_is_killed() {
    let mut target =
        Target::sh("trap '' TERM; read go; sh -c 'sleep 41; sleep 42' & sleep 43; sleep 44");
    let mut tree = attached(Plan::vm().option("--stop=TERM:100"), &target);
    target.go();
    tree.member("sleep 43");
    let gone = tree.let_go().gone();
    assert_eq!((gone.last, gone.steps.len()), (255, 2));
    assert!(gone.ms >= 100);
}

#[test]
fn its_own_end_is_the_end_of_what_it_leaves() {
    let mut target = Target::sh(
        "read go; setsid sleep 41 & while ! pgrep -P $$ -x sleep >/dev/null; do :; done",
    );
    let mut tree = attached(Plan::vm().option("--linger=300"), &target);
    target.go();
    let child = tree.member("sleep 41");
    target.0.wait().unwrap();
    assert!(lives(child), "it gets its linger");
    let ended = tree.ended();
    let gone = ended.gone();
    assert_eq!((gone.how, gone.cause, gone.last), (0, 0, 0));
    assert!(ended.frames().contains(&Frame::Exited { how: 0, status: 0 }));
}

#[test]
fn its_own_end_alone_needs_no_step() {
    let mut target = Target::sh("read go");
    let mut tree = attached(Plan::vm().option("--linger=20000"), &target);
    target.go();
    let gone = tree.ended().gone();
    assert_eq!((gone.cause, gone.last, gone.steps.len()), (0, 254, 0), "nor does anybody linger");
}

#[test]
fn a_descendant_that_lingers_gets_its_time_and_no_more() {
    let mut target = Target::sh("read go; sleep 0.5 & exit");
    let mut tree = attached(Plan::vm().option("--linger=20000"), &target);
    target.go();
    let gone = tree.ended().gone();
    assert_eq!((gone.cause, gone.last), (0, 254));
}

#[test]
fn a_step_to_the_group_reaches_those_of_the_tree_in_it_and_no_sibling() {
    let dir = Dir::new();
    let note = |name: &str| format!("trap 'echo T >> {}' TERM; ", dir.path(name));
    // The sibling is in the target's group, and it is not a child of the target.
    let mut outer = Target::sh(&format!(
        "sh -c \"{} while :; do sleep 0.05; done\" & \
         sh -c \"{} (trap 'echo T >> {}' TERM; echo ready; while :; do sleep 0.05; done) & \
                 while :; do sleep 0.05; done\" & echo $! > {}; wait",
        note("sibling"),
        note("target"),
        dir.path("child"),
        dir.path("pid")
    ));
    outer.ready();
    let pid: i32 = find("its number", || dir.read("pid").trim().parse().ok());
    let mut tree =
        Plan::vm().option("--stop=TERM:400").attach(&format!("{pid}:{}", start_ticks(pid)));
    until("it is marked", || marks(pid) == Some(1));
    assert_eq!(tree.let_go().gone().last, 255);
    assert_eq!(
        (dir.read("target"), dir.read("child"), dir.read("sibling")),
        ("T\n".into(), "T\n".into(), String::new())
    );
    assert!(lives(outer.pid()) && marks(outer.pid()).is_none());
}

#[test]
fn each_gets_a_step_s_signal_exactly_once() {
    for to in ["group", "tree"] {
        let mut target = adversary("counts");
        let mut tree = attached(Plan::vm().option(format!("--stop={QUEUED}:300@{to}")), &target);
        target.go();
        target.waits();
        target.waits();
        assert_eq!(tree.let_go().gone().last, 255);
        let mut said = Vec::new();
        target.0.stdout.take().unwrap().read_to_end(&mut said).unwrap();
        assert_eq!(said.iter().filter(|&&byte| byte == SIGNALLED).count(), 2, "{to}");
    }
}

#[test]
fn a_step_to_the_leader_reaches_the_others_when_it_is_gone() {
    let mut target = Target::sh("sleep 41 & sleep 42 & echo ready; exec sleep 43");
    target.ready();
    let mut tree = attached(Plan::vm().option("--stop=TERM:20000@leader"), &target);
    tree.grown(3);
    let gone = tree.let_go().gone();
    assert_eq!((gone.last, gone.passes), (0, 0));
}

#[test]
fn a_stopped_process_is_ended_too() {
    let target = Target::sh("sleep 41 & sleep 42");
    let mut tree = attached(Plan::vm().option("--stop=TERM:20000"), &target);
    for pid in tree.grown(3) {
        kill(pid, libc::SIGSTOP);
    }
    assert_eq!(tree.let_go().gone().last, 0);
}

#[test]
fn its_owner_s_end_ends_it() {
    let mut owner = Command::new("sleep").arg("60").spawn().unwrap();
    let target = Target::sh("sleep 41; sleep 42");
    let pid = i32::try_from(owner.id()).unwrap();
    let mut tree =
        attached(Plan::vm().option(format!("--owner={pid}:{}", start_ticks(pid))), &target);
    owner.kill().unwrap();
    assert_eq!(tree.ended().gone().cause, 2);
    owner.wait().unwrap();
}

#[test]
fn signals_to_the_shim_end_it_gently_and_at_once() {
    for (signal, cause, last) in [(libc::SIGTERM, 3, 0), (libc::SIGQUIT, 4, 255)] {
        let target = Target::sh("sleep 41; sleep 42");
        let mut tree = attached(Plan::vm(), &target);
        let gone = tree.stop(signal).gone();
        assert_eq!((gone.cause, gone.last), (cause, last));
    }
}

#[test]
fn a_process_that_sheds_the_mark_is_ended_as_long_as_it_is_below() {
    // Any process may lower its soft limit, which held the worker's number.
    let mut target = Target::sh(
        "read go; prlimit --pid $$ --locks=0:; sleep 41 & echo ready; trap '' TERM; while :; do sleep 0.1; done",
    );
    let mut tree = attached(Plan::vm().option("--stop=TERM:100"), &target);
    target.go();
    target.ready();
    let child = find("its child", || {
        pids()
            .into_iter()
            .find(|&pid| ppid(pid) == Some(target.pid()) && cmdline(pid)[0] == "sleep")
    });
    assert_eq!((marks(target.pid()), marks(child)), (None, None));
    tree.let_go();
    assert!(!lives(child) && !lives(target.pid()));
}

#[test]
fn a_process_that_sheds_the_mark_leaves_no_child_behind() {
    for round in 0..40 {
        let mut target = adversary(if round % 2 == 0 { "sheds:0" } else { "sheds:2" });
        let mut tree = attached(Plan::vm().option("--stop=KILL:0"), &target);
        target.go();
        until("it has shed the mark", || {
            marks(target.pid()).is_none() && below(target.pid()) > round % 2 * 2
        });
        let passes = tree.let_go().gone().passes;
        assert!(passes < 20, "it was not stopped: {passes}");
    }
}

fn adversary(role: &str) -> Target {
    let this = std::env::current_exe().unwrap();
    let line = format!(
        "read go; exec {} --exact adversary::adversary --nocapture --quiet",
        this.display()
    );
    Target::start(Command::new("sh").args(["-c", &line]).env(ROLE, role))
}

#[test]
fn processes_that_hop_on_and_on_are_caught() {
    for role in ["scattered-hoppers:2", "hoppers:2"] {
        let mut target = adversary(role);
        let mut tree = attached(Plan::vm().option("--stop=TERM:50"), &target);
        target.go();
        until_forks(1_000);
        assert_eq!(tree.let_go().gone().last, 255, "{role}");
    }
}

#[test]
fn a_tree_of_forty_levels_and_a_wide_one_are_marked_whole() {
    for role in ["chain:38", "fan:200"] {
        let count: u32 = role.split(':').next_back().unwrap().parse().unwrap();
        let mut target = adversary(role);
        target.go();
        until("it has grown", || below(target.pid()) == count as usize);
        let mut tree = attached(Plan::vm().option("--stop=TERM:50"), &target);
        assert_eq!(tree.grown(count as usize + 1).len(), count as usize + 1);
        let ended = tree.let_go();
        assert_eq!(
            ended.frames()[1],
            Frame::Attached { pid: target.0.id(), marked: count + 1, unmarked: 0 }
        );
    }
}

/// Returns the number of descendants of a process.
fn below(pid: i32) -> usize {
    let mut all = vec![pid];
    let others: Vec<_> = pids().into_iter().filter_map(|pid| Some((pid, ppid(pid)?))).collect();
    let mut next = 0;
    while let Some(&parent) = all.get(next) {
        all.extend(others.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| pid));
        next += 1;
    }
    all.len() - 1
}

#[test]
fn what_may_not_be_attached_is_left_as_it_was() {
    let mut decoy = Decoy::start();
    let mut before = Target::sh("sleep 41");
    let ticks = start_ticks(before.pid());
    let own = i32::try_from(std::process::id()).unwrap();
    let mut dead = Target::sh("exit");
    dead.0.wait().unwrap();
    let mut other = Plan::vm().start(&["sleep", "49"]);
    let marked = other.member("sleep 49");
    for (target, errno) in [
        (format!("{}:{}", before.pid(), ticks + 1), libc::ESRCH),
        (format!("{}", dead.pid()), libc::ESRCH),
        (format!("{own}"), libc::EINVAL),
        (format!("{own}:{}", start_ticks(own)), libc::EINVAL),
        (format!("{marked}"), libc::EBUSY),
        (format!("{}", other.pid), libc::EBUSY),
    ] {
        let before = (limits(marked), limits(own));
        let mut tree = Plan::vm().attach(&target);
        let ended = tree.ended();
        let errno = u16::try_from(errno).unwrap();
        assert_eq!(
            (ended.code, ended.frames()),
            (125, vec![Frame::StartFailed { stage: 14, errno }]),
            "{target}"
        );
        assert_eq!((limits(marked), limits(own)), before);
    }
    assert_eq!(limits(before.pid()), limits(own), "as it was inherited");
    assert_eq!(before.0.try_wait().unwrap(), None);
    other.let_go();
    decoy.assert_alive();
}

#[test]
fn a_zombie_is_gone() {
    let mut target = Target::sh("read go");
    let option = target.option();
    target.go();
    until("it has ended", || state(target.pid()) == Some('Z'));
    assert_eq!(
        Plan::vm().attach(&option).ended().frames(),
        [Frame::StartFailed { stage: 14, errno: 3 }]
    );
}

#[test]
fn another_user_s_is_not_to_be_attached_and_the_own_is() {
    if !root() {
        return;
    }
    let mut decoy = Target::sh("sleep 41");
    let as_nobody = || Plan::vm().with(|command| _ = command.uid(NOBODY).gid(NOBODY));
    let mut refused = as_nobody().attach(&decoy.option());
    assert_eq!(refused.ended().frames(), [Frame::StartFailed { stage: 14, errno: 1 }]);
    assert_eq!((decoy.0.try_wait().unwrap(), marks(decoy.pid())), (None, None));

    let own = Target::start(
        Command::new("sh").args(["-c", "sleep 42 & sleep 43; sleep 44"]).uid(NOBODY).gid(NOBODY),
    );
    let mut tree = attached(as_nobody(), &own);
    tree.grown(3);
    tree.let_go();

    // Root may attach it if it has the capability that a mark takes. Without the capability, the
    // process is not ours.
    let others = Target::start(
        Command::new("sh").args(["-c", "sleep 45; sleep 46"]).uid(NOBODY).gid(NOBODY),
    );
    if may_mark_others() {
        let mut tree = attached(Plan::vm(), &others);
        tree.member("sleep 45");
        tree.let_go();
    } else {
        let mut refused = Plan::vm().attach(&others.option());
        assert_eq!(refused.ended().frames(), [Frame::StartFailed { stage: 14, errno: 1 }]);
        assert_eq!(marks(others.pid()), None);
    }
}

/// Returns whether this process has CAP_SYS_RESOURCE.
fn may_mark_others() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    u64::from_str_radix(effective, 16).unwrap() & 1 << 24 != 0
}

#[test]
fn a_process_that_cannot_be_marked_is_counted() {
    if !root() {
        return;
    }
    // A root process is the child of an ordinary user's process, as a set-user-id program is.
    // Here the child starts as root.
    let dir = Dir::new();
    let mut target = Target::sh(&format!(
        "sleep 41 & echo $! > {}; echo ready; exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups sleep 42",
        dir.path("pid")
    ));
    target.ready();
    until("it is nobody's", || cmdline(target.pid())[0] == "sleep");
    let mut tree =
        attached(Plan::vm().with(|command| _ = command.uid(NOBODY).gid(NOBODY)), &target);
    let ended = tree.let_go();
    assert_eq!(ended.frames()[1], Frame::Attached { pid: target.0.id(), marked: 1, unmarked: 1 });
    let left: i32 = dir.read("pid").trim().parse().unwrap();
    assert!(lives(left) && cmdline(left).join(" ").starts_with("sleep 41"));
    kill(left, libc::SIGKILL);
}

#[test]
fn in_a_run_around_all_of_it_it_is_one_level_deeper() {
    let outer = new_run();
    let mark = Mark::nested_in(Limits::UNLIMITED, outer, None, false).unwrap().limits();
    let locks = format!("--locks={}:{}", mark.soft, mark.hard);
    let target = Target::start(Command::new("prlimit").args([&locks, "sleep", "41"]));
    until("it runs", || cmdline(target.pid())[0] == "sleep");
    // The process belongs to a run that is not ours, so it has a supervisor.
    let mut refused = Plan::vm().attach(&target.option());
    assert_eq!(refused.ended().frames(), [Frame::StartFailed { stage: 14, errno: 16 }]);
    let inherits = Plan::vm().before_exec(move || {
        let limits = libc::rlimit { rlim_cur: mark.soft, rlim_max: mark.hard };
        // SAFETY: the struct lives across the call.
        unsafe { libc::setrlimit(libc::RLIMIT_LOCKS, &raw const limits) };
    });
    let mut tree = attached(inherits, &target);
    assert!(limits(target.pid()).unwrap().hard < mark.hard);
    tree.let_go();
}

#[test]
fn by_hand_the_number_alone_is_enough_and_refusals_are_said() {
    let target = Target::sh("sleep 41");
    let mut tree = Plan::by_hand().option("--worker=1").attach(&target.pid().to_string());
    until("it is marked", || marks(target.pid()) == Some(1));
    assert_eq!(tree.stop(libc::SIGTERM).code, 0);

    let own = std::process::id().to_string();
    let mut refused =
        Plan::by_hand().with(|command| _ = command.stderr(Stdio::piped())).attach(&own);
    assert_eq!(refused.ended().code, 125);
    let mut said = String::new();
    refused.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(
        said,
        format!("leash-shim: --attach: {own}: an ancestor, or a thread of the kernel\n")
    );
}

#[test]
fn a_child_whose_fork_had_begun_is_marked_too() {
    for _ in 0..4 {
        let mut target = adversary("forks-slowly:12");
        target.go();
        target.waits();
        let mut tree = attached(Plan::vm().option("--stop=KILL:0"), &target);
        until("all have it", || below(target.pid()) == 12 && tree.members().len() == 13);
        tree.let_go();
    }
}

#[test]
fn a_command_may_be_a_step_of_its_ladder_too() {
    let dir = Dir::new();
    let (end, fails, hangs) = (dir.path("end"), ["false"], ["sleep", "60"]);
    // Only the last command can end it in order.
    let script = format!(
        "trap '' TERM; echo ready; while ! [ -e {end} ]; do sleep 0.01; done; echo over > {end}.said"
    );
    let mut target = Target::sh(&script);
    target.ready();
    let plan = Plan::vm().option("--stop=CMD:20000,CMD:100,CMD:20000,TERM:20000");
    let plan = plan.step(&fails).step(&hangs).step(&["touch", &end]);
    let mut tree = attached(plan, &target);
    let ended = tree.let_go();
    assert_eq!(dir.read("end.said"), "over\n");
    let mut commands: Vec<_> = ended
        .frames()
        .into_iter()
        .filter_map(|frame| match frame {
            Frame::Command { index, how, status, errno } => Some((index, how, status, errno)),
            _ => None,
        })
        .collect();
    // A command that was killed may be reaped after the next one has ended.
    commands.sort_unstable();
    assert_eq!(commands, [(0, 1, 1, 0), (1, 2, 9, 0), (2, 1, 0, 0)], "{:?}", ended.frames());
    let gone = ended.gone();
    assert_eq!((gone.cause, gone.last, gone.passes), (1, 2, 0), "{gone:?}");
    assert!(!lives(target.pid()));
}

#[test]
fn a_command_of_its_ladder_is_killed_with_the_tree() {
    let dir = Dir::new();
    let target = Target::sh("trap '' TERM; while :; do sleep 0.02; done");
    let script = format!("setsid sleep 61 & echo $! $$ > {}; sleep 62", dir.path("pids"));
    let mut tree =
        attached(Plan::vm().option("--stop=CMD:inf").step(&["sh", "-c", &script]), &target);
    tree.hang_up();
    until("the command is up", || dir.read("pids").ends_with('\n'));
    let pids: Vec<i32> =
        dir.read("pids").split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert!(pids.iter().all(|&pid| lives(pid)));
    assert_eq!(tree.stop(libc::SIGQUIT).gone().cause, 4);
    assert!(!pids.iter().any(|&pid| lives(pid)) && !lives(target.pid()));
}
