//! The warden of a run: one process that starts the shims, ends what a killed shim leaves, and
//! outlives the VM.
//!
//! The processes that a killed shim leaves become children of the warden. It ends them by
//! descent, whether the VM lives or not (`warden_children`). Other trees are no descendants of
//! the warden: those of ports, of attached processes, and of shims of an earlier warden. Once the
//! VM has ended, the warden finds their processes by the run's mark and sends SIGKILL
//! (`run_members`). If the shim of a tree lives, the tree belongs to that shim, and the warden
//! waits for it.
//!
//! While the VM lives, nothing is signalled for its mark, since a worker could be starting whose
//! shim was not met. Once the VM has ended no worker can start, since a starting shim sees its
//! owner gone before it has a worker.

use leash_tag::{RunId, signal};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::Pid;

use super::control::{self, Control, Request};
use super::events::{EventSources, Events};
use super::run_members::{RunMembers, Signalled};
use super::warden_children::WardenChildren;
use crate::cli::config::{Config, Origin};
use crate::os::proc_file::Proc;
use crate::os::{clock, descriptors, mark_limits, process, signals};
use crate::out::report::Report;
use crate::out::stage::{Failed, Stage};
use crate::start::prepare::{self, MarkReport};
use crate::start::spawn;
use crate::stop::ladder::{STOP_FIRST_AFTER, pause_after};
use crate::tree::mark_scan::{Pass, PidSource, ScanProof};

/// The time that most shims need for their trees, which then are not looked at at all.
const HEADSTART_MS: u64 = 20;

/// The pause between two looks while the warden waits for living shims. The first value is the
/// earliest time after the end of one. The second is the latest, since a shim may have been
/// stopped once more.
const SHIMS_MS: (u64, u64) = (5, 1_000);

/// The pause between two looks at a run whose VM let go of the warden and lives, doubled from the
/// first value to the second. After the third, the warden leaves the rest to the next warden.
const UNLEASHED_MS: (u64, u64, u64) = (10, 1_000, 10_000);

/// The most rounds in a row that find only processes that cannot be signalled or looked at: some
/// 10 seconds.
const VAIN_ROUNDS: u32 = 100;

/// The most requests that are taken in one go.
const REQUESTS: u32 = 16;

/// The warden of one run.
pub(crate) struct Warden {
    run: RunId,
    sources: EventSources,
    proc: Option<Proc>,
    /// The listing of `/proc`, if processes can be found by their marks.
    table: Option<OwnedFd>,
    /// The means to start shims, for a warden that does.
    control: Option<Control>,
    children: WardenChildren,
}

/// Becomes the warden of a run.
///
/// # Errors
///
/// The reason why the warden could not do its work. A warden that starts shims needs only its
/// socket. It can do without `/proc` of this pid namespace, the mark, or a pidfd of the owner.
/// Then it knows its trees by descent, and the hang-up stands for the owner's end. Any other
/// warden needs all three.
#[inline(never)]
pub(crate) fn begin(config: &Config<'_>, report: Report<'_>) -> Result<Warden, Failed> {
    let at = |errno| (Stage::Warden, errno);
    let own = process::own_pid();
    let control = config.control.map(|_| control::prepare()).transpose().map_err(at)?;
    if control.is_some() {
        // A started shim inherits the warden's dispositions.
        spawn::reset_dispositions(Origin::Port);
    }
    // The warden has no mark, so that a started shim has the same limits as a port's program.
    let _ = rustix::process::setsid();
    let subreaper = process::become_subreaper();
    // Every signal is blocked, and only SIGCHLD is read.
    let signals = signals::signal_fd(signals::bit(signal::CHLD)).map_err(at)?;
    let proc = Proc::open(own);
    let mut sources = EventSources::new(signals, config, None);
    let owner = config.owner.and_then(|(owner, _)| Pid::from_raw(owner));
    let connected = config.control.map_or(Ok(()), |name| {
        sources.leash = Some(descriptors::keep(control::connect(name, owner)?));
        sources.takes_requests = true;
        Ok(())
    });
    let found = prepare::owner(config.owner, proc.as_ref());
    let is_gone = found.is_err();
    // The owner ended during this start, and an older warden may have exited before. If the leash
    // still holds, the owner is not the right process.
    if is_gone && connected != Err(Errno::CONNREFUSED) && !sources.leash_let_go() {
        return Err((Stage::OwnerGone, Errno::SRCH));
    }
    sources.owner = found.unwrap_or_default();
    let table = table(proc.as_ref(), is_gone || sources.owner.is_some());
    match (connected, &table) {
        (Err(_), Ok(_)) if is_gone => {}
        (Err(errno), _) => return Err(at(errno)),
        (Ok(()), &Err(errno)) if control.is_none() => return Err(at(errno)),
        (Ok(()), _) => {}
    }
    let flags = sources.flags(subreaper) | u8::from(table.is_ok()) << 3;
    report.ready(own, MarkReport::OFF.code, 0, flags);
    report.ready_now();
    if control.is_none() {
        prepare::let_go_of_streams(config);
    }
    let _ = rustix::process::chdir(c"/");
    let children = WardenChildren::new().map_err(at)?;
    Ok(Warden { run: config.run, sources, proc, table: table.ok(), control, children })
}

