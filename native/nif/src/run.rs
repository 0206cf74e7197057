//! This run: its id, its owner and the lock on its record.

use crate::failure::of_file;
use crate::list::List;
use crate::reply::{atoms, error};
use leash_core::{About, Host, Owner, RecordedAttachment, RunDir, RunLock};
use leash_tag::{BootTag, RunId};
use rustler::{Binary, Encoder, Env, NifMap, NifResult, Resource, ResourceArc, Term};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A locked record. Elixir keeps the term for the life of the VM, so no Elixir process holds the
/// lock.
struct HeldRun(RunLock);

#[rustler::resource_impl]
impl Resource for HeldRun {}

/// The facts about the VM in a record.
#[derive(NifMap)]
struct Fields {
    node: String,
    app: String,
    version: String,
}

/// `run_id_generate() :: binary | {:error, reason}`
///
/// Returns a new run id.
///
/// Normal scheduler: one system call of constant time.
#[rustler::nif]
fn run_id_generate(env: Env<'_>) -> Term<'_> {
    match leash_core::generate_run_id() {
        Ok(run) => run.to_string().encode(env),
        Err(failure) => of_file(env, &failure),
    }
}

/// `owner_tag_base() :: {pid, start_ticks, pid_ns, boot} | {:error, reason}`
///
/// Returns this VM as `LEASH_RUN` and the record name it.
///
/// Dirty I/O: reads `/proc`.
#[rustler::nif(schedule = "DirtyIo")]
fn owner_tag_base(env: Env<'_>) -> Term<'_> {
    let owner = Host::current().and_then(|host| Owner::current(&host));
    match owner {
        Err(failure) => of_file(env, &failure),
        Ok(owner) => match BootTag::of_boot_id(owner.boot_id.as_bytes()) {
            Some(boot) => {
                (owner.pid, owner.start_ticks, owner.pid_ns, boot.to_string()).encode(env)
            }
            None => error(env, atoms::no_proc()),
        },
    }
}

/// `owner_option() :: {pid, start_ticks} | {:error, reason}`
///
/// Returns this VM for the shim's `--owner`. The ticks are those of `/proc` as read here. In a
/// time namespace they differ from those of [`owner_tag_base`].
///
/// Dirty I/O: reads `/proc`.
#[rustler::nif(schedule = "DirtyIo")]
fn owner_option(env: Env<'_>) -> Term<'_> {
    match Host::current() {
        Ok(host) => {
            let me = host.me();
            (me.pid.as_u32(), host.clock().to_local(me.start_ticks)).encode(env)
        }
        Err(failure) => of_file(env, &failure),
    }
}

/// `boot_id() :: binary | {:error, reason}`
///
/// Returns the boot id, 36 characters.
///
/// Dirty I/O: reads `/proc`.
#[rustler::nif(schedule = "DirtyIo")]
fn boot_id(env: Env<'_>) -> Term<'_> {
    match Host::current() {
        Ok(host) => {
            host.boot_id().map_or_else(|| error(env, atoms::no_proc()), |id| id.encode(env))
        }
        Err(failure) => of_file(env, &failure),
    }
}

/// `run_open(run_dir, %{node: binary, app: binary, version: binary}) :: {:ok, lock, run_id} |
/// {:error, reason | {reason, path}}`
///
/// Creates the record of a new run and locks it.
///
/// Dirty I/O: creates, locks and syncs a file.
#[rustler::nif(schedule = "DirtyIo")]
fn run_open<'a>(env: Env<'a>, run_dir: Binary<'a>, fields: Term<'a>) -> NifResult<Term<'a>> {
    let about = about(fields)?;
    let lock = Host::current()
        .and_then(|host| RunLock::create_any(&RunDir::open(path(&run_dir))?, &host, &about));
    Ok(match lock {
        Ok(lock) => {
            let run = lock.run().to_string();
            (atoms::ok(), ResourceArc::new(HeldRun(lock)), run).encode(env)
        }
        Err(failure) => of_file(env, &failure),
    })
}

/// `run_create(run_dir, run_id, %{node: binary, app: binary, version: binary}) :: {:ok, lock} |
/// {:error, reason | {reason, path}}`
///
/// Creates and locks a record for a run that began without one.
///
/// Dirty I/O: creates, locks and syncs a file.
#[rustler::nif(schedule = "DirtyIo")]
fn run_create<'a>(
    env: Env<'a>,
    run_dir: Binary<'a>,
    run_id: Binary<'a>,
    fields: Term<'a>,
) -> NifResult<Term<'a>> {
    let run = RunId::parse(&run_id).ok_or(rustler::Error::BadArg)?;
    let about = about(fields)?;
    let lock = Host::current()
        .and_then(|host| RunLock::create(&RunDir::open(path(&run_dir))?, &host, run, &about));
    Ok(match lock {
        Ok(lock) => (atoms::ok(), ResourceArc::new(HeldRun(lock))).encode(env),
        Err(failure) => of_file(env, &failure),
    })
}

