//! Verdicts on directories that look like `/proc`, for states that no test machine can produce.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows only #[test] functions as tests"
)]

mod common;

use common::Vm;
use common::image::*;
use leash_core::{
    Carriers, Host, Incomplete, Owner, OwnerState, Pid, ScanOptions, Verdict, scan,
};
use std::os::unix::fs::symlink;

#[test]
fn an_owners_fate_decides() {
    let table: [(&str, u64, u64, &str, Verdict); 7] = [
        ("nobody has the number", 3_000, NS, &BOOT[..8], Verdict::Dead),
        ("it lives", 4_000, NS, &BOOT[..8], Verdict::Live),
        ("another process has the number", 3_000, NS, &BOOT[..8], Verdict::Dead),
        ("hidden by hidepid", 3_000, NS, &BOOT[..8], Verdict::UnknownOwner),
        ("one tick apart", 4_001, NS, &BOOT[..8], Verdict::UnknownOwner),
        ("another namespace", 3_000, NS + 1, &BOOT[..8], Verdict::ForeignNamespace),
        ("another boot", 3_000, NS, "ffffffff", Verdict::UnknownOwner),
    ];
    for (index, (name, ticks, ns, boot, verdict)) in table.into_iter().enumerate() {
        let image = Image::new();
        match index {
            1 | 2 | 4 => image.add(200, &Entry { ticks: 4_000, ..PLAIN }),
            3 => std::fs::write(image.path("hidden"), "200\n").unwrap(),
            _ => {}
        }
        let environ = env(200, ticks, ns, boot);
        image.add(300, &Entry { limits: limits(1), environ: &environ, ..PLAIN });
        assert_eq!(image.verdict(300), Some(verdict), "{name}");
        // Without the mark, a dead run convicts nothing.
        image.add(301, &Entry { environ: &environ, ..PLAIN });
        let unmarked = if verdict == Verdict::Dead { Verdict::EnvOnly } else { verdict };
        assert_eq!(image.verdict(301), Some(unmarked), "{name}, unmarked");
    }
}

#[test]
fn an_owners_zombie_is_gone() {
    let image = Image::new();
    image.add(200, &Entry { state: 'Z', ticks: 4_000, ..PLAIN });
    let environ = env(200, 4_000, NS, &BOOT[..8]);
    image.add(300, &Entry { limits: limits(1), environ: &environ, ..PLAIN });
    assert_eq!(image.verdict(300), Some(Verdict::Dead));
}

#[test]
fn unreadable_is_not_untagged_and_a_mark_without_owner_convicts_nothing() {
    let image = Image::new();
    image.add(300, &Entry { limits: limits(1), ..PLAIN });
    assert_eq!(image.verdict(300), Some(Verdict::UnknownOwner));
    // The environment is too long to read: the tag may be behind the cut.
    let long = vec![b'x'; 200_000];
    image.add(301, &Entry { limits: limits(1), environ: &long, ..PLAIN });
    let host = image.host();
    let result = scan(&host, &ScanOptions::ALL);
    let process = |pid: u32| {
        result.tagged.iter().find(|process| process.identity.pid.as_u32() == pid).unwrap()
    };
    assert!(process(301).env.is_unreadable() && !process(300).env.is_unreadable());
    assert_eq!(result.unreadable, 1);
}

#[test]
fn odd_entries_are_read_or_passed_over() {
    let image = Image::new();
    let environ = env(200, 3_000, NS, &BOOT[..8]);
    for (index, comm) in
        [&b"a) R 1 (b"[..], b"\n", b" ", b"\xff\xfe", b"", b"x) Z 0 ("].iter().enumerate()
    {
        let pid = 4_194_000 + u32::try_from(index).unwrap();
        image.add(
            pid,
            &Entry { comm, limits: limits(1), environ: &environ, cmdline: b"", ..PLAIN },
        );
        assert_eq!(image.verdict(pid), Some(Verdict::Dead));
    }
    // Huge and odd command lines.
    let huge = vec![b'a'; 2 << 20];
    image.add(4_194_100, &Entry { cmdline: &huge, environ: &environ, ..PLAIN });
    image.add(4_194_101, &Entry { cmdline: b"\xff\0\xfe", environ: &environ, ..PLAIN });
    // Names that are not processes, and processes that vanish or are incomplete.
    for name in ["0", "-1", "01", "4194304x", "99999999999"] {
        std::fs::create_dir(image.path(name)).unwrap();
    }
    std::fs::create_dir(image.path("4000")).unwrap();
    image.add(4_001, &Entry { limits: limits(1), ..PLAIN });
    std::fs::remove_file(image.path("4001/stat")).unwrap();
    image.add(4_002, &Entry { limits: limits(1), state: 'Z', environ: &environ, ..PLAIN });
    let host = image.host();
    let result = scan(&host, &ScanOptions::ALL);
    assert!(result.is_complete(), "{:?}", result.incomplete);
    let pids: Vec<_> =
        result.tagged.iter().map(|process| process.identity.pid.as_u32()).collect();
    assert!(pids.contains(&4_194_100) && pids.contains(&4_194_101) && pids.contains(&4_194_005));
    assert!(
        !pids.contains(&4_001) && !pids.contains(&4_002) && !pids.contains(&4_000),
        "{pids:?}"
    );
    assert!(result.tagged.iter().all(|process| process.command.chars().count() <= 200));
    assert_eq!(result.vanished.len(), 1);
}

