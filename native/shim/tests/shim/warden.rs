//! The warden of a run, and the end of a run whose owner and shims are killed. The owner is a
//! `sleep` here.

use crate::frames::{self, Frame};
use crate::harness::*;
use leash_tag::{Limits, Mark, RunId};
use std::fs;
use std::io::Read;
use std::process::{Child, Command, Stdio};

/// A process that is killed with the test.
struct Owner(Child);

impl Owner {
    fn start() -> Self {
        Self(Command::new("sleep").arg("60").spawn().unwrap())
    }

    fn option(&self) -> String {
        let pid = i32::try_from(self.0.id()).unwrap();
        format!("--owner={pid}:{}", start_ticks(pid))
    }

    /// Ends the owner. It is a zombie from now on, until the test ends.
    fn end(&mut self) {
        self.0.kill().unwrap();
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Warden(Child);

impl Warden {
    fn spawn(run: RunId, owner: &str) -> Self {
        let options = [&format!("--run-id={run}"), "--warden", "--leash=0", "--report=1", owner];
        let mut command = Command::new(binary());
        command.args(options).stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    /// Starts a warden, and waits until it is ready.
    fn start(run: RunId, owner: &Owner) -> Self {
        let mut warden = Self::spawn(run, &owner.option());
        let mut frame = [0; 12];
        warden.0.stdout.as_mut().unwrap().read_exact(&mut frame).unwrap();
        let pid = u32::try_from(warden.pid()).unwrap();
        let ready = Frame::Ready { protocol: 1, pid, mark: 1, errno: 0, flags: 0b1111 };
        assert_eq!(frames::all(&frame), [ready]);
        warden
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    fn hang_up(&mut self) {
        drop(self.0.stdin.take());
    }

    /// Returns how often the warden went to sleep.
    fn sleeps(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line =
            text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        line.trim().parse().unwrap()
    }

    /// Waits until the warden has looked around so often.
    fn has_looked(&self, more: u64) {
        let before = self.sleeps();
        until("it looks around", || self.sleeps() >= before + more);
    }

    /// Waits until the warden ends by itself.
    fn ended(&mut self) {
        let mut status = None;
        until("the warden ends", || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        assert_eq!(status.unwrap().code(), Some(0));
    }
}

impl Drop for Warden {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn worker(run: RunId, number: u16, owner: &Owner) -> Plan {
    let mut plan = Plan::vm().option(owner.option());
    plan.run = run;
    plan.number(number)
}

/// Returns the members of one worker's tree, without its shim.
fn of_worker(tree: &Tree, number: u16) -> Vec<i32> {
    let is_its = |pid: &i32| {
        limits(*pid).and_then(Mark::decode).and_then(|mark| mark.worker()).map(|it| it.get())
            == Some(number)
    };
    tree.members().into_iter().filter(is_its).collect()
}

/// Kills the shim of a tree, and does not reap it.
fn orphan(tree: &Tree) {
    tree.signal(libc::SIGKILL);
    until("the shim is dead", || !lives(tree.pid));
}

/// A shape, and the least number of its processes before the shim is killed. Hardly a hopper
/// lives long enough to be seen, and in some shapes the first process exits.
const SHAPES: [(&str, usize); 9] = [
    ("chain:12", 13),
    ("fan:40", 41),
    ("hoppers:4", 1),
    ("scattered-hoppers:4", 1),
    ("scattered-bomb", 2),
    ("clone-parent", 1),
    ("subreaper", 11),
    ("stopped:3", 4),
    ("vfork", 1),
];

/// Starts a shape. If it could take every pid of the machine, it runs as a user of its own.
fn adversary(mut plan: Plan, shape: &str) -> Option<Tree> {
    if shape == "scattered-bomb" {
        if !root() {
            return None;
        }
        for option in ["--uid=64331", "--gid=64331", "--groups=", "--limits=NPROC:100"] {
            plan = plan.option(option);
        }
    }
    Some(plan.option("--linger=100000").adversary(shape))
}

#[test]
fn nothing_is_left_of_a_run_whose_owner_and_shims_are_killed() {
    for (shape, count) in SHAPES {
        let (mut owner, mut others) = (Owner::start(), Plan::vm().start(&["sleep", "44"]));
        let run = new_run();
        let mut warden = Warden::start(run, &owner);
        let daemon = worker(run, 2, &owner)
            .sh("setsid sh -c 'env -i sleep 46 & sleep 47' & exec sleep 48");
        for command in ["sleep 46", "sleep 47", "sleep 48"] {
            daemon.member(command);
        }
        others.member("sleep 44");
        let Some(tree) = adversary(worker(run, 1, &owner), shape) else { continue };
        until(shape, || of_worker(&tree, 1).len() >= count);
        // In this order only the warden can do it: the shims do not live to see the owner's end.
        orphan(&tree);
        orphan(&daemon);
        owner.end();
        warden.ended();
        assert_eq!(bearers(run), [], "{shape}");
        assert_eq!(others.members().len(), 1, "another run is none of its business");
        others.decoy.assert_alive();
        others.let_go();
    }
}

#[test]
fn a_tree_whose_shim_lives_is_left_to_that_shim() {
    let (mut owner, dir, run) = (Owner::start(), Dir::new(), new_run());
    let mut warden = Warden::start(run, &owner);
    // A second of grace is longer than the warden waits for the first look. No number of looks
    // may shorten it.
    let script = format!(
        "trap 'sleep 1; echo in order > {}; exit 0' TERM; setsid sleep 44 & echo ready; while :; do sleep 0.02; done",
        dir.path("log")
    );
    let mut kept = worker(run, 1, &owner).option("--stop=TERM:20000@leader").sh(&script);
    let lost = worker(run, 2, &owner).sh("setsid sleep 45 & exec sleep 45");
    kept.member("sleep 44");
    lost.grown(2);
    orphan(&lost);
    owner.end();
    until("the other's tree is gone", || of_worker(&lost, 2).is_empty());
    assert!(lives(kept.pid), "whose shim is at work");
    warden.ended();
    assert!(!lives(kept.pid), "a warden goes last");
    assert_eq!(kept.ended().gone().cause, 2);
    assert_eq!(dir.read("log"), "in order\n");
}

#[test]
fn a_shim_that_is_killed_at_its_work_is_noticed() {
    let (mut owner, run) = (Owner::start(), new_run());
    let mut warden = Warden::start(run, &owner);
    let tree = worker(run, 1, &owner)
        .option("--stop=TERM:60000")
        .sh("trap '' TERM; setsid sleep 45 & while :; do sleep 0.1; done");
    tree.member("sleep 45");
    owner.end();
    warden.has_looked(2);
    assert!(!of_worker(&tree, 1).is_empty(), "its shim has a minute of patience");
    orphan(&tree);
    warden.ended();
    assert_eq!(bearers(run), []);
}

#[test]
fn a_stopped_shim_goes_on() {
    let (mut owner, run) = (Owner::start(), new_run());
    let mut warden = Warden::start(run, &owner);
    let mut tree = worker(run, 1, &owner).start(&["sleep", "44"]);
    tree.member("sleep 44");
    tree.signal(libc::SIGSTOP);
    until("it is stopped", || state(tree.pid) == Some('T'));
    owner.end();
    assert_eq!(tree.ended_beside(warden.pid()).gone().cause, 2);
    warden.ended();
}

#[test]
fn no_process_is_signalled_while_the_owner_lives() {
    let (mut owner, run) = (Owner::start(), new_run());
    let mut warden = Warden::start(run, &owner);
    let tree = worker(run, 1, &owner).sh("setsid sleep 45 & exec sleep 46");
    let orphaned = tree.member("sleep 45");
    tree.member("sleep 46");
    orphan(&tree);
    warden.has_looked(0);
    warden.hang_up();
    warden.has_looked(4);
    assert!(lives(orphaned), "the owner has to see to its own orphans");
    assert!(lives(warden.pid()), "an owner that is dying hangs up first");
    owner.end();
    warden.ended();
    assert!(!lives(orphaned));
}

#[test]
fn it_exits_when_it_is_let_go_and_no_process_is_left() {
    let (owner, run) = (Owner::start(), new_run());
    let mut warden = Warden::start(run, &owner);
    let mut tree = worker(run, 1, &owner).start(&["sleep", "44"]);
    tree.member("sleep 44");
    warden.hang_up();
    warden.has_looked(2);
    assert!(lives(warden.pid()), "somebody is there");
    tree.child.stdin.take();
    tree.signal(libc::SIGTERM);
    until("the tree is gone", || !lives(tree.pid));
    warden.ended();
}

/// A VM that lives has started another warden by then.
#[test]
fn one_that_is_let_go_leaves_what_is_there_to_the_next() {
    let (mut owner, run) = (Owner::start(), new_run());
    let mut old = Warden::start(run, &owner);
    let mut tree = worker(run, 1, &owner).start(&["sleep", "44"]);
    tree.member("sleep 44");
    let mut young = Warden::start(run, &owner);
    let began = std::time::Instant::now();
    old.hang_up();
    old.ended();
    assert!(began.elapsed().as_secs() >= 8, "a VM that is dying hangs up, too");
    assert!(lives(young.pid()) && lives(tree.pid));
    owner.end();
    tree.ended_beside(young.pid());
    young.ended();
}

#[test]
fn two_do_not_wait_for_each_other() {
    let (mut owner, run) = (Owner::start(), new_run());
    let mut wardens = [Warden::start(run, &owner), Warden::start(run, &owner)];
    let tree = worker(run, 1, &owner).sh("setsid sleep 45 & exec sleep 46");
    tree.member("sleep 45");
    orphan(&tree);
    owner.end();
    for warden in &mut wardens {
        warden.ended();
    }
    assert_eq!(bearers(run), []);
}

#[test]
fn one_that_finds_its_owner_gone_does_its_work() {
    let (mut owner, run) = (Owner::start(), new_run());
    let option = owner.option();
    let tree = worker(run, 1, &owner).sh("setsid sleep 45 & exec sleep 46");
    tree.member("sleep 45");
    orphan(&tree);
    owner.end();
    owner.0.wait().unwrap();
    let (leash, _) = std::os::unix::net::UnixStream::pair().unwrap();
    let options = [&format!("--run-id={run}"), "--warden", "--leash=0", "--report=1", &option];
    let mut command = Command::new(binary());
    command.args(options).stdin(std::os::fd::OwnedFd::from(leash)).stdout(Stdio::piped());
    Warden(command.spawn().unwrap()).ended();
    assert_eq!(bearers(run), []);
}

#[test]
fn what_is_to_outlive_its_owner_is_spared() {
    let (mut owner, run) = (Owner::start(), new_run());
    let mut warden = Warden::start(run, &owner);
    let kept =
        worker(run, 1, &owner).option("--on-hangup=detach").sh("setsid sleep 44 & exec sleep 43");
    let lost = worker(run, 2, &owner).sh("setsid sleep 45 & exec sleep 46");
    let lasting = kept.member("sleep 44");
    lost.member("sleep 45");
    orphan(&kept);
    orphan(&lost);
    owner.end();
    warden.ended();
    assert_eq!(of_worker(&lost, 2), []);
    assert!(lives(lasting));
}

/// PAM and SELinux do this to the soft limit: the worker's number is gone, the run's id is not.
#[test]
fn a_process_that_lost_its_number_is_spared_while_any_shim_lives() {
    let (mut owner, run) = (Owner::start(), new_run());
    let mut warden = Warden::start(run, &owner);
    let tree = worker(run, 1, &owner)
        .option("--stop=TERM:60000")
        .sh("trap '' TERM; setsid sleep 45 & while :; do sleep 0.1; done");
    let numberless = tree.member("sleep 45");
    set_soft_limit(numberless, 0);
    assert_eq!(of_worker(&tree, 1).iter().filter(|&&pid| pid == numberless).count(), 0);
    owner.end();
    warden.has_looked(2);
    assert!(lives(numberless));
    orphan(&tree);
    warden.ended();
    assert!(!lives(numberless));
}

fn set_soft_limit(pid: i32, soft: u64) {
    let Limits { hard, .. } = limits(pid).unwrap();
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the structure lives across the call.
    let set = unsafe {
        libc::prlimit64(pid, libc::RLIMIT_LOCKS, &raw const limit, std::ptr::null_mut())
    };
    assert_eq!(set, 0);
}

/// Another user starts the very same program with the run's id.
#[test]
fn a_strangers_shim_shields_nothing() {
    if !root() {
        return;
    }
    let (mut owner, other, run) = (Owner::start(), Owner::start(), new_run());
    let mut warden = Warden::start(run, &owner);
    let stranger = |plan: Plan| {
        plan.with(|command| {
            use std::os::unix::process::CommandExt;
            command.uid(65534).gid(65534);
        })
    };
    let tree = worker(run, 1, &owner).sh("setsid sleep 45 & exec sleep 46");
    let orphaned = tree.member("sleep 45");
    let mut imitation =
        stranger(worker(run, 1, &other).option("--stop=TERM:60000")).start(&["sleep", "47"]);
    imitation.member("sleep 47");
    warden.hang_up();
    warden.has_looked(4);
    assert!(lives(warden.pid()) && lives(orphaned));
    orphan(&tree);
    owner.end();
    warden.ended();
    assert!(!lives(orphaned), "a stranger's shim is in charge of nothing");
    tree_is_let_go(&mut imitation);
}

fn tree_is_let_go(tree: &mut Tree) {
    tree.hang_up();
    until("the stranger's own tree is gone", || !lives(tree.pid));
}

/// To an ordinary user, `/proc` hides a process that the user may not read. Only root can mount
/// it so.
#[test]
fn what_proc_hides_of_the_run_is_ended_and_what_it_hides_of_others_is_not() {
    if !root() {
        return;
    }
    let (dir, run) = (Dir::new(), new_run());
    let locks = |run: RunId| {
        let worker = leash_tag::WorkerNumber::new(1);
        let Limits { soft, hard } =
            Mark::nested_in(Limits::UNLIMITED, run, worker, false).unwrap().limits();
        format!("{soft}:{hard}")
    };
    let script = format!(
        r#"
        until_() {{ for _ in $(seq 3000); do eval "$1" && return; sleep 0.02; done; echo "never: $1"; exit 1; }}
        sleep 300 & owner=$!
        ticks=$(cut -d' ' -f22 /proc/$owner/stat)
        "$SHIM" --run-id={run} --warden --leash=0 --report=1 --owner=$owner:$ticks < <(exec sleep 300) > {report} &
        warden=$!
        until_ '[ -s {report} ]'
        prlimit --locks={ours} -- {program} 300 & hidden=$!
        prlimit --locks={others} -- {program} 300 & decoy=$!
        until_ '! [ -e /proc/$hidden ] && ! [ -e /proc/$decoy ]'
        kill -0 $hidden && kill -0 $decoy && echo hidden
        kill -9 $owner
        wait $warden; echo "warden $?"
        until_ '! kill -0 $hidden 2>/dev/null'; echo gone
        kill -0 $decoy && echo decoy lives
        "#,
        report = dir.path("report"),
        program = dir.path("unread"),
        ours = locks(run),
        others = locks(new_run()),
    );
    let as_nobody = format!(
        "mount -o remount,hidepid=2 /proc || exit 77; cp /bin/sleep {0} && chmod 711 {0} && \
         setpriv --reuid=65534 --regid=65534 --clear-groups bash -c '{1}' 2>&1; exit 0",
        dir.path("unread"),
        script.replace('\'', "'\\''")
    );
    let output = Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", &as_nobody])
        .env("SHIM", binary())
        .output()
        .unwrap();
    if output.status.code() == Some(77) {
        return;
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said: Vec<_> = text.lines().filter(|line| !line.contains("Killed")).collect();
    assert_eq!(said, ["hidden", "warden 0", "gone", "decoy lives"], "{text}");
}

#[test]
fn it_heeds_no_signal() {
    let (mut owner, run) = (Owner::start(), new_run());
    let mut warden = Warden::start(run, &owner);
    let tree = worker(run, 1, &owner).start(&["sleep", "44"]);
    tree.member("sleep 44");
    // Systemd and container runtimes send these signals to all processes at once. People send
    // them to a process that they do not know.
    for signal in
        [libc::SIGTERM, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGUSR1, libc::SIGALRM]
    {
        kill(warden.pid(), signal);
    }
    kill(warden.pid(), libc::SIGSTOP);
    until("it is stopped", || state(warden.pid()) == Some('T'));
    kill(warden.pid(), libc::SIGCONT);
    until("it goes on", || state(warden.pid()) == Some('S'));
    orphan(&tree);
    owner.end();
    warden.ended();
    assert_eq!(bearers(run), []);
}

#[test]
fn it_costs_little_and_holds_nothing_of_others() {
    let (owner, run, dir) = (Owner::start(), new_run(), Dir::new());
    let log = fs::File::create(dir.path("log")).unwrap();
    let mut command = Command::new(binary());
    command.args([
        &format!("--run-id={run}"),
        "--warden",
        "--leash=0",
        "--report=1",
        &owner.option(),
    ]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).current_dir(&dir.0);
    let warden = Warden(command.spawn().unwrap());
    let at = format!("/proc/{}", warden.pid());
    let link = |name: &str| fs::read_link(format!("{at}/{name}")).unwrap();
    until("it is at its post", || link("cwd").to_str() == Some("/"));
    until("it sleeps", || state(warden.pid()) == Some('S'));
    assert_eq!(link("fd/2").to_str(), Some("/dev/null"));
    let rollup = fs::read_to_string(format!("{at}/smaps_rollup")).unwrap();
    let field = rollup.lines().find_map(|line| line.strip_prefix("Private_Dirty:")).unwrap();
    let kb: u32 = field.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kb <= 50, "{kb} kB");
}

#[test]
fn what_cannot_be_watched_is_refused() {
    let mut owner = Owner::start();
    let refused = |warden: &mut Warden| {
        let mut said = Vec::new();
        warden.0.stdout.take().unwrap().read_to_end(&mut said).unwrap();
        assert_eq!(warden.0.wait().unwrap().code(), Some(125));
        frames::all(&said)
    };
    let another = format!("--owner={}:1", owner.0.id());
    let gone = owner.option();
    assert_eq!(
        refused(&mut Warden::spawn(new_run(), &another)),
        [Frame::StartFailed { stage: 12, errno: 3 }]
    );
    owner.end();
    owner.0.wait().unwrap();
    assert_eq!(
        refused(&mut Warden::spawn(new_run(), &gone)),
        [Frame::StartFailed { stage: 12, errno: 3 }]
    );
}