/// Opens the listing of `/proc` for a warden that may signal what it finds there.
fn table(proc: Option<&Proc>, knows_owner: bool) -> Result<OwnedFd, Errno> {
    mark_limits::read(process::own_pid())?;
    // If the owner cannot be watched, it is never known that none of its starts is under way.
    if !knows_owner {
        return Err(Errno::NOSYS);
    }
    proc.ok_or(Errno::NOENT)?.table()
}

impl Warden {
    /// Keeps the run until it is not needed any more. Returns the exit status.
    ///
    /// It is never inlined, since its stack frame would cost every shim a page or two.
    #[inline(never)]
    pub(crate) fn run(&mut self) -> u8 {
        if self.members().is_none() {
            self.serve_alone();
        } else if self.sources.owner.is_none() || self.outlives_owner() {
            self.let_go();
            clock::pause_ms(HEADSTART_MS);
            self.end_members();
        }
        0
    }

    /// Lets go of the VM, which has let go of the warden or has ended.
    ///
    /// An ended descriptor stays readable and would wake the warden for ever. The close refuses
    /// the requests that were not taken, with all that came with them. The warden also closes the
    /// VM's stderr, so that no reader waits for its end because of the warden.
    fn let_go(&mut self) {
        if self.control.is_some() {
            self.sources.let_go_of_channel();
        }
        self.sources.leash = None;
        prepare::silence([true; 3]);
    }

