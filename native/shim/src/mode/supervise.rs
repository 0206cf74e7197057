//! One tree: its start, the events that reach it, and the actions that the ladder says are due.

use leash_tag::signal;
use leash_tag::stop_steps::SignalScope;
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, getpgid, getpgrp};

use super::events::EventSources;
use super::keep_remaining;
use crate::cli::config::{Config, Stream};
use crate::os::child::Child;
use crate::os::exit_status::ExitStatus;
use crate::os::proc_file::Proc;
use crate::os::signals::Pending;
use crate::os::vectors::Vectors;
use crate::os::wait::{self, Waited};
use crate::os::{cgroup, clock, descriptors, process, signals};
use crate::out::messages;
use crate::out::report::Report;
use crate::out::stage::{Failed, Stage};
use crate::start::prepare;
use crate::start::spawn::{self, WorkerLaunch};
use crate::stop::escalation::Escalation;
use crate::stop::ladder::{Action, Cause};
use crate::tree::children::{Children, Leader};
use crate::tree::marking::TreeTag;
use crate::tree::walk::{self, Order, Visited, Walked};

/// If no event comes for this long, the worker is one that stays.
const SETTLE_MS: u64 = 20;

/// The supervisor of one tree.
pub(crate) struct Supervisor<'a> {
    escalation: Escalation<'a>,
    sources: EventSources,
    /// The worker, with the stack that it uses until its exec.
    child: Child,
    children: Children,
    /// The worker's process group. In the foreground it is the shim's, unless the worker has made
    /// its own.
    group: Pid,
    /// The control group of the tree.
    cgroup: Option<OwnedFd>,
    /// The other end of an open stdin.
    stdin: Option<OwnedFd>,
    /// The worker has been executed.
    started: bool,
    /// The worker's end is reported together with the end of its tree.
    exit_unreported: bool,
    /// No event came for [`SETTLE_MS`], and the file that the end needs has been opened.
    settled: bool,
}

/// Prepares the shim and starts the worker.
///
/// # Errors
///
/// The stage and errno of the failure; no worker was started.
pub(crate) fn begin<'a>(
    vectors: Vectors,
    config: &'a Config<'static>,
    report: Report<'a>,
) -> Result<Supervisor<'a>, Failed> {
    let shim = process::own_pid();
    let mark = prepare::mark(config);
    let is_subreaper = process::become_subreaper();
    if !config.foreground {
        // EPERM: the shim leads a group already, as every program that a VM starts does.
        let _ = rustix::process::setsid();
    }

    let signals = signals::signal_fd(u64::MAX).map_err(|errno| (Stage::Pipe, errno))?;
    let proc = Proc::open(shim);
    let owner = match prepare::owner(config.owner, proc.as_ref()) {
        Err(_) if config.detach => None,
        owner => owner.map_err(|errno| (Stage::OwnerGone, errno))?,
    };
    let mut sources = EventSources::new(signals, config, owner);
    // If leash or owner are gone already, no worker is started. For a worker that outlives them,
    // the leash decides. Its start is not over, so its caller may have asked again.
    let is_let_go = if config.detach { sources.leash_let_go() } else { sources.let_go_within(0) };
    if is_let_go {
        return Err((Stage::OwnerGone, Errno::PIPE));
    }
    report.ready(shim, mark.code, mark.errno, sources.flags(is_subreaper));

    let pipe = |flags| rustix::pipe::pipe_with(flags).map_err(|errno| (Stage::Pipe, errno));
    let open = (config.stdin == Stream::Open).then(|| pipe(PipeFlags::CLOEXEC)).transpose()?;
    let (theirs, stdin) = open.unzip();
    let (failed, failure) = pipe(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let cgroup = config.cgroup.map(cgroup::open).transpose();
    let cgroup = cgroup.map_err(|errno| (Stage::Cgroup, errno))?;
    let launch = WorkerLaunch {
        config: *config,
        vectors,
        shim,
        stdin: theirs.as_ref().map(AsRawFd::as_raw_fd),
        failure: failure.as_raw_fd(),
    };
    let child = spawn::start(launch, cgroup.as_ref().map(AsFd::as_fd))?;
    // The worker's ends must belong to the worker alone, or its peer would never see the end of
    // them.
    drop((theirs, failure));
    config.workers_descriptors().for_each(descriptors::close);
    prepare::let_go_of_streams(config);
    // A supervisor must not keep a file system busy.
    let _ = rustix::process::chdir(c"/");

    sources.exec = Some(failed);
    Ok(Supervisor {
        escalation: Escalation::new(config, vectors, report),
        sources,
        group: if config.foreground { getpgrp() } else { child.pid() },
        children: Children::new(proc, child.pid()),
        child,
        cgroup,
        stdin,
        started: false,
        exit_unreported: false,
        settled: false,
    })
}

