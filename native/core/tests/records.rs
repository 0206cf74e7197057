//! Run directories, records and their locks, on a real file system.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows only #[test] functions as tests"
)]

mod common;

use common::*;
use leash_core::record::Corrupt;
use leash_core::report::RecordPresence;
use leash_core::{About, ErrorKind, Host, Lock, RecordedAttachment, RunDir, RunLock, Verdict};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

fn about() -> About {
    About {
        app: "my_app".into(),
        node: "n@h".into(),
        version: "0.1.0".into(),
        ..About::default()
    }
}

fn host() -> Host {
    Host::current().unwrap()
}

#[test]
fn a_run_directory_is_made_private_and_anything_else_is_refused() {
    let dir = TestDir::new();
    let made = dir.path.join("runs");
    RunDir::open(&made).unwrap();
    assert_eq!(std::fs::metadata(&made).unwrap().permissions().mode() & 0o777, 0o700);
    RunDir::open(&made).unwrap();

    let kind = |path| {
        let error = RunDir::open(path).unwrap_err();
        assert_eq!(error.subject(), path.to_str());
        error.kind()
    };
    let link = dir.path.join("link");
    symlink(&made, &link).unwrap();
    assert_eq!(kind(&link), ErrorKind::Symlink);
    let dangling = dir.path.join("dangling");
    symlink("nowhere", &dangling).unwrap();
    assert_eq!(kind(&dangling), ErrorKind::Symlink);
    let file = dir.path.join("file");
    std::fs::write(&file, "").unwrap();
    assert_eq!(kind(&file), ErrorKind::NotADirectory);
    for mode in [0o770, 0o701, 0o755, 0o777] {
        std::fs::set_permissions(&made, std::fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(kind(&made), ErrorKind::LoosePermissions);
    }
    let missing = dir.path.join("a/b");
    assert_eq!(RunDir::open(&missing).unwrap_err().errno_name().as_deref(), Some("enoent"));
    std::fs::set_permissions(&made, std::fs::Permissions::from_mode(0o700)).unwrap();
    if std::os::unix::fs::chown(&made, Some(65_534), None).is_ok()
        && rustix::process::geteuid().is_root()
    {
        assert_eq!(kind(&made), ErrorKind::ForeignOwner);
    }
}

#[test]
fn a_record_is_locked_as_long_as_its_run_lives() {
    let dir = TestDir::new();
    let runs = dir.open();
    let lock = RunLock::create_any(&runs, &host(), &about()).unwrap();
    let path = dir.record_path(lock.run());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let file = runs.record(lock.run()).unwrap().unwrap();
    assert_eq!(file.lock, Lock::Held);
    let record = file.record.unwrap();
    assert_eq!((record.owner.pid, &record.about), (std::process::id(), &about()));

    assert!(RunLock::create(&runs, &host(), lock.run(), &about()).unwrap_err().is_exists());
    let command = vec![b"w".to_vec(), vec![0xff, 0xfe]];
    lock.append_command(Some(3), "--id", &command).unwrap();
    let record = runs.record(lock.run()).unwrap().unwrap().record.unwrap();
    assert_eq!((record.commands[0].worker, &record.commands[0].command), (Some(3), &command));

    let run = lock.run();
    lock.release();
    assert_eq!(runs.record(run).unwrap().unwrap().lock, Lock::Free);
    drop(lock);
    let lock = RunLock::create_any(&runs, &host(), &about()).unwrap();
    std::os::unix::net::UnixListener::bind(dir.path.join(leash_core::socket_name(lock.run())))
        .unwrap();
    lock.drop_record().unwrap();
    lock.drop_record().unwrap();
    assert!(runs.record(lock.run()).unwrap().is_none());
    assert!(!lock.ensure().unwrap(), "what was dropped stays away");
    assert_eq!(std::fs::read_dir(&dir.path).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn a_lost_or_replaced_record_comes_back_locked() {
    let dir = TestDir::new();
    let made = dir.path.join("runs");
    let runs = RunDir::open(&made).unwrap();
    let lock = RunLock::create_any(&runs, &host(), &about()).unwrap();
    lock.append_command(None, "--id", &[b"w".to_vec()]).unwrap();
    let path = made.join(format!("{}.json", lock.run()));
    let text = std::fs::read(&path).unwrap();
    assert!(!lock.ensure().unwrap());
    let restored = || {
        assert!(lock.ensure().unwrap());
        assert!(!lock.ensure().unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), text);
        let file = RunDir::open(&made).unwrap().record(lock.run()).unwrap().unwrap();
        assert_eq!(file.lock, Lock::Held);
        assert_eq!(std::fs::read_dir(&made).unwrap().count(), 1);
    };
    std::fs::remove_file(&path).unwrap();
    restored();
    std::fs::copy(&path, made.join("copy")).unwrap();
    std::fs::rename(made.join("copy"), &path).unwrap();
    restored();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(7).unwrap();
    restored();
    std::fs::write(&path, vec![b'x'; text.len()]).unwrap();
    restored();
    std::fs::remove_file(&path).unwrap();
    symlink("/etc/passwd", &path).unwrap();
    restored();
    assert!(std::fs::metadata("/etc/passwd").unwrap().size() > 0);
    std::fs::remove_dir_all(&made).unwrap();
    restored();
    // A foreign file under our name must not be removed at the end.
    std::fs::write(made.join("copy"), "x").unwrap();
    std::fs::rename(made.join("copy"), &path).unwrap();
    lock.drop_record().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"x");
}

#[test]
fn a_record_holds_living_numbers_only_however_many_starts_there_were() {
    let dir = TestDir::new();
    let runs = dir.open();
    let lock = RunLock::create_any(&runs, &host(), &about()).unwrap();
    let path = dir.record_path(lock.run());
    let command: Vec<_> = (0..10).map(|_| b"an argument of some length".to_vec()).collect();
    lock.append_command(Some(7), "--id", &[b"kept".to_vec()]).unwrap();
    let mut largest = 0;
    for start in 0..15_000_u16 {
        let worker = 100 + start % 32_000;
        lock.append_command(Some(worker), "--id", &command).unwrap();
        lock.append_attachment(&RecordedAttachment { worker, pid: 5, start_ticks: 6 }).unwrap();
        lock.forget(&[worker]).unwrap();
        largest = largest.max(std::fs::metadata(&path).unwrap().len());
    }
    assert!(largest < 12 << 10, "{largest}");
    let file = runs.record(lock.run()).unwrap().unwrap();
    assert_eq!(file.lock, Lock::Held, "the lock goes with the name");
    let record = file.record.unwrap();
    assert_eq!(record.commands[0].command, [b"kept".to_vec()]);
    assert!(!lock.ensure().unwrap(), "what was written is known");
    assert_eq!(std::fs::read_dir(&dir.path).unwrap().count(), 1, "no temporary file is left");
    // The lines of living workers are written again in their order: the youngest line is about
    // the youngest process.
    lock.append_command(Some(3), "--id", &[b"younger".to_vec()]).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(lock.ensure().unwrap());
    let commands = runs.record(lock.run()).unwrap().unwrap().record.unwrap().commands;
    assert_eq!(
        commands.iter().map(|command| command.worker).collect::<Vec<_>>(),
        [Some(7), Some(3)]
    );
}

#[test]
fn concurrent_starts_never_share_an_id() {
    let dir = TestDir::new();
    let runs = dir.open();
    let run = leash_core::generate_run_id().unwrap();
    let won = std::thread::scope(|scope| {
        let tries: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| RunLock::create(&runs, &host(), run, &about())))
            .collect();
        let locks: Vec<_> = tries.into_iter().map(|thread| thread.join().unwrap()).collect();
        locks.iter().filter(|lock| lock.is_ok()).count()
    });
    assert_eq!(won, 1);
}

