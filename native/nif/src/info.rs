//! The facts that `/proc` shows about a process, for display.

use crate::terms::map::{Bytes, Letter};
use leash_core::parse::{cmdline, stat::Stat, status};
use leash_core::{Carrier, Identity, Pid};
use leash_tag::argv::{self, ShimArgs};
use leash_tag::{Limits, Mark, OwnerTag, RunId, WorkerNumber};
use rustler::{NifMap, NifUnitEnum};
use std::fs::File;
use std::io::Read;

/// The read limit; every stat, status or limits file is smaller.
const SMALL: u64 = 16 * 1024;

/// One process, as far as it can be read. If another user's process hides a field, the field is
/// `None`.
#[derive(NifMap)]
#[rustler(encode)]
pub(crate) struct Info {
    pid: u32,
    ppid: Option<u32>,
    state: Letter,
    command: String,
    args: Option<Vec<Bytes>>,
    uid: Option<u32>,
    start_ticks: u64,
    rss_bytes: Option<u64>,
    threads: u64,
    run: Option<Tag>,
}

/// The run that the process claims to belong to. Any process can tag itself, so a tag alone
/// proves nothing.
#[derive(NifMap)]
#[rustler(encode)]
struct Tag {
    run_id: String,
    worker: Option<u16>,
    carrier: TagCarrier,
}

#[derive(NifUnitEnum)]
#[rustler(encode)]
enum TagCarrier {
    Mark,
    Env,
    Argv,
}

/// Returns `None` if the process shows nothing. The caller must hold its pidfd before, and must
/// see it alive after.
pub(crate) fn read(identity: &Identity) -> Option<Info> {
    let pid = identity.pid;
    let stat = Stat::parse(&file(pid, "stat", SMALL)?)?;
    let status_file = file(pid, "status", SMALL).unwrap_or_default();
    let line = file(pid, "cmdline", cmdline::READ_LIMIT as u64);
    let args =
        line.as_ref().map(|line| argv::args(line).map(|arg| Bytes(arg.to_vec())).collect());
    Some(Info {
        pid: pid.as_u32(),
        ppid: stat.parent.map(Pid::as_u32),
        state: Letter(stat.state),
        command: cmdline::shown(line.as_deref().unwrap_or_default(), &stat.comm),
        args,
        uid: status::uids(&status_file).map(|uids| uids.effective),
        start_ticks: identity.start_ticks,
        // The number in `stat` leaves out what the CPUs count for themselves.
        rss_bytes: resident_bytes(&status_file),
        threads: stat.threads,
        run: tag(pid, line.as_deref().unwrap_or_default()),
    })
}

/// Returns the tag of the first carrier that has one, from the hardest to lose to the easiest to
/// write.
fn tag(pid: Pid, line: &[u8]) -> Option<Tag> {
    let tag = |run: RunId, worker: Option<WorkerNumber>, carrier| {
        let worker = worker.map(WorkerNumber::get);
        Some(Tag { run_id: run.to_string(), worker, carrier })
    };
    let limits = file(pid, "limits", SMALL);
    if let Some(mark) = limits.and_then(|text| Mark::decode(Limits::parse_file(&text)?)) {
        return tag(mark.run(), mark.worker(), TagCarrier::Mark);
    }
    if let Some(found) = env_tag(pid) {
        return tag(found.run, Some(found.worker), TagCarrier::Env);
    }
    let shim = ShimArgs::parse(line)?;
    tag(shim.run, shim.worker, TagCarrier::Argv)
}

fn env_tag(pid: Pid) -> Option<OwnerTag> {
    let limit = cmdline::READ_LIMIT as u64;
    let block = file(pid, "environ", limit)?;
    let cut = block.len() as u64 >= limit;
    Carrier::of_environ(&block, cut).present().copied()
}

fn file(pid: Pid, name: &str, limit: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(format!("/proc/{pid}/{name}")).ok()?.take(limit).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Returns the memory in RAM from `/proc/<pid>/status`. A kernel thread has no such line.
fn resident_bytes(status: &[u8]) -> Option<u64> {
    let text = String::from_utf8_lossy(status);
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_ascii_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}
