//! The state of a process's threads.

use rustix::io::Errno;
use rustix::process::Pid;

use crate::os::proc_file::Proc;

/// The state of a process's threads, all of them taken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Threads {
    /// All have ended.
    Ended,
    /// Those that live are stopped.
    Stopped,
    /// One waits in the kernel and reacts to no signal, and none runs.
    Blocked,
    /// One may run, or be in the middle of a fork.
    Run,
}

/// Looks at each thread by itself. The first one may have ended while others go on, or be stopped
/// while another still forks.
pub(crate) fn threads(proc: &Proc, process: Pid) -> Threads {
    let gone = |errno| matches!(errno, Errno::SRCH | Errno::NOENT);
    let mut all = Threads::Ended;
    let listed = proc.each_thread(process, &mut |thread| {
        all = all.max(match proc.stat_of_thread(process, thread) {
            Ok(stat) if !stat.lives() => Threads::Ended,
            Ok(stat) if stat.stopped() => Threads::Stopped,
            Ok(stat) if stat.blocked() => Threads::Blocked,
            Err(errno) if gone(errno) => Threads::Ended,
            _ => Threads::Run,
        });
    });
    match listed {
        Err(errno) if !gone(errno) => Threads::Run,
        _ => all,
    }
}
