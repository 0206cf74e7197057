//! Workers that are hard to end. This is not a test: if the environment variable is set, the test
//! binary is one of these workers.
//!
//! Every process here ends by itself: each has an alarm.

pub const ROLE: &str = "LEASH_ADVERSARY";

/// The seconds after which every process that is left ends.
const ALARM: u32 = 40;

#[test]
fn adversary() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let (role, number) = role.split_once(':').unwrap_or((&role, "0"));
    let number: u32 = number.parse().unwrap();
    arm();
    match role {
        "chain" => chain(number),
        "fan" => fan(number),
        "burst" => burst(number),
        "hoppers" => hoppers(number, false),
        "scattered-hoppers" => hoppers(number, true),
        "bomb" => bomb(false),
        "scattered-bomb" => bomb(true),
        "clone-parent" => clone_parent(),
        "exit-signal" => odd_exit_signal(),
        "subreaper" => subreaper(),
        "stopped" => stopped(number),
        "threads" => threads(),
        "vfork" => vforking(),
        "leaderless" => leaderless(),
        "counts" => counts(),
        "forks-slowly" => forks_slowly(number),
        "sheds" => sheds(number),
        "vm" => crate::served::vm_role(),
        other => panic!("{other}"),
    }
}

fn arm() {
    // SAFETY: only a number.
    unsafe { libc::alarm(ALARM) };
}

/// Forks. A child does not inherit its parent's alarm (alarm(2)), so each gets its own.
fn fork() -> i32 {
    // SAFETY: the child calls async-signal-safe functions only and never returns into the test
    // harness.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        arm();
    }
    pid
}

fn pause() -> ! {
    loop {
        // SAFETY: no arguments.
        unsafe { libc::pause() };
    }
}

fn exit() -> ! {
    // SAFETY: only a number.
    unsafe { libc::_exit(0) }
}

fn ignore(signal: i32) {
    // SAFETY: no handler is installed.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Starts a chain of so many levels, each a child of the one before.
fn chain(levels: u32) -> ! {
    ignore(libc::SIGTERM);
    for _ in 0..levels {
        if fork() != 0 {
            pause();
        }
    }
    pause()
}

fn fan(count: u32) -> ! {
    for _ in 0..count {
        if fork() == 0 {
            pause();
        }
    }
    pause()
}

/// Starts orphans, which are children of the shim and all end in the same instant.
fn burst(count: u32) -> ! {
    let mut gate = [0; 2];
    // SAFETY: the array has room for two descriptors.
    unsafe { libc::pipe(gate.as_mut_ptr()) };
    let [read, write] = gate;
    for _ in 0..count {
        if fork() == 0 {
            if fork() != 0 {
                exit();
            }
            // SAFETY: descriptors of this process, a buffer of one byte.
            unsafe {
                libc::close(write);
                libc::read(read, [0u8; 1].as_mut_ptr().cast(), 1);
            }
            exit();
        }
        // SAFETY: no status is asked for.
        unsafe { libc::wait(std::ptr::null_mut()) };
    }
    exit()
}

/// Starts a session of its own if `apart`. A signal to the worker's group does not reach it.
fn scatter(apart: bool) {
    if apart {
        // SAFETY: no arguments.
        unsafe { libc::setsid() };
    }
}

/// Starts processes that live as long as a fork takes.
fn hoppers(count: u32, apart: bool) -> ! {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(15);
    for _ in 0..count {
        if fork() == 0 {
            ignore(libc::SIGTERM);
            while std::time::Instant::now() < end {
                // A failed fork is tried again.
                if fork() > 0 {
                    exit();
                }
                scatter(apart);
            }
            exit();
        }
    }
    pause()
}

fn bomb(apart: bool) -> ! {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(15);
    ignore(libc::SIGTERM);
    ignore(libc::SIGCHLD);
    while std::time::Instant::now() < end {
        if fork() == 0 {
            scatter(apart);
        }
    }
    exit()
}

fn clone(flags: i32) -> i64 {
    // SAFETY: as for `fork`; no stack is given, so the child has a copy of this one.
    let pid = unsafe { libc::syscall(libc::SYS_clone, i64::from(flags), 0i64, 0i64, 0i64, 0i64) };
    if pid == 0 {
        arm();
        pause();
    }
    pid
}

/// Starts a child whose parent is the shim.
fn clone_parent() -> ! {
    ignore(libc::SIGTERM);
    assert!(clone(libc::CLONE_PARENT | libc::SIGCHLD) > 0);
    exit()
}

/// Starts children that do not announce their end by SIGCHLD, and orphans them.
fn odd_exit_signal() -> ! {
    ignore(libc::SIGTERM);
    assert!(clone(libc::SIGUSR1) > 0);
    assert!(clone(0) > 0);
    exit()
}

/// Starts so many children, each by a slow fork: the kernel copies the limits at the beginning of
/// a fork, and the pages after them.
fn forks_slowly(count: u32) -> ! {
    let pages = vec![1u8; 256 << 20];
    // SAFETY: a byte is written from one.
    unsafe { libc::write(1, [WAITING].as_ptr().cast(), 1) };
    for _ in 0..count {
        if fork() == 0 {
            pause();
        }
    }
    std::hint::black_box(&pages);
    pause()
}

/// Lowers the soft limit, which held the worker's number. So many levels below, a process
/// replaces its child on and on.
fn sheds(levels: u32) -> ! {
    ignore(libc::SIGTERM);
    // SAFETY: a valid struct; a child of ours that is not reaped; no status is asked for.
    unsafe {
        let mut limits = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_LOCKS, &raw mut limits);
        limits.rlim_cur = 0;
        libc::setrlimit(libc::RLIMIT_LOCKS, &raw const limits);
        for _ in 0..levels {
            if fork() != 0 {
                pause();
            }
        }
        loop {
            let child = fork();
            if child == 0 {
                pause();
            }
            libc::kill(child, libc::SIGKILL);
            libc::wait(std::ptr::null_mut());
        }
    }
}