    /// Returns the view of the processes of the run, if they can be found by their marks.
    fn members(&self) -> Option<RunMembers<'_>> {
        Some(RunMembers { run: self.run, proc: self.proc.as_ref()?, table: self.table.as_ref()? })
    }

    /// Starts shims and ends what killed ones leave, until the VM has let go of the warden and no
    /// child is left.
    fn serve_alone(&mut self) {
        loop {
            let events = self.wait_until(None);
            if events.requests {
                self.serve();
            }
            if events.leash || events.owner {
                self.let_go();
                self.sources.owner = None;
            }
            if self.sources.leash.is_none() && !self.children.any() {
                return;
            }
        }
    }

    /// Waits for the owner's end. Returns `false` if the owner let go of the warden long before,
    /// and the warden has nothing left to end.
    ///
    /// A VM that is ending closes its files first. So a leash that hangs up says nothing about
    /// the VM, and the warden stays until the VM would have ended. A VM that lives has another
    /// warden by then. The shims of this warden stay its own to the last.
    fn outlives_owner(&mut self) -> bool {
        let (mut proof, mut pause) = (ScanProof::default(), UNLEASHED_MS.0);
        let (mut look, mut until) = (None, u64::MAX);
        loop {
            let events = self.wait_until(look.filter(|_| !self.children.any()));
            if events.owner {
                self.sources.owner = None;
                return true;
            }
            if events.requests {
                self.serve();
            }
            let now = clock::now_ms();
            if events.leash {
                self.let_go();
                (look, until) = (Some(now), now.saturating_add(UNLEASHED_MS.2));
            }
            // A child that ends wakes the warden.
            if self.children.any() || look.is_none_or(|at| now < at) {
                continue;
            }
            let Some(members) = self.members() else { return false };
            let found = members.survey(PidSource::Listing, &[]);
            let is_proven = proof.note(found.pass);
            if now >= until || (is_proven && members.is_every_process_seen()) {
                return false;
            }
            let is_empty = found.pass.living == 0 && !is_proven;
            pause = if is_empty {
                UNLEASHED_MS.0
            } else {
                pause.saturating_mul(2).min(UNLEASHED_MS.1)
            };
            look = Some(now.saturating_add(pause));
        }
    }

    /// Waits for an event, until `at` at the latest, and handles the children.
    fn wait_until(&mut self, at: Option<u64>) -> Events {
        let until = at.into_iter().chain(self.children.due()).min();
        let events = self.sources.wait(until.map(|until| until.saturating_sub(clock::now_ms())));
        if events.signals {
            // Many ends may be one signal.
            let _ = self.sources.take_signals().count();
        }
        self.children.reap(self.proc.as_ref());
        self.children.end_orphans(self.proc.as_ref(), clock::now_ms());
        events
    }

    /// Handles the VM's requests, a limited number at a time, so that other work gets its turn.
    fn serve(&mut self) {
        let (Some(control), Some(socket)) = (&mut self.control, self.sources.leash) else {
            return;
        };
        for _ in 0..REQUESTS {
            match control.take(socket) {
                Ok(Request::Started(pid)) => self.children.started(pid),
                Ok(Request::NotifyWhenClear(fd)) => {
                    // The end of a killed shim may not have been seen yet.
                    while self.children.reap(self.proc.as_ref()) {}
                    self.children.notify_when_clear(fd);
                }
                Ok(Request::Failed | Request::Other) | Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(_) => return,
            }
        }
    }

    /// Ends all processes whose shim is gone, until none is left, or none that can be ended.
    fn end_members(&mut self) {
        let (mut proof, mut kills, mut vain) = (ScanProof::default(), 0u32, 0u32);
        let mut from = PidSource::Listing;
        loop {
            let _ = self.wait_until(Some(0));
            let Some(members) = self.members() else { return };
            let found = members.survey(from, &[signal::CONT]);
            let mut signalled = Signalled::default();
            // A process that could not be looked at may be a shim.
            if found.others > 0 && (!found.pass.hole || vain > VAIN_ROUNDS / 2) {
                if kills >= STOP_FIRST_AFTER {
                    members.signal_without_shim(from, &found.shims, signal::STOP);
                }
                signalled = members.signal_without_shim(from, &found.shims, signal::KILL);
            }
            // A process without the mark is known by its descent alone.
            let shims = found.shims.len.saturating_add(u32::from(self.children.any()));
            let left = signalled.sent.saturating_add(signalled.refused);
            let pass = Pass { living: shims.saturating_add(left), ..found.pass };
            // One pass by number is enough: it takes a second or two, and hidden processes cannot
            // see the warden coming either.
            let is_last = from == PidSource::AllPids
                && pass == Pass { zombies: pass.zombies, ..Pass::default() };
            if is_last || proof.note(pass) {
                if from == PidSource::AllPids || !members.proc.hides() {
                    return;
                }
                (from, proof) = (PidSource::AllPids, ScanProof::default());
                continue;
            }
            kills = if signalled.sent > 0 { kills.saturating_add(1) } else { 0 };
            let in_vain =
                shims == 0 && signalled.sent == 0 && (signalled.refused > 0 || found.pass.hole);
            vain = if in_vain { vain.saturating_add(1) } else { 0 };
            if vain > VAIN_ROUNDS {
                return;
            }
            if signalled.sent > 0 {
                self.wait_for(signalled.one, pause_after(kills));
            } else if shims > 0 {
                let now = clock::now_ms();
                let due = self.children.due().map(|at| at.saturating_sub(now));
                self.wait_for(found.shim, due.unwrap_or(SHIMS_MS.1));
                clock::pause_ms(SHIMS_MS.0);
            } else {
                clock::pause_ms(pause_after(vain));
            }
        }
    }

    /// Waits until a process has ended, for that many milliseconds at most.
    fn wait_for(&mut self, witness: Option<OwnedFd>, ms: u64) {
        self.sources.witness = witness;
        self.sources.wait(Some(ms));
        self.sources.witness = None;
    }
}
