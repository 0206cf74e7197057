//! What `--json` prints, against the schema that is published with the guides.
//!
//! In a pid namespace of its own: a sweep of "every dead run of this user" must not see what other tests, or people,
//! have running.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows only #[test] functions as tests"
)]

#[path = "../../core/tests/common/isolated.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]
mod isolated;
mod schema;

use isolated::isolated;
use leash_core::{About, Host, Owner, Pid, Record, RunDir, RunLock};
use leash_tag::{ENV_NAME, Limits, Mark, RunId, WorkerNumber};
use serde_json::Value;
use std::fs::Permissions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A child that is killed and reaped with its handle.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn sleep(command: &mut Command) -> Self {
        Self(command.arg("60").stdin(Stdio::null()).spawn().unwrap())
    }

    /// A command behind prlimit(1) is marked once it has its own name.
    fn wait_for_name(&self, name: &str) {
        let path = format!("/proc/{}/comm", self.0.id());
        let end = Instant::now() + Duration::from_secs(10);
        while std::fs::read_to_string(&path).unwrap() != name {
            assert!(Instant::now() < end, "waited in vain for {name}");
            std::thread::yield_now();
        }
    }
}

/// Runs in a directory of their own: one that this process owns and one whose owner has ended, each with a process.
struct Scene {
    path: PathBuf,
    live: RunLock,
    dead: RunId,
    processes: Vec<Process>,
}

impl Scene {
    fn set() -> Self {
        let path = std::env::temp_dir()
            .join(format!("leash-cli-{}", leash_core::generate_run_id().unwrap()));
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
        let host = Host::current().unwrap();
        let about = About { app: "shop".into(), node: "n@h".into(), ..About::default() };
        let live = RunLock::create_any(&RunDir::open(&path).unwrap(), &host, &about).unwrap();

        let vm = Process::sleep(&mut Command::new("sleep"));
        let identity = leash_core::identify(Pid::from_u32(vm.0.id()).unwrap()).unwrap();
        let me = Owner::current(&host).unwrap();
        let owner = Owner { pid: vm.0.id(), start_ticks: identity.start_ticks, ..me.clone() };
        let dead = leash_core::generate_run_id().unwrap();
        let record = path.join(format!("{dead}.json"));
        std::fs::write(&record, Record::head_line(dead, &owner, &about, &Default::default()))
            .unwrap();
        std::fs::set_permissions(&record, Permissions::from_mode(0o600)).unwrap();
        drop(vm);

        let worker = |run: RunId, owner: &Owner| {
            let Owner { pid, start_ticks, boot_id, pid_ns } = owner;
            let tag = format!("{run}.1.{pid}.{start_ticks}.{pid_ns}.{}", &boot_id[..8]);
            let mark =
                Mark::nested_in(Limits::UNLIMITED, run, WorkerNumber::new(1), false).unwrap();
            let Limits { soft, hard } = mark.limits();
            let mut prlimit = Command::new("prlimit");
            let process = Process::sleep(
                prlimit.args([&format!("--locks={soft}:{hard}"), "sleep"]).env(ENV_NAME, tag),
            );
            process.wait_for_name("sleep\n");
            process
        };
        let processes = vec![worker(live.run(), &me), worker(dead, &owner)];
        Self { path, live, dead, processes }
    }

    fn leash(&self, args: &[&str]) -> (Value, Option<i32>) {
        let output = Command::new(env!("CARGO_BIN_EXE_leash"))
            .arg("--run-dir")
            .arg(&self.path)
            .args(args)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let document = serde_json::from_str(&text).unwrap_or_else(|error| {
            panic!("{error}: {text:?} {}", String::from_utf8_lossy(&output.stderr))
        });
        (document, output.status.code())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Answers requests as a VM would.
struct Vm(std::thread::JoinHandle<Vec<String>>);

impl Vm {
    fn listen(scene: &Scene) -> Self {
        let path = scene.path.join(leash_core::socket_name(scene.live.run()));
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        Self(std::thread::spawn(move || {
            let mut asked = Vec::new();
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                let mut request = String::new();
                stream.read_line(&mut request).unwrap();
                let request = request.trim_end().to_owned();
                let answer = match request.as_str() {
                    "find pool" => {
                        "worker\t1\tworker\t11\tA\t:pool\nworker\t2\tport\t\tsh\t:pool\n"
                    }
                    "stop 70 pool" => {
                        "worker\t1\tworker\t11\tA\t:pool\tended\tSIGTERM, 3 ms\t\n\
                         worker\t2\tport\t\tsh\t:pool\tsurvived\t\t12:eperm\n"
                    }
                    "names" => "name\t:pool\n",
                    _ => "",
                };
                stream.get_mut().write_all(format!("{answer}end\n").as_bytes()).unwrap();
                asked.push(request);
                if asked.len() == 4 {
                    break;
                }
            }
            std::fs::remove_file(&path).unwrap();
            asked
        }))
    }

    fn asked(self) -> Vec<String> {
        self.0.join().unwrap()
    }
}

fn published() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guides/cli.schema.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn assert_valid(definition: &str, document: &Value) {
    let wrong = schema::errors(&published(), definition, document);
    assert!(wrong.is_empty(), "{definition}: {wrong:#?}\n{document:#}");
}

fn find<'a>(list: &'a Value, key: &str, value: impl Into<Value>) -> Option<&'a Value> {
    let value = value.into();
    list.as_array().unwrap().iter().find(|one| one[key] == value)
}