#[test]
fn what_is_not_to_be_believed_says_why() {
    let dir = TestDir::new();
    let runs = dir.open();
    let vm = Vm::start();
    let path = vm.record(&dir, "test");
    let whole = std::fs::read(&path).unwrap();
    let why = || runs.record(vm.run).unwrap().unwrap().record.err();
    assert_eq!(why(), None);
    std::fs::write(&path, "").unwrap();
    assert_eq!(why(), Some(Corrupt::Empty));
    std::fs::write(&path, &whole[..40]).unwrap();
    assert_eq!(why(), Some(Corrupt::Malformed));
    std::fs::write(&path, [0xff; 100]).unwrap();
    assert_eq!(why(), Some(Corrupt::Malformed));
    std::fs::write(&path, &whole).unwrap();
    for mode in [0o602, 0o620, 0o666] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(why(), Some(Corrupt::LoosePermissions));
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let other = dir.record_path(Vm::start().run);
    std::fs::rename(&path, &other).unwrap();
    assert_eq!(runs.records().files[0].record, Err(Corrupt::OtherRun));
    symlink(&other, &path).unwrap();
    assert_eq!(why(), Some(Corrupt::Symlink));
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert_eq!(why(), Some(Corrupt::NotAFile));
    std::fs::remove_dir(&path).unwrap();
    let mut long = whole.clone();
    long.resize(5 << 20, b'x');
    std::fs::write(&path, &long).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(why(), None, "the head says whose it is, whatever follows it");
    std::fs::write(dir.path.join("S59M65F.json"), "").unwrap();
    std::fs::write(dir.path.join("s59m65ff.json"), "").unwrap();
    std::fs::write(dir.path.join("0000000.json"), "").unwrap();
    assert_eq!(runs.records().files.len(), 2, "only run ids name records");
}