/// The bytes that `counts` writes for each signal, and before the first.
pub const SIGNALLED: u8 = 1;
pub const WAITING: u8 = 2;

/// The first of the signals that queue (signal(7)), so that no signal merges into another.
pub const QUEUED: i32 = 34;

/// Starts two children that report each signal. The mask is set in them, because here it would be
/// that of one thread of several.
fn counts() -> ! {
    if fork() != 0 {
        pause();
    }
    fork();
    // SAFETY: the set lives across the calls; a byte is written from one.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, QUEUED);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        libc::write(1, [WAITING].as_ptr().cast(), 1);
        loop {
            if libc::sigwaitinfo(&raw const set, std::ptr::null_mut()) == QUEUED {
                libc::write(1, [SIGNALLED].as_ptr().cast(), 1);
            }
        }
    }
}

/// Becomes an orphan that waits for one child after the other in the kernel, as after vfork(2).
fn vforking() -> ! {
    if fork() != 0 {
        exit();
    }
    for _ in 0..100 {
        let flags = i64::from(libc::CLONE_VFORK | libc::SIGCHLD);
        // SAFETY: without CLONE_VM the child has a copy of everything.
        if unsafe { libc::syscall(libc::SYS_clone, flags, 0i64, 0i64, 0i64, 0i64) } == 0 {
            arm();
            // SAFETY: only a number.
            unsafe { libc::usleep(20_000) };
            exit();
        }
    }
    // SAFETY: strings that end with null, and a null.
    unsafe {
        libc::execl(
            c"/bin/sleep".as_ptr(),
            c"sleep".as_ptr(),
            c"45".as_ptr(),
            std::ptr::null::<libc::c_char>(),
        )
    };
    exit()
}

/// Becomes an orphan that looks like a zombie, since its first thread has ended. One of its other
/// threads waits in the kernel as after vfork(2), so a stop signal does not reach the last one.
/// That one forks on and on, and slowly.
fn leaderless() -> ! {
    let mut gate = [0; 2];
    // SAFETY: the array has room for two descriptors.
    unsafe { libc::pipe(gate.as_mut_ptr()) };
    let [read, write] = gate;
    if fork() != 0 {
        // SAFETY: a descriptor of this process, a buffer of one byte.
        unsafe { libc::read(read, [0u8; 1].as_mut_ptr().cast(), 1) };
        exit();
    }
    let pages = vec![1u8; 256 << 20];
    std::thread::spawn(|| {
        let flags = i64::from(libc::CLONE_VFORK | libc::SIGCHLD);
        // SAFETY: without CLONE_VM the child has a copy of everything.
        if unsafe { libc::syscall(libc::SYS_clone, flags, 0i64, 0i64, 0i64, 0i64) } == 0 {
            arm();
            pause();
        }
    });
    std::thread::spawn(move || {
        let is_waiting = |thread: &std::fs::DirEntry| {
            std::fs::read_to_string(thread.path().join("stat"))
                .is_ok_and(|stat| stat.contains(") D "))
        };
        let ended =
            || std::fs::read_to_string("/proc/self/stat").is_ok_and(|stat| stat.contains(") Z "));
        while !ended()
            || !std::fs::read_dir("/proc/self/task").unwrap().flatten().any(|it| is_waiting(&it))
        {
            std::thread::yield_now();
        }
        // SAFETY: a byte is written from one.
        unsafe { libc::write(write, [WAITING].as_ptr().cast(), 1) };
        for _ in 0..200 {
            if fork() == 0 {
                pause();
            }
        }
        std::hint::black_box(&pages);
        pause()
    });
    // SAFETY: only this thread ends, and nothing of its stack is lent to the others.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!()
}

/// Takes every orphan below it, so that the shim meets them late.
fn subreaper() -> ! {
    // SAFETY: only numbers.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    ignore(libc::SIGTERM);
    for _ in 0..10 {
        if fork() == 0 {
            if fork() != 0 {
                exit();
            }
            // SAFETY: no arguments.
            unsafe { libc::setsid() };
            ignore(libc::SIGTERM);
            pause();
        }
    }
    pause()
}

fn stopped(count: u32) -> ! {
    for _ in 0..count {
        if fork() == 0 {
            ignore(libc::SIGTERM);
            loop {
                // SAFETY: only a number.
                unsafe { libc::raise(libc::SIGSTOP) };
            }
        }
    }
    ignore(libc::SIGTERM);
    pause()
}

/// Starts a child of a second thread. It is in that thread's list of children only.
fn threads() -> ! {
    ignore(libc::SIGTERM);
    std::thread::spawn(|| {
        if fork() == 0 {
            // SAFETY: only numbers.
            unsafe {
                libc::signal(libc::SIGTERM, libc::SIG_DFL);
                libc::setsid();
            }
            pause();
        }
        pause()
    });
    pause()
}