#[test]
fn what_cannot_be_read_makes_the_pass_incomplete() {
    let image = Image::new();
    image.add(300, &Entry { limits: limits(1), ..PLAIN });
    std::fs::write(image.path("300/stat"), "nonsense").unwrap();
    let result = scan(&image.host(), &ScanOptions::ALL);
    assert_eq!(result.incomplete, [Incomplete::Unreadable]);
}

#[test]
fn a_proc_that_hides_processes_is_incomplete() {
    if rustix::process::geteuid().is_root() {
        // Root is believed to see everything if it sees pid 1.
        let image = Image::new();
        std::fs::remove_dir_all(image.path("1")).unwrap();
        hide(&image);
        assert_eq!(scan(&image.host(), &ScanOptions::ALL).incomplete, [Incomplete::Hidepid]);
    } else {
        let image = Image::new();
        hide(&image);
        assert_eq!(scan(&image.host(), &ScanOptions::ALL).incomplete, [Incomplete::Hidepid]);
    }

    fn hide(image: &Image) {
        let line =
            format!("22 1 0:21 / {} rw - proc proc rw,hidepid=2\n", image.dir.path.display());
        std::fs::write(image.path("100/mountinfo"), line).unwrap();
    }
}

#[test]
fn no_proc_or_a_foreign_one_is_refused() {
    let image = Image::new();
    std::fs::remove_file(image.path("self")).unwrap();
    assert!(Host::image(&image.dir.path, Pid::new(ME).unwrap(), 0).is_err());
    symlink("77", image.path("self")).unwrap();
    assert!(
        Host::image(&image.dir.path, Pid::new(ME).unwrap(), 0).is_err(),
        "another namespace's /proc"
    );
    assert!(Host::image(&image.path("nowhere"), Pid::new(ME).unwrap(), 0).is_err());
}

#[test]
fn pid_1_self_ancestors_and_kernel_threads_are_refused() {
    let image = Image::new();
    let environ = env(200, 100, NS, &BOOT[..8]);
    image.add(50, &Entry { environ: &environ, ..PLAIN });
    std::fs::remove_dir_all(image.path("100")).unwrap();
    std::fs::remove_dir_all(image.path("1")).unwrap();
    image.add(1, &Entry { parent: 0, environ: &environ, ..PLAIN });
    image.add(100, &Entry { parent: 50, environ: &environ, ..PLAIN });
    std::fs::create_dir(image.path("100/ns")).unwrap();
    symlink(format!("pid:[{NS}]"), image.path("100/ns/pid")).unwrap();
    for pid in [1, 50, 100] {
        assert_eq!(image.verdict(pid), Some(Verdict::Refused), "{pid}");
    }
    // Their siblings belong to a run that this process belongs to.
    image.add(300, &Entry { environ: &environ, ..PLAIN });
    assert_eq!(image.verdict(300), Some(Verdict::OwnOuterRun));
}

#[test]
fn a_marked_pass_opens_nothing_of_the_unmarked() {
    let image = Image::new();
    let environ = env(200, 3_000, NS, &BOOT[..8]);
    image.add(300, &Entry { environ: &environ, ..PLAIN });
    image.add(301, &Entry { limits: limits(1), ..PLAIN });
    let host = image.host();
    let options = ScanOptions { carriers: Carriers::MarkOnly, ..ScanOptions::ALL };
    let pids: Vec<_> =
        scan(&host, &options).tagged.iter().map(|process| process.identity.pid.get()).collect();
    assert_eq!(pids, [301]);
    assert_eq!(leash_core::count_marked(&host).unwrap(), (4, 1));
}

#[test]
fn a_real_owners_state_is_read_from_the_kernel() {
    let host = Host::current().unwrap();
    let mut vm = Vm::start();
    let state = |owner: &Owner| leash_core::OwnerRef::of_record(owner).unwrap().state(&host);
    assert_eq!(state(&vm.owner), OwnerState::Alive);
    let reused = Owner { start_ticks: vm.owner.start_ticks - 2, ..vm.owner.clone() };
    assert_eq!(state(&reused), OwnerState::Gone);
    // An unreaped zombie has ended.
    vm.process.0.kill().unwrap();
    common::wait_until("its end", || state(&vm.owner) == OwnerState::Gone);
    vm.process.0.wait().unwrap();
    assert_eq!(state(&vm.owner), OwnerState::Gone);
}