#[test]
fn a_corrupt_record_kills_nothing_and_stays() {
    isolated("a_corrupt_record_kills_nothing_and_stays", || {
        let dir = TestDir::new();
        let vm = Vm::dead(&dir);
        let path = dir.record_path(vm.run);
        let mut by_mark = sleeper(&mut vm.marked(1, "sleep"));
        let whole = std::fs::read(&path).unwrap();
        let mut damage: Vec<Box<dyn Fn()>> = vec![
            Box::new(|| std::fs::write(&path, "").unwrap()),
            Box::new(|| std::fs::write(&path, &whole[..60]).unwrap()),
        ];
        damage.push(Box::new(|| {
            std::fs::write(&path, &whole).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        }));
        damage.push(Box::new(|| {
            std::fs::rename(&path, dir.path.join("elsewhere")).unwrap();
            symlink("elsewhere", &path).unwrap();
        }));
        for damage in damage {
            damage();
            let report = sweep(&dir);
            assert!(by_mark.is_alive(), "{report:?}");
            assert_eq!(found(&report, by_mark.pid()).unwrap().verdict, Verdict::UnknownOwner);
            assert_eq!(report.runs[0].record, RecordPresence::Corrupt);
            assert!(
                std::fs::symlink_metadata(&path).is_ok() && report.records_dropped.is_empty()
            );
        }
        // The environment alone suffices.
        let mut by_env = sleeper(&mut vm.worker(2, "sleep"));
        sweep(&dir);
        assert!(!by_env.is_alive());
        assert!(std::fs::symlink_metadata(&path).is_ok());
    });
}

#[test]
fn a_record_of_another_boot_is_dropped_and_kills_nothing() {
    isolated("a_record_of_another_boot_is_dropped_and_kills_nothing", || {
        let dir = TestDir::new();
        let mut vm = Vm::start();
        vm.owner.boot_id = "00000000-0000-0000-0000-000000000000".into();
        // The number of its owner belongs to a living process of this boot.
        vm.record(&dir, "test");
        let report = sweep(&dir);
        assert!(vm.process.is_alive());
        assert_eq!(report.runs[0].verdict, Verdict::Stale);
        assert_eq!(report.records_dropped.len(), 1);

        vm.record(&dir, "test");
        let mut marked = sleeper(&mut vm.marked(1, "sleep"));
        let report = sweep(&dir);
        assert!(marked.is_alive() && report.records_dropped.is_empty(), "{report:?}");
        assert_eq!(found(&report, marked.pid()).unwrap().verdict, Verdict::UnknownOwner);
    });
}

#[test]
fn an_owner_in_another_pid_namespace_gets_no_verdict() {
    isolated("an_owner_in_another_pid_namespace_gets_no_verdict", || {
        let dir = TestDir::new();
        let mut vm = Vm::start();
        vm.owner.pid_ns += 1;
        vm.record(&dir, "test");
        vm.process.die();
        let mut target = sleeper(&mut vm.worker(1, "sleep"));
        let report = sweep(&dir);
        assert!(target.is_alive() && report.records_dropped.is_empty());
        assert_eq!(report.runs[0].verdict, Verdict::ForeignNamespace);
    });
}

#[test]
fn only_this_applications_runs_when_asked_so() {
    isolated("only_this_applications_runs_when_asked_so", || {
        let dir = TestDir::new();
        let mut runs: Vec<_> = ["mine", "other"]
            .map(|app| {
                let mut vm = Vm::start();
                vm.record(&dir, app);
                vm.process.die();
                let worker = sleeper(&mut vm.worker(1, "sleep"));
                (vm, worker)
            })
            .into();
        let kind = leash_core::CleanupKind::Sweep {
            own_run: None,
            app: Some("mine".into()),
            mode: leash_core::Mode::End,
        };
        let report = leash_core::Cleanup::new(spec(&dir.path, kind)).unwrap().run();
        assert!(!runs[0].1.is_alive() && runs[1].1.is_alive());
        assert_eq!(report.records_dropped, [runs[0].0.run.to_string()]);
    });
}
