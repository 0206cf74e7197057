//! A pid namespace for one test: its binary runs itself again in there.

use leash_tag::ENV_NAME;
use std::process::{Command, Stdio};

const INSIDE: &str = "LEASH_TEST_INSIDE";

/// Runs a test in a pid namespace of its own: a sweep of "every dead run of this user" must not see what other
/// tests, or people, have running. Says so and passes where no namespace can be made.
pub fn isolated(name: &str, body: impl FnOnce()) {
    isolated_by(name, &[], body);
}

/// The same, with a command in front of the test.
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
