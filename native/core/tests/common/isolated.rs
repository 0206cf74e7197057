//! A pid namespace for one test: the test binary runs itself again inside.

use leash_tag::ENV_NAME;
use std::process::{Command, Stdio};

const INSIDE: &str = "LEASH_TEST_INSIDE";

/// Runs a test in a pid namespace of its own. A sweep of "every dead run of this user" must not
/// see the processes of other tests or of people. If no namespace can be made, it says so and
/// passes.
pub fn isolated(name: &str, body: impl FnOnce()) {
    isolated_by(name, &[], body);
}

/// Does the same, with a command in front of the test.
pub fn isolated_by(name: &str, prefix: &[&str], body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let plain = ["--pid", "--fork", "--kill-child", "--mount-proc"];
    let rootless =
        ["--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let works = |args: &[&str]| {
        let quiet = |command: &mut Command| {
            command.stderr(Stdio::null()).status().is_ok_and(|s| s.success())
        };
        quiet(Command::new("unshare").args(args).arg("true"))
    };
    let args = match (works(&plain), works(&rootless)) {
        (true, _) => &plain[..],
        (_, true) => &rootless[..],
        _ => return println!("skipped: no pid namespace can be made here"),
    };
    let output = Command::new("unshare")
        .args(args)
        // Pid 1 must reap what is reparented to it, or its zombies fill the process table.
        .args(["sh", "-c", "\"$@\"; exit $?", "init"])
        .args(prefix)
        .arg(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .env_remove(ENV_NAME)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}