fn about(fields: Term<'_>) -> NifResult<About> {
    // The fields are decoded here, because rustler's error names the field and is not an
    // ArgumentError.
    let Fields { node, app, version } = fields.decode().map_err(|_| rustler::Error::BadArg)?;
    Ok(About { node, app, started_at: now_iso8601(), version })
}

/// `run_ensure(lock) :: :ok | {:error, reason | {reason, path}}`
///
/// Writes the record again if it is lost.
///
/// Dirty I/O: files.
#[rustler::nif(schedule = "DirtyIo")]
fn run_ensure(env: Env<'_>, lock: ResourceArc<HeldRun>) -> Term<'_> {
    done(env, lock.0.ensure())
}

/// `run_append_command(lock, worker, flag, [binary]) :: :ok | {:error, reason | {reason, path}}`
///
/// Appends a command line to the record.
///
/// Dirty I/O: writes a file.
#[rustler::nif(schedule = "DirtyIo")]
fn run_append_command<'a>(
    env: Env<'a>,
    lock: ResourceArc<HeldRun>,
    worker: u16,
    flag: String,
    command: List<Binary<'a>>,
) -> Term<'a> {
    let command: Vec<Vec<u8>> = command.iter().map(|arg| arg.to_vec()).collect();
    done(env, lock.0.append_command(Some(worker), &flag, &command))
}

/// `run_append_attachment(lock, worker, pid, start_ticks) :: :ok | {:error, reason | {reason,
/// path}}`
///
/// Appends an attached process to the record.
///
/// Dirty I/O: writes a file.
#[rustler::nif(schedule = "DirtyIo")]
fn run_append_attachment(
    env: Env<'_>,
    lock: ResourceArc<HeldRun>,
    worker: u16,
    pid: u32,
    start_ticks: u64,
) -> Term<'_> {
    done(env, lock.0.append_attachment(&RecordedAttachment { worker, pid, start_ticks }))
}

/// `run_append_unmarked(lock, worker) :: :ok | {:error, reason | {reason, path}}`
///
/// Appends a worker without a mark to the record.
///
/// Dirty I/O: writes a file.
#[rustler::nif(schedule = "DirtyIo")]
fn run_append_unmarked(env: Env<'_>, lock: ResourceArc<HeldRun>, worker: u16) -> Term<'_> {
    done(env, lock.0.append_unmarked(worker))
}

/// `run_forget(lock, [worker]) :: :ok | {:error, reason | {reason, path}}`
///
/// Forgets the lines that were appended for numbers that are free now.
///
/// Dirty I/O: may write a file.
#[rustler::nif(schedule = "DirtyIo")]
fn run_forget(env: Env<'_>, lock: ResourceArc<HeldRun>, workers: List<u16>) -> Term<'_> {
    done(env, lock.0.forget(&Vec::from_iter(workers)))
}

/// `run_close(lock, drop?) :: :ok | {:error, reason | {reason, path}}`
///
/// Releases the lock. With `drop?` it also removes the record.
///
/// Dirty I/O: files.
#[rustler::nif(schedule = "DirtyIo")]
fn run_close(env: Env<'_>, lock: ResourceArc<HeldRun>, drop_record: bool) -> Term<'_> {
    let dropped = if drop_record { lock.0.drop_record() } else { Ok(()) };
    lock.0.release();
    done(env, dropped)
}

fn done<T>(env: Env<'_>, outcome: leash_core::Result<T>) -> Term<'_> {
    match outcome {
        Ok(_) => atoms::ok().encode(env),
        Err(failure) => of_file(env, &failure),
    }
}

pub(crate) fn path<'a>(text: &'a Binary<'_>) -> &'a Path {
    Path::new(OsStr::from_bytes(text.as_slice()))
}

/// Returns the time as `2026-01-01T00:00:00Z`, for people who read the record.
fn now_iso8601() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seconds = since.map_or(0, |since| since.as_secs());
    let (year, month, day) = date_of(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Returns year, month and day of a day since 1970, in the proleptic Gregorian calendar. It
/// counts in eras of 400 years that begin on 1 March, as Howard Hinnant's `civil_from_days` does.
fn date_of(day: u64) -> (u64, u64, u64) {
    let shifted = day + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, of_year - (153 * from_march + 2) / 5 + 1)
}
