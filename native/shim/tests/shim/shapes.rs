//! Shapes of trees. Whatever the shape is, nothing of the tree is left when the shim has exited.

use crate::harness::*;
use std::time::Instant;

fn vm(script: &str, count: usize) {
    let mut tree = Plan::vm().option("--stop=TERM:150").sh(script);
    tree.grown(count);
    tree.let_go();
}

#[test]
fn a_plain_child() {
    vm("sleep 41 & wait", 2);
}

#[test]
fn a_session_of_its_own() {
    vm("setsid sleep 41 & wait", 2);
}

#[test]
fn a_double_fork() {
    vm("(setsid sh -c 'sleep 41 & sleep 41' &) ; wait; sleep 41", 4);
}

#[test]
fn an_emptied_environment() {
    vm("env -i setsid sleep 41 & env -i sleep 41", 3);
}

#[test]
fn a_job_of_an_interactive_shell() {
    vm("set -m; sleep 41 & sleep 41 & wait", 3);
}

#[test]
fn all_that_ignore_term() {
    vm("trap '' TERM; (setsid sleep 41 &); sleep 41 & sleep 41", 4);
}

#[test]
fn a_leader_that_leaves_a_child_ignoring_term() {
    let dir = Dir::new();
    let script = format!(
        "(trap '' TERM; echo > {0}; sleep 41; sleep 41) & until [ -e {0} ]; do sleep 0.02; done; exit 3",
        dir.path("up")
    );
    let mut tree = Plan::vm().option("--stop=TERM:200").option("--linger=50").sh(&script);
    let ended = tree.ended();
    assert_eq!(ended.code, 3);
    let gone = ended.gone();
    assert_eq!((gone.how, gone.status, gone.cause, gone.last), (1, 3, 0, 255), "{gone:?}");
}

#[test]
fn thirty_levels() {
    let mut tree = Plan::vm().option("--stop=TERM:50").adversary("chain:30");
    tree.grown(31);
    let began = Instant::now();
    assert!(tree.let_go().gone().passes >= 1);
    assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
}

#[test]
fn more_levels_than_a_walk_goes_down() {
    let mut tree = Plan::vm().option("--stop=TERM:50").adversary("chain:150");
    tree.grown(151);
    tree.let_go();
}

#[test]
fn a_thousand_children() {
    let mut tree = Plan::vm().option("--stop=KILL:0").adversary("fan:1000");
    tree.grown(1001);
    let began = Instant::now();
    tree.let_go();
    assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
}

#[test]
fn a_thousand_orphans_that_end_at_once_are_reaped_once_each() {
    let mut tree = Plan::vm().option("--linger=20000").adversary("burst:1000");
    let began = Instant::now();
    let ended = tree.ended();
    assert_eq!((ended.code, ended.gone().last), (0, 254));
    assert!(began.elapsed().as_secs() < 15, "no end of a child is missed: {:?}", began.elapsed());
}

/// Starts a role under a limit of processes, with a uid that nothing else here has. The limit
/// counts per user, zombies too.
fn limited(role: &str, uid: u32, limit: u64) -> Tree {
    Plan::vm()
        .option("--stop=KILL:0")
        .option(format!("--uid={uid}"))
        .option(format!("--gid={uid}"))
        .option("--groups=")
        .before_exec(move || {
            let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
            // SAFETY: a valid struct.
            unsafe { libc::setrlimit(libc::RLIMIT_NPROC, &limit) };
        })
        .adversary(role)
}

/// Returns the number of children of a process with one thread, zombies included.
fn children(pid: i32) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    text.map_or(0, |pids| pids.split_whitespace().count())
}

fn dies_by_the_shim(role: &str, uid: u32, limit: u64, count: usize) {
    if !root() {
        return;
    }
    let mut tree = limited(role, uid, limit);
    if role.contains("hoppers") {
        // Hardly one of them lives long enough for a search by pid. The shim's list of children
        // has them all at once.
        until("they hop", || children(tree.pid) >= count);
    } else {
        tree.grown(count);
    }
    let began = Instant::now();
    tree.let_go();
    assert!(began.elapsed().as_secs() < 10, "not by their own end: {:?}", began.elapsed());
}

#[test]
fn hoppers() {
    // Hardly one of them lives long enough to be seen.
    dies_by_the_shim("hoppers:64", 64_316, 200, 2);
}

#[test]
fn hoppers_in_sessions_of_their_own() {
    dies_by_the_shim("scattered-hoppers:64", 64_322, 200, 2);
}

#[test]
fn a_fork_bomb_at_its_limit() {
    dies_by_the_shim("bomb", 64_317, 100, 50);
}

#[test]
fn a_fork_bomb_in_sessions_of_their_own() {
    dies_by_the_shim("scattered-bomb", 64_323, 100, 50);
}

#[test]
fn a_child_made_with_clone_parent() {
    let mut tree =
        Plan::vm().option("--stop=TERM:50").option("--linger=100000").adversary("clone-parent");
    // The leader is the other child; it is kept as a zombie.
    until("the shim's own child", || {
        children(tree.pid) == 2
            && tree.members().iter().any(|&pid| ppid(pid) == Some(tree.pid) && lives(pid))
    });
    assert_eq!(tree.let_go().gone().last, 255);
}

#[test]
fn children_that_do_not_signal_their_end() {
    let mut tree =
        Plan::vm().option("--stop=TERM:50").option("--linger=100000").adversary("exit-signal");
    until("two orphans", || {
        let pids = tree.members();
        pids.len() == 2 && pids.iter().all(|&pid| ppid(pid) == Some(tree.pid))
    });
    tree.let_go();
}