impl Supervisor<'_> {
    /// Supervises until nothing is left. Returns the exit status.
    pub(crate) fn run(&mut self) -> u8 {
        loop {
            let more = self.reap();
            let now = if self.escalation.ladder.is_timed() { clock::now_ms() } else { 0 };
            let leader_lives = self.children.leader() == Leader::Lives;
            match self.escalation.next(now, leader_lives) {
                Action::Signal { number, scope, .. } => {
                    self.signal_scope(&[number, signal::CONT], scope);
                }
                Action::SignalRemaining { number, scope } => self.signal_remaining(number, scope),
                // The VM closes its own end when it hears of the step, and a VM that is gone has
                // no end any more. By hand, only an open stdin is closed, since any other does
                // not belong to the shim.
                Action::CloseStdin { .. } => self.stdin = None,
                Action::RunCommand { .. } => {}
                Action::Kill { stop_first, .. } => self.kill_pass(stop_first),
                Action::Wait(_) if more => self.wait(Some(0)),
                Action::Wait(until) => {
                    self.wait(until.map(|until| until.saturating_sub(clock::now_ms())));
                }
                Action::Finish if self.stays() => self.stay(),
                Action::Finish => return self.finish(),
            }
        }
    }

    // Events

    /// Waits for an event, and handles what has happened.
    fn wait(&mut self, ms: Option<u64>) {
        let settles = ms.is_none() && !self.settled;
        let events = self.sources.wait(if settles { Some(SETTLE_MS) } else { ms });
        if settles && !events.any() {
            self.settled = true;
            // If the open fails, it is tried again when the file is needed.
            let _ = self.children.proc().map(Proc::hold_children);
        }
        if events.signals {
            for signal in self.sources.take_signals() {
                self.signalled(signal);
            }
        }
        if events.exec {
            self.take_exec();
        }
        if events.requests {
            while let Some(request) = self.sources.take_request() {
                if let Some((number, scope)) = self.escalation.requested(request) {
                    self.signal_scope(&[number], scope);
                }
            }
        }
        if let Some(cause) = self.sources.drop_ended(events) {
            self.let_go(cause);
        }
    }

    /// Handles the end of leash or owner. A detached tree goes on.
    fn let_go(&mut self, cause: Cause) {
        if !self.escalation.config.detach {
            // The stdin ends as if the VM had held the other end of the pipe and had gone.
            self.stdin = None;
            self.escalation.ladder.end(cause, clock::now_ms());
        }
    }

    /// Handles a signal to the shim. If it is not for the shim, the worker gets it.
    fn signalled(&mut self, signal: Pending) {
        // SIGCHLD says that a child ended or stopped. SIGURG says that a child ended before its
        // exec, if the code is above 0, which only the kernel sends (rt_sigqueueinfo(2)).
        if signal.number == signal::CHLD || (signal.number == signal::URG && signal.code > 0) {
            self.stop_with_worker();
            return;
        }
        let leashed = self.sources.leash.is_some();
        if !self.terminal_told_worker(signal)
            && self.escalation.signalled(signal, leashed)
            && self.children.leader() == Leader::Lives
        {
            let _ = signals::kill(self.children.pid(), signal.number);
        }
    }

    /// Returns whether the worker has got the signal as well. The terminal sends typed signals,
    /// and its changes of size, to a whole group. A terminal that hangs up ends the tree all the
    /// same.
    fn terminal_told_worker(&self, signal: Pending) -> bool {
        self.escalation.config.foreground
            && signal.is_from_kernel()
            && signal.number != signal::HUP
            && self.children.unreaped().is_some_and(|pid| getpgid(Some(pid)) == Ok(getpgrp()))
    }

    /// Stops the shim when the worker has stopped, since the shell looks at the shim and not at
    /// the worker. This does not happen if the VM may end meanwhile, or once the tree is being
    /// ended.
    fn stop_with_worker(&self) {
        let config = self.escalation.config;
        let by_hand = config.leash.is_none() && config.owner.is_none();
        if config.foreground
            && by_hand
            && !self.escalation.ladder.is_timed()
            && wait::has_stopped(self.children.pid())
        {
            signals::stop_for_the_shell();
        }
    }

    /// Handles the end of the start: the child's end of the pipe has closed, or the child says
    /// why it could not become the worker.
    fn take_exec(&mut self) {
        let mut message = [0u8; 3];
        let Some(fd) = self.sources.exec.as_ref() else { return };
        match (rustix::io::read(fd, &mut message), message) {
            (Err(Errno::INTR | Errno::AGAIN), _) => return,
            (Ok(3), [stage, high, low]) => {
                self.start_failed(stage, u16::from_be_bytes([high, low]))
            }
            // A child that is killed before exec closes the pipe too, before it is a zombie.
            _ if !self.child.executed() => {
                self.start_failed(Stage::Exec as u8, Errno::CANCELED.raw_os_error() as u16);
            }
            _ => {
                self.started = true;
                self.wipe_arguments();
                self.escalation.report.started(self.children.pid());
                self.escalation.ladder.started();
            }
        }
        self.sources.exec = None;
    }

    /// Wipes the arguments, which may hold a secret. The program can wipe them from its own
    /// command line only. A tree that outlives its VM needs them, to be found again.
    fn wipe_arguments(&self) {
        let config = self.escalation.config;
        if !config.detach && config.name.is_none() {
            self.escalation.vectors.wipe(config.command_index.saturating_add(1));
        }
    }

    /// Reports that the child did not become the worker. Without a VM, a person is told.
    fn start_failed(&mut self, stage: u8, errno: u16) {
        self.escalation.ladder.start_failed();
        self.escalation.report.start_failed(stage, errno);
        if self.escalation.config.report.is_none() {
            messages::start_failed(self.escalation.config.command.to_bytes(), stage, errno);
        }
    }

    /// Reaps the children that have ended, and tells the ladder and the VM. Returns whether there
    /// may be more.
    fn reap(&mut self) -> bool {
        // Once the child is reaped, nothing says any more whether it reached exec. Until then the
        // tree has no other process.
        if self.sources.exec.is_some() {
            if wait::peek(self.children.pid()) == Waited::NotYet {
                self.escalation.end_commands(false);
                return false;
            }
            self.take_exec();
            if self.sources.exec.is_some() {
                return true;
            }
        }
        let before = self.children.leader();
        let step = self.escalation.ladder.current();
        let commands = &mut self.escalation.commands;
        let found = self.children.reap(&mut |pid| commands.reap(pid));

        if let (Leader::Lives, Leader::Zombie(ended) | Leader::Reaped(ended)) =
            (before, self.children.leader())
        {
            if found.gone {
                self.exit_unreported = self.started;
            } else {
                if self.started {
                    self.escalation.report.exited(ended);
                }
                self.escalation.ladder.worker_ended(clock::now_ms());
            }
        }
        if let Some(index) = step {
            self.escalation.count(index, found.reaped - found.commands);
        }
        self.escalation.end_commands(found.gone);
        if found.gone {
            self.escalation.ladder.gone();
        } else if self.escalation.config.keep
            && self.started
            && self.escalation.ladder.lingers()
            && self.keep()
        {
            self.escalation.ladder.kept();
        }
        found.more
    }

    /// Marks the processes that the worker left, and below a warden this shim, as kept.
    fn keep(&self) -> bool {
        let tag =
            TreeTag { run: self.escalation.config.run, worker: self.escalation.config.worker };
        self.children.proc().is_some_and(|proc| keep_remaining::keep_all(proc, tag))
            && (!self.escalation.config.channel || keep_remaining::keep_self(tag))
    }

    /// Returns whether the shim has to stay for the processes that are kept. It has to below a
    /// warden. Otherwise the warden would have to tell orphans of a kept tree from those of a
    /// killed shim.
    fn stays(&self) -> bool {
        self.escalation.config.channel && self.escalation.ladder.cause() == Cause::Kept
    }

    /// Goes on with the processes that are kept, until none is left or a signal ends them. No
    /// caller waits for them any more.
    fn stay(&mut self) {
        let (Leader::Zombie(ended) | Leader::Reaped(ended)) = self.children.leader() else {
            return;
        };
        self.escalation.gone(ended, self.exit_unreported);
        self.children.let_leader_go();
        self.sources.let_go_of_channel();
        self.sources.owner = None;
        self.escalation.begin_anew();
        // The shim, which the VM has left behind, must not hold anything open that the VM had
        // open.
        prepare::silence([true; 3]);
    }

    // Actions

    /// Signals the processes of a scope. The signal of a step is followed by CONT, so that a
    /// stopped process can react to it.
    fn signal_scope(&mut self, signals: &[u8], scope: SignalScope) {
        match (scope, self.children.unreaped()) {
            (SignalScope::Tree, _) => self.signal_all(Order::ChildrenFirst, None, signals),
            (SignalScope::Leader, Some(leader)) => {
                for &number in signals {
                    let _ = signals::kill(leader, number);
                }
            }
            // The shim is in that group itself, so the group is never signalled by its number.
            (SignalScope::Group, Some(leader)) if self.escalation.config.foreground => {
                self.group = getpgid(Some(leader)).unwrap_or(self.group);
                self.signal_all(Order::ChildrenFirst, Some(self.group), signals);
            }
            (SignalScope::Group, Some(leader)) => {
                for &number in signals {
                    // Before its setsid, the child is in the shim's group and leads none.
                    if signals::kill_group(leader, number).is_err() {
                        let _ = signals::kill(leader, number);
                    }
                }
            }
            // Leader and group are gone; `signal_remaining` tells the others.
            (_, None) => {}
        }
    }

    /// Sends the step's signal to the rest of the tree once none of the addressed processes
    /// lives. Otherwise the ladder would wait for a daemon that left the group and was never told
    /// to end.
    fn signal_remaining(&mut self, number: u8, scope: SignalScope) {
        let mut addressed_live = false;
        if let (SignalScope::Group, Some(proc)) = (scope, self.children.proc()) {
            walk::walk_all(proc, Order::ParentsFirst, &mut |visited| {
                addressed_live |= !addressed_live && is_in(self.group, visited, proc);
            });
        }
        if !addressed_live {
            self.signal_all(Order::ChildrenFirst, None, &[number, signal::CONT]);
            self.escalation.ladder.all_signalled();
        }
    }

    /// Sends SIGKILL to the whole tree.
    fn kill_pass(&self, stop_first: bool) {
        if let Some(cgroup) = &self.cgroup {
            // Before 5.14 there is no such file, and descent alone has to do.
            let _ = cgroup::kill(cgroup);
        }
        if let Some(leader) = self.children.unreaped() {
            let _ = signals::kill_group(leader, signal::KILL);
            let _ = signals::kill(leader, signal::KILL);
        }
        if stop_first {
            self.signal_all(Order::ParentsFirst, None, &[signal::STOP]);
        }
        self.signal_all(Order::ChildrenFirst, None, &[signal::KILL]);
    }

    /// Signals all descendants, or those in one process group. Without `/proc` it signals direct
    /// children only, and their children become the shim's as they die.
    fn signal_all(&self, order: Order, group: Option<Pid>, signals: &[u8]) {
        let walked = self.children.proc().is_some_and(|proc| {
            walk::walk_all(proc, order, &mut |visited| {
                if group.is_none_or(|group| is_in(group, visited, proc)) {
                    visited.signal_all(signals);
                }
            }) != Walked::Nothing
        });
        if !walked {
            wait::each_child_by_number(&mut |pid| {
                if group.is_none_or(|group| getpgid(Some(pid)) == Ok(group)) {
                    Visited::child(pid).signal_all(signals);
                }
            });
        }
    }

    /// Reports the end of the tree. Returns the worker's exit status.
    fn finish(&self) -> u8 {
        let ended = match self.children.leader() {
            Leader::Zombie(ended) | Leader::Reaped(ended) => ended,
            // ECHILD came, but no end of the worker was seen: the kernel was made to reap for the
            // shim.
            Leader::Lives => ExitStatus::KILLED_UNSEEN,
        };
        self.escalation.gone(ended, self.exit_unreported);
        self.remove_cgroup();
        ended.code()
    }

    /// Removes the control group of a tree whose VM has let go of it. A VM that holds the leash
    /// removes the group itself, after it has read what the tree used.
    fn remove_cgroup(&self) {
        let config = self.escalation.config;
        let let_go = config.leash.is_some() && self.sources.leash.is_none()
            || config.owner.is_some() && self.escalation.ladder.cause() == Cause::Owner;
        if let (Some(cgroup), Some(path), true) = (&self.cgroup, config.cgroup, let_go) {
            cgroup::remove(cgroup, path);
        }
    }
}

/// Returns whether a process lives and is in a process group.
fn is_in(group: Pid, visited: &Visited<'_>, proc: &Proc) -> bool {
    visited.stat(proc).is_some_and(|stat| stat.pgrp == group.as_raw_pid() && stat.lives())
}