#[test]
fn every_document_is_what_the_schema_says() {
    isolated("every_document_is_what_the_schema_says", || {
        let mut scene = Scene::set();
        let pids: Vec<_> = scene.processes.iter().map(|process| process.0.id()).collect();
        let (live, dead) = (scene.live.run().to_string(), scene.dead.to_string());

        let (ps, status) = scene.leash(&["ps", "--json"]);
        assert_valid("ps", &ps);
        assert_eq!(status, Some(0));
        let one = find(&ps["processes"], "pid", pids[0]).unwrap();
        assert_eq!((&one["run_id"], &one["verdict"]), (&live.clone().into(), &"live".into()));
        assert_eq!(one["owner"]["state"], "alive");
        let other = find(&ps["processes"], "pid", pids[1]).unwrap();
        assert_eq!(
            (&other["verdict"], &other["owner"]["state"]),
            (&"dead".into(), &"gone".into())
        );

        let (runs, _) = scene.leash(&["runs", "--json"]);
        assert_valid("runs", &runs);
        assert_eq!(find(&runs["runs"], "run_id", live.as_str()).unwrap()["status"], "alive");
        assert_eq!(find(&runs["runs"], "run_id", dead.as_str()).unwrap()["status"], "dead");

        let (refused, status) = scene.leash(&["kill", &live, "--json"]);
        assert_valid("kill", &refused);
        assert_eq!((&refused["report"]["refused"]["run"], status), (&"live".into(), Some(3)));

        let (dry, _) = scene.leash(&["sweep", "--dry-run", "--json"]);
        assert_valid("sweep", &dry);
        assert_eq!(find(&dry["report"]["matches"], "pid", pids[1]).unwrap()["action"], "kept");
        assert!(scene.processes[1].0.try_wait().unwrap().is_none());

        let vm = Vm::listen(&scene);
        let (unknown, status) = scene.leash(&["stop", "--run", &live, "nobody", "--json"]);
        assert_valid("stop", &unknown);
        assert_eq!((&unknown["stopped"], status), (&false.into(), Some(1)));
        assert!(
            scene.processes[1].0.try_wait().unwrap().is_none(),
            "nothing is swept where one run is named"
        );
        let (stop, status) = scene.leash(&["stop", "pool", "--deadline", "70", "--json"]);
        assert_valid("stop", &stop);
        assert_eq!((&stop["stopped"], status), (&true.into(), Some(1)));
        let workers = &stop["runs"][0]["workers"];
        assert_eq!(find(workers, "worker", 1).unwrap()["result"], "ended");
        assert_eq!(find(workers, "worker", 2).unwrap()["survivors"][0]["pid"], 12);
        assert_eq!(
            vm.asked(),
            ["find nobody", "names", "find pool", "stop 70 pool"],
            "a VM that does not have it is not told to stop it"
        );
        let (mute, status) = scene.leash(&["stop", "pool", "--json"]);
        assert_valid("stop", &mute);
        assert_eq!((&mute["mute"][0]["why"], status), (&"no_socket".into(), Some(1)));

        let (sweep, status) = scene.leash(&["sweep", "--json"]);
        assert_valid("sweep", &sweep);
        assert_eq!(status, Some(0));
        assert_eq!(find(&sweep["report"]["matches"], "pid", pids[1]).unwrap()["action"], "ended");
        assert_eq!(sweep["report"]["records_dropped"], serde_json::json!([dead]));
        assert!(scene.processes[0].0.try_wait().unwrap().is_none(), "the live run's");

        let (unknown, status) = scene.leash(&["kill", &dead, "--json"]);
        assert_valid("kill", &unknown);
        assert_eq!(status, Some(1));
    });
}

#[test]
fn the_schema_lets_nothing_else_pass() {
    let schema = published();
    let run = serde_json::json!({
        "run_id": "s59m65f", "status": "dead", "verdict": "dead", "why": "x", "record": "present", "corrupt": null,
        "lock": "free", "owner": null, "app": null, "node": null, "since": null, "processes": 0, "shims": 0,
    });
    let document = |run: Value| {
        serde_json::json!({
            "format": 1, "run_dir": "/x", "complete": true, "incomplete_because": [], "runs": [run],
        })
    };
    assert_eq!(schema::errors(&schema, "runs", &document(run.clone())), Vec::<String>::new());
    for (key, value) in [
        ("run_id", "S59M65F".into()),
        ("status", "asleep".into()),
        ("processes", (-1).into()),
        ("processes", "0".into()),
        ("owner", serde_json::json!({"pid": 1})),
        ("another", Value::Null),
    ] {
        let mut wrong = run.clone();
        wrong[key] = value;
        assert!(!schema::errors(&schema, "runs", &document(wrong)).is_empty(), "{key}");
    }
    let mut missing = run;
    missing.as_object_mut().unwrap().remove("why");
    assert!(!schema::errors(&schema, "runs", &document(missing)).is_empty());
    let later = serde_json::json!({"format": 2, "run_dir": "/x", "complete": true, "incomplete_because": [], "runs": []});
    assert!(!schema::errors(&schema, "runs", &later).is_empty());
}