#[test]
fn a_subreaper_inside() {
    let mut tree = Plan::vm().option("--stop=TERM:50").adversary("subreaper");
    tree.grown(11);
    tree.let_go();
}

#[test]
fn stopped_processes() {
    let mut tree = Plan::vm().option("--stop=TERM:50").adversary("stopped:20");
    until("twenty stopped", || {
        tree.members().iter().filter(|&&pid| state(pid) == Some('T')).count() == 20
    });
    tree.let_go();
}

#[test]
fn a_child_of_another_thread() {
    let mut tree = Plan::vm().option("--stop=TERM:30000@tree").adversary("threads");
    let pids = tree.grown(2);
    let (parents, children): (Vec<i32>, Vec<i32>) =
        pids.into_iter().partition(|&pid| ppid(pid) == Some(tree.pid));
    let [parent, child] = [parents[0], children[0]];
    // Before its session begins, the child ignores the step's signal.
    until("its session", || stat(child).is_some_and(|stat| stat[3] == child.to_string()));
    tree.hang_up();
    until("the child was found where it is listed", || !lives(child));
    assert!(lives(parent), "which ignores the step's signal");
    tree.signal(libc::SIGQUIT);
    tree.ended();
}

#[test]
fn a_shim_inside_a_shim() {
    let inner = new_run();
    let shim = binary().to_str().unwrap();
    let script = format!(
        "{shim} --run-id={inner} --stop=TERM:50 -- sh -c 'trap \"\" TERM; sleep 41; sleep 41'"
    );
    let mut tree = Plan::vm().option("--stop=TERM:1000").sh(&script);
    until("the inner tree", || bearers(inner).len() >= 3);
    tree.let_go();
    assert_eq!(bearers(inner), [], "every layer is dead");
}

#[test]
fn a_shim_inside_a_shim_that_is_killed() {
    let inner = new_run();
    let shim = binary().to_str().unwrap();
    let script = format!("{shim} --run-id={inner} -- sh -c 'setsid sleep 41 & sleep 41' & wait");
    let mut tree = Plan::vm().option("--stop=KILL:0").sh(&script);
    until("the inner tree", || bearers(inner).len() >= 4);
    let inner_shim = bearers(inner).into_iter().find(|&pid| cmdline(pid)[0] == shim).unwrap();
    kill(inner_shim, libc::SIGKILL);
    tree.let_go();
    assert_eq!(bearers(inner), [], "what it left came to the outer one");
}

#[test]
fn a_pid_namespace_inside() {
    if !root() {
        return;
    }
    vm("trap '' TERM; unshare --pid --fork --kill-child sh -c 'setsid sleep 41 & sleep 41'", 4);
}

#[test]
fn few_descriptors() {
    let mut tree = Plan::vm()
        .option("--stop=KILL:0")
        .before_exec(|| {
            let limit = libc::rlimit { rlim_cur: 10, rlim_max: 10 };
            // SAFETY: a valid struct.
            unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
        })
        .sh("setsid sh -c 'setsid sh -c \"setsid sh -c \\\"sleep 41; sleep 41\\\"; sleep 41\"; sleep 41' & sleep 41");
    tree.grown(5);
    tree.let_go();
}

/// The shim opens everything that it needs to end a tree before it must end one.
#[test]
fn the_list_of_children_is_held_when_descriptors_get_short() {
    let mut tree = Plan::vm().option("--stop=KILL:0").sh("setsid sleep 41 & sleep 41");
    tree.grown(3);
    let held = || {
        let mut fds = std::fs::read_dir(format!("/proc/{}/fd", tree.pid)).unwrap();
        fds.any(|fd| {
            std::fs::read_link(fd.unwrap().path())
                .is_ok_and(|path| path.to_string_lossy().ends_with("/children"))
        })
    };
    until("it is open", held);
    let limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let (fds, none) = (libc::RLIMIT_NOFILE, std::ptr::null_mut());
    // SAFETY: a valid struct, and no old limit is asked for.
    assert_eq!(unsafe { libc::prlimit(tree.pid, fds, &limit, none) }, 0);
    let ms = tree.let_go().gone().ms;
    assert!(ms < 400, "the children were looked up by number: {ms} ms");
}

#[test]
fn a_killed_shim_takes_its_worker_along() {
    let mut tree = Plan::vm().start(&["sleep", "41"]);
    let worker = tree.member("sleep 41");
    tree.signal(libc::SIGKILL);
    until("the worker's end", || !lives(worker));
    tree.decoy.assert_alive();
}

/// strace, where there is one, prolongs the moment between fork and the death signal.
#[test]
fn a_shim_killed_before_the_death_signal_is_set_starts_no_worker() {
    let dir = Dir::new();
    let run = new_run();
    let shim = binary().to_str().unwrap();
    let has_strace = std::process::Command::new("strace")
        .arg("-V")
        .output()
        .is_ok_and(|out| out.status.success());
    if !has_strace || !root() {
        return;
    }
    let script = format!(
        "exec strace -f -qq -o /dev/null -e trace=prctl -e inject=prctl:delay_enter=700000 \
         {shim} --run-id={run} -- touch {}",
        dir.path("started")
    );
    let mut strace = std::process::Command::new("sh").args(["-c", &script]).spawn().unwrap();
    let pids = find("shim and child", || Some(bearers(run)).filter(|pids| pids.len() == 2));
    let parent = pids
        .iter()
        .copied()
        .find(|&pid| pids.iter().any(|&other| ppid(other) == Some(pid)))
        .unwrap();
    kill(parent, libc::SIGKILL);
    until("the child's own end", || bearers(run).is_empty());
    strace.wait().unwrap();
    assert_eq!(dir.read("started"), "");
    assert!(!std::fs::exists(dir.path("started")).unwrap());
}
