//! Processes that name a dead run in their environment alone. Such a process is ended only if its
//! missing mark is explained and all of its living ancestors belong to the run.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows only #[test] functions as tests"
)]

mod common;

use common::TestDir;
use common::image::*;
use leash_core::{MarkLoss, Owner, Record, Verdict};
use leash_tag::{Limits, Mark, WorkerNumber};
use std::os::unix::fs::PermissionsExt as _;

const SERVICE: &[u8] = b"0::/system.slice/app.service\n";
const DAEMON: &[u8] = b"0::/system.slice/atd.service\n";

/// The pid of the suspect.
const PID: u32 = 300;

/// Returns an image with a dead run. Its VM was process 200, and its record says this about
/// marks.
fn dead_run(loss: MarkLoss, unmarked: &[u16]) -> Image {
    let mut image = Image::new();
    let owner = Owner { pid: 200, start_ticks: 3_000, boot_id: BOOT.to_owned(), pid_ns: NS };
    let mut text = Record::head_line(run(), &owner, &Default::default(), &loss);
    text.extend(unmarked.iter().flat_map(|&worker| Record::unmarked_line(worker)));
    let dir = TestDir::new();
    let path = dir.record_path(run());
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    image.records = dir.open().records().files;
    assert!(image.records[0].record.is_ok());
    image
}

fn resettable() -> MarkLoss {
    let group = String::from_utf8(SERVICE[3..SERVICE.len() - 1].to_vec()).unwrap();
    MarkLoss { resettable: true, control_group: Some(group), ..MarkLoss::default() }
}

fn unmarked() -> MarkLoss {
    MarkLoss { unmarked: true, ..MarkLoss::default() }
}

fn tag() -> Vec<u8> {
    env(200, 3_000, NS, &BOOT[..8])
}

/// Returns the verdict on a process that has the run's environment and nothing else of the run.
fn verdict(image: &Image, suspect: &Entry<'_>) -> Verdict {
    image.add(PID, &Entry { environ: &tag(), ..suspect.clone() });
    image.verdict(PID).unwrap()
}

#[test]
fn without_a_reason_for_the_missing_mark_a_copied_environment_convicts_nothing() {
    for loss in [
        MarkLoss::default(),
        MarkLoss { control_group: resettable().control_group, ..MarkLoss::default() },
    ] {
        let orphan = Entry { cgroup: SERVICE, ..PLAIN };
        assert_eq!(verdict(&dead_run(loss, &[2]), &orphan), Verdict::EnvOnly);
    }
}

#[test]
fn without_a_record_a_copied_environment_convicts_nothing() {
    let image = Image { records: Vec::new(), ..dead_run(unmarked(), &[1]) };
    assert_eq!(verdict(&image, &PLAIN), Verdict::EnvOnly);
}

#[test]
fn an_orphan_of_an_unmarked_worker_is_ended() {
    assert_eq!(verdict(&dead_run(unmarked(), &[]), &PLAIN), Verdict::Dead);
    assert_eq!(verdict(&dead_run(MarkLoss::default(), &[1]), &PLAIN), Verdict::Dead);
}

#[test]
fn an_orphan_that_lowered_its_own_limits_is_ended() {
    let lowered = Entry { limits: Limits { soft: 1, hard: 1 }, ..PLAIN };
    assert_eq!(verdict(&dead_run(MarkLoss::default(), &[]), &lowered), Verdict::Dead);
}

#[test]
fn a_daemons_child_is_kept_whatever_explains_its_missing_mark() {
    let lowered = Limits { soft: 1, hard: 1 };
    for (loss, limits) in [
        (unmarked(), Limits::UNLIMITED),
        (resettable(), Limits::UNLIMITED),
        (MarkLoss::default(), lowered),
    ] {
        let image = dead_run(loss, &[]);
        image.add(150, &Entry { ticks: 2_000, cgroup: SERVICE, ..PLAIN });
        let job = Entry { parent: 150, limits, cgroup: SERVICE, ..PLAIN };
        assert_eq!(verdict(&image, &job), Verdict::EnvOnly);
    }
}

#[test]
fn where_marks_can_be_reset_the_control_group_of_the_vm_decides() {
    let table: [(&str, &[u8], Verdict); 3] = [
        ("the VM's", SERVICE, Verdict::Dead),
        ("a daemon's", DAEMON, Verdict::EnvOnly),
        ("the root, where every process is", b"0::/\n", Verdict::EnvOnly),
    ];
    for (name, cgroup, expected) in table {
        assert_eq!(
            verdict(&dead_run(resettable(), &[]), &Entry { cgroup, ..PLAIN }),
            expected,
            "{name}"
        );
    }
    // If a VM is in the root group, the group does not tell the VM from any other process.
    let nowhere = MarkLoss { control_group: None, ..resettable() };
    assert_eq!(verdict(&dead_run(nowhere, &[]), &PLAIN), Verdict::EnvOnly);
}

