//! Without `/proc`, and with a `/proc` of another namespace. Both tests need root.

use crate::harness::*;
use std::process::Command;

/// Starts a shell in namespaces of its own that runs `$SHIM` and waits for it. Returns its
/// output.
fn unshared(flags: &[&str], before: &str, rest: &str) -> Option<String> {
    if !root() {
        return None;
    }
    let script = format!("{before}; export SHIM={}; {rest}", binary().to_str().unwrap());
    let output =
        Command::new("unshare").args(flags).args(["sh", "-c", &script]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    Some(text)
}

#[test]
fn without_proc_a_tree_still_dies() {
    let run = new_run();
    let Some(text) = unshared(
        &["--mount"],
        "umount -l /proc",
        &format!(
            "$SHIM --run-id={run} --stop=TERM:200 -- sh -c 'trap \"\" TERM; (setsid sleep 50 &); sleep 50; sleep 50' & \
             sleep 0.5; kill -TERM $!; wait $!; echo $?"
        ),
    ) else {
        return;
    };
    assert_eq!(text, "137\n");
    assert_eq!(bearers(run), []);
}

#[test]
fn without_proc_statuses_are_right_and_orphans_are_waited_for() {
    let run = new_run();
    let Some(text) = unshared(
        &["--mount"],
        "umount -l /proc",
        &format!(
            "$SHIM --run-id={run} --linger=10000 -- sh -c '(sleep 0.3; echo late) & exit 6'; echo $?"
        ),
    ) else {
        return;
    };
    assert_eq!(text, "late\n6\n");
}

#[test]
fn a_proc_of_another_namespace_misleads_no_sweep() {
    // Its pids are those outside. The processes that have them there must not get a signal, and
    // the processes here must end.
    let run = new_run();
    let mut decoys: Vec<_> = (0..5).map(|_| Decoy::start()).collect();
    let Some(text) = unshared(
        &["--pid", "--fork", "--kill-child"],
        "true",
        &format!(
            "sleep 51 & bystander=$!; \
             $SHIM --run-id={run} --stop=KILL:0 -- sh -c '(setsid sleep 50 &); sleep 50' & \
             sleep 0.5; kill -TERM $!; wait $!; echo $?; kill -0 $bystander && echo kept"
        ),
    ) else {
        return;
    };
    assert_eq!(text, "137\nkept\n");
    assert_eq!(bearers(run), []);
    decoys.iter_mut().for_each(Decoy::assert_alive);
}
