//! This run: its id, its owner and the lock on its record.

use crate::terms::args::{List, path};
use crate::terms::atoms;
use crate::terms::failure::Reason;
use crate::terms::reply::{Done, answer};
use leash_core::{About, Host, Owner, RecordedAttachment, RecordedName, RunDir, RunLock};
use leash_tag::{BootTag, RunId};
use rustler::{Binary, Encoder, Env, NifMap, NifResult, Resource, ResourceArc, Term};

/// A locked record. Elixir keeps the term for the life of the VM, so no Elixir process holds the
/// lock.
struct HeldRun(RunLock);

#[rustler::resource_impl]
impl Resource for HeldRun {}

/// The facts about the VM in a record.
#[derive(NifMap)]
#[rustler(decode)]
struct Fields {
    node: String,
    app: String,
    version: String,
    started_at: String,
}

/// `run_id_generate() :: binary | {:error, reason}`
///
/// Returns a new run id.
///
/// Normal scheduler: one system call of constant time.
#[rustler::nif]
fn run_id_generate(env: Env<'_>) -> Term<'_> {
    let run = leash_core::generate_run_id().map_err(Reason::File);
    answer(env, run.map(|run| run.to_string().encode(env)))
}

/// `owner_tag_base() :: {pid, start_ticks, pid_ns, boot} | {:error, reason}`
///
/// Returns this VM as `LEASH_RUN` and the record name it.
///
/// Dirty I/O: reads `/proc`.
#[rustler::nif(schedule = "DirtyIo")]
fn owner_tag_base(env: Env<'_>) -> Term<'_> {
    let owner = Host::current().and_then(|host| Owner::current(&host)).map_err(Reason::File);
    let term = owner.and_then(|owner| {
        let boot = BootTag::of_boot_id(owner.boot_id.as_bytes()).ok_or(atoms::no_proc())?;
        Ok((owner.pid, owner.start_ticks, owner.pid_ns, boot.to_string()).encode(env))
    });
    answer(env, term)
}

/// `owner_option() :: {pid, start_ticks} | {:error, reason}`
///
/// Returns this VM for the shim's `--owner`. The ticks are those of `/proc` as read here. In a
/// time namespace they differ from those of [`owner_tag_base`].
///
/// Dirty I/O: reads `/proc`.
#[rustler::nif(schedule = "DirtyIo")]
fn owner_option(env: Env<'_>) -> Term<'_> {
    let term = Host::current().map_err(Reason::File).map(|host| {
        let me = host.me();
        (me.pid.as_u32(), host.clock().to_local(me.start_ticks)).encode(env)
    });
    answer(env, term)
}

/// `boot_id() :: binary | {:error, reason}`
///
/// Returns the boot id, 36 characters.
///
/// Dirty I/O: reads `/proc`.
#[rustler::nif(schedule = "DirtyIo")]
fn boot_id(env: Env<'_>) -> Term<'_> {
    let host = Host::current().map_err(Reason::File);
    let term = host.and_then(|host| Ok(host.boot_id().ok_or(atoms::no_proc())?.encode(env)));
    answer(env, term)
}

/// `run_open(run_dir, %{node:, app:, version:, started_at:}) :: {:ok, lock, run_id} | {:error,
/// reason | {reason, path}}`
///
/// Creates the record of a new run and locks it.
///
/// Dirty I/O: creates, locks and syncs a file.
#[rustler::nif(schedule = "DirtyIo")]
fn run_open<'a>(env: Env<'a>, run_dir: Binary<'a>, fields: Term<'a>) -> NifResult<Term<'a>> {
    let about = about(fields)?;
    let lock = Host::current()
        .and_then(|host| RunLock::create_any(&RunDir::open(path(&run_dir))?, &host, &about));
    let term = lock.map_err(Reason::File).map(|lock| {
        let run = lock.run().to_string();
        (atoms::ok(), ResourceArc::new(HeldRun(lock)), run).encode(env)
    });
    Ok(answer(env, term))
}

/// `run_create(run_dir, run_id, %{node:, app:, version:, started_at:}) :: {:ok, lock} | {:error,
/// reason | {reason, path}}`
///
/// Creates and locks a record for a run that began without one.
///
/// Dirty I/O: creates, locks and syncs a file.
#[rustler::nif(schedule = "DirtyIo")]
fn run_create<'a>(
    run_dir: Binary<'a>,
    run_id: Binary<'a>,
    fields: Term<'a>,
) -> NifResult<Result<ResourceArc<HeldRun>, Reason>> {
    let run = RunId::parse(&run_id).ok_or(rustler::Error::BadArg)?;
    let about = about(fields)?;
    let lock = Host::current()
        .and_then(|host| RunLock::create(&RunDir::open(path(&run_dir))?, &host, run, &about));
    Ok(lock.map(|lock| ResourceArc::new(HeldRun(lock))).map_err(Reason::File))
}

fn about(fields: Term<'_>) -> NifResult<About> {
    // The fields are decoded here, because rustler's error names the field and is not an
    // ArgumentError.
    let fields = fields.decode().map_err(|_| rustler::Error::BadArg)?;
    let Fields { node, app, version, started_at } = fields;
    Ok(About { node, app, started_at, version })
}

/// `run_ensure(lock) :: :ok | {:error, reason | {reason, path}}`
///
/// Writes the record again if it is lost.
///
/// Dirty I/O: files.
#[rustler::nif(schedule = "DirtyIo")]
fn run_ensure(lock: ResourceArc<HeldRun>) -> Done {
    done(lock.0.ensure())
}

/// `run_append_command(lock, worker, flag, [binary]) :: :ok | {:error, reason | {reason, path}}`
///
/// Appends a command line to the record.
///
/// Dirty I/O: writes a file.
#[rustler::nif(schedule = "DirtyIo")]
fn run_append_command(
    lock: ResourceArc<HeldRun>,
    worker: u16,
    flag: String,
    command: List<Binary<'_>>,
) -> Done {
    let command: Vec<Vec<u8>> = command.iter().map(|arg| arg.to_vec()).collect();
    done(lock.0.append_command(Some(worker), &flag, &command))
}

/// `run_append_attachment(lock, worker, pid, start_ticks) :: :ok | {:error, reason | {reason,
/// path}}`
///
/// Appends an attached process to the record.
///
/// Dirty I/O: writes a file.
#[rustler::nif(schedule = "DirtyIo")]
fn run_append_attachment(
    lock: ResourceArc<HeldRun>,
    worker: u16,
    pid: u32,
    start_ticks: u64,
) -> Done {
    done(lock.0.append_attachment(&RecordedAttachment { worker, pid, start_ticks }))
}

/// `run_append_groups(lock, directory) :: :ok | {:error, reason | {reason, path}}`
///
/// Records the directory in which the control groups of workers are.
///
/// Dirty I/O: writes a file.
#[rustler::nif(schedule = "DirtyIo")]
fn run_append_groups(lock: ResourceArc<HeldRun>, directory: String) -> Done {
    done(lock.0.append_groups(&directory))
}

/// `run_append_unmarked(lock, worker) :: :ok | {:error, reason | {reason, path}}`
///
/// Appends a worker without a mark to the record.
///
/// Dirty I/O: writes a file.
#[rustler::nif(schedule = "DirtyIo")]
fn run_append_unmarked(lock: ResourceArc<HeldRun>, worker: u16) -> Done {
    done(lock.0.append_unmarked(worker))
}

/// `run_append_name(lock, worker, name | nil, group | nil) :: :ok | {:error, reason | {reason,
/// path}}`
///
/// Appends the name and the group of a worker to the record.
///
/// Dirty I/O: writes a file.
#[rustler::nif(schedule = "DirtyIo")]
fn run_append_name(
    lock: ResourceArc<HeldRun>,
    worker: u16,
    name: Option<String>,
    group: Option<String>,
) -> Done {
    done(lock.0.append_name(&RecordedName { worker, name, group }))
}

/// `run_forget(lock, [worker]) :: :ok | {:error, reason | {reason, path}}`
///
/// Forgets the lines that were appended for numbers that are free now.
///
/// Dirty I/O: may write a file.
#[rustler::nif(schedule = "DirtyIo")]
fn run_forget(lock: ResourceArc<HeldRun>, workers: List<u16>) -> Done {
    done(lock.0.forget(&Vec::from_iter(workers)))
}

/// `run_close(lock, drop?) :: :ok | {:error, reason | {reason, path}}`
///
/// Releases the lock. With `drop?` it also removes the record.
///
/// Dirty I/O: files.
#[rustler::nif(schedule = "DirtyIo")]
fn run_close(lock: ResourceArc<HeldRun>, drop_record: bool) -> Done {
    let dropped = if drop_record { lock.0.drop_record() } else { Ok(()) };
    lock.0.release();
    done(dropped)
}

fn done<T>(outcome: leash_core::Result<T>) -> Done {
    Done(outcome.map(|_| ()).map_err(Reason::File))
}