#[test]
fn the_group_of_a_worker_is_as_good_as_that_of_the_vm() {
    let nowhere = || MarkLoss { control_group: None, ..resettable() };
    let run = run();
    for (path, expected) in [
        (format!("/leash-{run}-3"), Verdict::Dead),
        (format!("/system.slice/app.service/leash-{run}-3/below"), Verdict::Dead),
        // Such a group may hold what outlives its VM on purpose.
        (format!("/leash-{run}-3-keep"), Verdict::EnvOnly),
        ("/leash-aaaaaaa-3".to_owned(), Verdict::EnvOnly),
        (format!("/x-leash-{run}-3"), Verdict::EnvOnly),
    ] {
        let cgroup = format!("0::{path}\n");
        let suspect = Entry { cgroup: cgroup.as_bytes(), ..PLAIN };
        for loss in [resettable(), nowhere()] {
            assert_eq!(verdict(&dead_run(loss, &[]), &suspect), expected, "{path}");
        }
        // Without an explanation of the missing mark, the group alone convicts nothing.
        let copied = verdict(&dead_run(MarkLoss::default(), &[]), &suspect);
        assert_eq!(copied, Verdict::EnvOnly, "{path}");
    }
}

#[test]
fn an_orphan_that_a_service_manager_outside_of_the_group_adopted_is_ended() {
    let image = dead_run(resettable(), &[]);
    image.add(150, &Entry { ticks: 2_000, cgroup: b"0::/user.slice/init.scope\n", ..PLAIN });
    assert_eq!(verdict(&image, &Entry { parent: 150, cgroup: SERVICE, ..PLAIN }), Verdict::Dead);
}

#[test]
fn an_ancestor_of_the_vm_that_adopts_orphans_hides_no_unmarked_worker_and_its_own_jobs_live() {
    for (loss, expected) in [(unmarked(), Verdict::Dead), (resettable(), Verdict::EnvOnly)] {
        for (ticks, expected) in [(2_000, expected), (2_001, Verdict::EnvOnly)] {
            let image =
                dead_run(MarkLoss { ancestors: vec![(150, 2_000), (1, 1)], ..loss.clone() }, &[]);
            // A process with the same number and another start is another process.
            image.add(150, &Entry { ticks, cgroup: SERVICE, ..PLAIN });
            assert_eq!(
                verdict(&image, &Entry { parent: 150, cgroup: SERVICE, ..PLAIN }),
                expected
            );
        }
    }
}

#[test]
fn a_descendant_is_ended_if_each_process_above_it_is_of_the_run() {
    let tag = tag();
    for (above, expected) in [(&tag[..], Verdict::Dead), (b"A=1\0", Verdict::EnvOnly)] {
        let image = dead_run(unmarked(), &[]);
        image.add(310, &Entry { environ: &tag, ..PLAIN });
        image.add(311, &Entry { parent: 310, environ: above, ..PLAIN });
        assert_eq!(verdict(&image, &Entry { parent: 311, ..PLAIN }), expected);
    }
}

#[test]
fn a_descendant_of_what_was_kept_on_purpose_is_kept() {
    let image = dead_run(resettable(), &[1]);
    let kept =
        Mark::nested_in(Limits::UNLIMITED, run(), WorkerNumber::new(1), true).unwrap().limits();
    image.add(310, &Entry { limits: kept, environ: &tag(), cgroup: SERVICE, ..PLAIN });
    assert_eq!(
        verdict(&image, &Entry { parent: 310, cgroup: SERVICE, ..PLAIN }),
        Verdict::EnvOnly
    );
}

#[test]
fn what_was_started_from_outside_of_the_pid_namespace_is_kept() {
    let image = dead_run(unmarked(), &[]);
    assert_eq!(verdict(&image, &Entry { parent: 0, ..PLAIN }), Verdict::EnvOnly);
}

#[test]
fn what_became_another_user_is_ended_like_our_own_if_marks_could_be_reset_in_its_group() {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: only root gives a file to another user");
    }
    let group = resettable().control_group;
    let unmarked = MarkLoss { control_group: group, ..unmarked() };
    let table: [(&str, MarkLoss, &[u8], Verdict); 5] = [
        ("below su", resettable(), SERVICE, Verdict::Dead),
        ("a daemon's job", resettable(), DAEMON, Verdict::EnvOnly),
        ("no process can lose its mark", MarkLoss::default(), SERVICE, Verdict::EnvOnly),
        ("a run without marks", unmarked.clone(), SERVICE, Verdict::Dead),
        ("a run without marks, another group", unmarked, DAEMON, Verdict::EnvOnly),
    ];
    for (name, loss, cgroup, expected) in table {
        let changed = Entry { uid: Some(65_534), cgroup, ..PLAIN };
        assert_eq!(verdict(&dead_run(loss, &[]), &changed), expected, "{name}");
    }
    // Another user's process that has the mark of another run is that run's.
    let limits = Mark::nested_in(
        Limits::UNLIMITED,
        "abc1234".parse().unwrap(),
        WorkerNumber::new(1),
        false,
    );
    let marked =
        Entry { uid: Some(65_534), cgroup: SERVICE, limits: limits.unwrap().limits(), ..PLAIN };
    assert_ne!(verdict(&dead_run(resettable(), &[]), &marked), Verdict::Dead);
}
