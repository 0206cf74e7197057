//! A descriptor that a process of the VM owns, waits for and never leaks.
//!
//! rustler's own resources cannot be passed to `enif_select`. That call requires a `stop`
//! callback, which their registration leaves out. So this module registers a resource type
//! itself.
//!
//! The life of a descriptor, per erl_nif(3), `enif_select`:
//!
//! 1. The descriptor is opened for an owner, which the resource monitors.
//! 2. Once the descriptor was selected, the VM keeps the resource. From then on only the `stop`
//!    callback may close the descriptor. If it were closed earlier, the VM could poll the next
//!    file that gets its number.
//! 3. An explicit close and the owner's death lead to `stop`. So garbage collection only closes a
//!    descriptor that was never selected.
//!
//! # Safety
//!
//! All blocks below rely on the following:
//!
//! * `OBJECT_TYPE` is set in `load`, before any other NIF can run. The memory of that type holds
//!   an [`Object`]. The object is written before the first term or reference exists, and only
//!   `dtor` drops it.
//! * An [`Fd`] holds one reference to the resource (`enif_keep_resource`), so its object lives.
//! * An `Env` is that of the running call or callback.

use crate::pipe_room::PipeRoom;
use rustler::sys::{
    ERL_NIF_SELECT_READ, ERL_NIF_SELECT_STOP, ERL_NIF_SELECT_WRITE, ErlNifEnv, ErlNifEvent,
    ErlNifMonitor, ErlNifPid, ErlNifResourceDown, ErlNifResourceDtor, ErlNifResourceFlags,
    ErlNifResourceStop, ErlNifResourceType, ErlNifResourceTypeInit, ErlNifTerm,
    enif_alloc_resource, enif_compare_monitors, enif_demonitor_process, enif_get_resource,
    enif_init_resource_type, enif_keep_resource, enif_make_resource, enif_monitor_process,
    enif_release_resource, enif_select, enif_select_x,
};
use rustler::{Decoder, Encoder, Env, Error, LocalPid, NifResult, Term};
use std::ffi::{c_int, c_void};
use std::mem::{MaybeUninit, align_of, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::catch_unwind;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

// These are not in rustler 0.39; the values are those of erl_drv_nif.h.
const ERL_NIF_SELECT_CANCEL: c_int = 1 << 3;
const ERL_NIF_SELECT_CUSTOM_MSG: c_int = 1 << 4;

static OBJECT_TYPE: AtomicPtr<ErlNifResourceType> = AtomicPtr::new(ptr::null_mut());

/// Registers the resource type; returns `false` if the VM refuses it.
///
/// Only `load` may call this.
pub(crate) fn register(env: Env) -> bool {
    let init = ErlNifResourceTypeInit {
        dtor: dtor as *const ErlNifResourceDtor,
        stop: stop as *const ErlNifResourceStop,
        down: down as *const ErlNifResourceDown,
        members: 3,
        dyncall: ptr::null(),
    };
    let mut tried = MaybeUninit::uninit();
    // SAFETY: `env` is that of `load`. Name and init outlive the call, which copies both. The
    // callbacks have the signatures that erl_nif(3) gives. `tried` is only written.
    let kind = unsafe {
        enif_init_resource_type(
            env.as_c_arg(),
            c"leash_fd".as_ptr(),
            &init,
            ErlNifResourceFlags::ERL_NIF_RT_CREATE,
            tried.as_mut_ptr(),
        )
    };
    OBJECT_TYPE.store(kind.cast_mut(), Ordering::Release);
    !kind.is_null()
}

struct Object {
    state: Mutex<State>,
}

// enif_alloc_resource aligns for any C type; a wider type of ours would need padding.
const _: () = assert!(align_of::<Object>() <= align_of::<u64>());

struct State {
    phase: Phase,
    /// The monitor of the owner, `None` once it fired or the descriptor is closed.
    owner: Option<ErlNifMonitor>,
}

enum Phase {
    Open {
        pipe: Pipe,
        selected: bool,
    },
    /// Waits for the VM to call `stop`.
    Stopping(Pipe),
    Closed,
}

/// The descriptor, and the room that was lent to it if it is a pipe. Both are dropped in this
/// order: the room goes with the pipe.
struct Pipe {
    fd: OwnedFd,
    room: PipeRoom,
}

/// A reference to a descriptor of the VM, not the descriptor itself.
pub(crate) struct Fd(NonNull<Object>);

// SAFETY: the object is only reached through its mutex, and the VM counts references atomically.
unsafe impl Send for Fd {}
// SAFETY: as above.
unsafe impl Sync for Fd {}

/// The error that the new owner is not a living process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnerGone;

/// The reason why a descriptor could not be armed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ArmError {
    /// The descriptor is closed.
    Closed,
    /// The VM cannot poll the descriptor.
    Refused,
}

/// The event to wait for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Readiness {
    /// Data, end of file, a hang-up, or for a pidfd the end of the process.
    Read,
    /// Room, or the end of the last reader.
    Write,
}

impl Fd {
    /// Hands `fd` over to `owner`: it is closed when that process ends.
    pub(crate) fn new(env: Env, fd: OwnedFd, owner: &LocalPid) -> Result<Self, OwnerGone> {
        let kind = OBJECT_TYPE.load(Ordering::Acquire);
        // SAFETY: the type is registered.
        let memory = unsafe { enif_alloc_resource(kind, size_of::<Object>()) }.cast::<Object>();
        let Some(object) = NonNull::new(memory) else { return Err(OwnerGone) };
        let pipe = Pipe { fd, room: PipeRoom::default() };
        let state =
            Mutex::new(State { phase: Phase::Open { pipe, selected: false }, owner: None });
        // SAFETY: the memory is fresh, large enough and aligned (asserted above).
        unsafe { object.write(Object { state }) };
        // The reference that enif_alloc_resource counted belongs to `this` now.
        let this = Self(object);
        this.give(env, owner)?;
        Ok(this)
    }

    /// Calls `use_it` with the descriptor, unless it is closed.
    ///
    /// The lock is held meanwhile, so that no other thread closes the descriptor and opens
    /// another file under its number. Therefore `use_it` must not block.
    pub(crate) fn with<R>(&self, use_it: impl FnOnce(BorrowedFd<'_>) -> R) -> Option<R> {
        self.with_room(|fd, _room| use_it(fd))
    }

    /// Works as [`Fd::with`], for a reader that notes how full the pipe is.
    pub(crate) fn with_room<R>(
        &self,
        use_it: impl FnOnce(BorrowedFd<'_>, &mut PipeRoom) -> R,
    ) -> Option<R> {
        match &mut self.lock().phase {
            Phase::Open { pipe, .. } => Some(use_it(pipe.fd.as_fd(), &mut pipe.room)),
            Phase::Stopping(_) | Phase::Closed => None,
        }
    }

    /// Has the VM send `message` to the calling process once, when the descriptor is ready.
    ///
    /// Readiness is a level: data that was there before counts. Arming again replaces the
    /// message.
    pub(crate) fn arm(
        &self,
        env: Env,
        readiness: Readiness,
        message: Term,
    ) -> Result<(), ArmError> {
        let mut state = self.lock();
        let Phase::Open { pipe, selected } = &mut state.phase else {
            return Err(ArmError::Closed);
        };
        let mode = readiness.mode() | ERL_NIF_SELECT_CUSTOM_MSG;
        let recipient = env.pid();
        // SAFETY: the descriptor is open and belongs to this object. Without a message
        // environment the VM copies the message, which belongs to the caller's environment.
        let outcome = unsafe {
            enif_select_x(
                env.as_c_arg(),
                pipe.fd.as_raw_fd(),
                mode,
                self.object(),
                recipient.as_c_arg(),
                message.as_c_arg(),
                ptr::null_mut(),
            )
        };
        if outcome < 0 {
            return Err(ArmError::Refused);
        }
        *selected = true;
        Ok(())
    }

    /// Cancels [`Fd::arm`]. The message may be under way already.
    pub(crate) fn disarm(&self, env: Env, readiness: Readiness) {
        let state = self.lock();
        if let Phase::Open { pipe, selected: true } = &state.phase {
            // SAFETY: as in `arm`; neither recipient nor message matter for a cancellation.
            unsafe {
                enif_select(
                    env.as_c_arg(),
                    pipe.fd.as_raw_fd(),
                    readiness.mode() | ERL_NIF_SELECT_CANCEL,
                    self.object(),
                    ptr::null(),
                    ErlNifTerm::default(),
                )
            };
        }
    }

    /// Makes `owner` the process whose end closes the descriptor.
    pub(crate) fn give(&self, env: Env, owner: &LocalPid) -> Result<(), OwnerGone> {
        // The lock is held over the call: `down` may run on another thread before it returns, and
        // must find the monitor.
        let mut state = self.lock();
        if !matches!(state.phase, Phase::Open { .. }) {
            return Ok(());
        }
        let mut monitor = MaybeUninit::uninit();
        // SAFETY: `self` keeps the object; the monitor is written when the call returns 0.
        let outcome = unsafe {
            enif_monitor_process(
                env.as_c_arg(),
                self.object(),
                owner.as_c_arg(),
                monitor.as_mut_ptr(),
            )
        };
        if outcome != 0 {
            return Err(OwnerGone);
        }
        // SAFETY: written, see above.
        let monitor = unsafe { monitor.assume_init() };
        if let Some(former) = state.owner.replace(monitor) {
            self.demonitor(env.as_c_arg(), &former);
        }
        Ok(())
    }

    /// Closes the descriptor, now or as soon as the VM no longer polls it. It may be called
    /// again.
    pub(crate) fn close(&self, env: Env) {
        self.close_in(env.as_c_arg());
    }

    fn close_in(&self, env: *mut ErlNifEnv) {
        let mut state = self.lock();
        if let Some(owner) = state.owner.take() {
            self.demonitor(env, &owner);
        }
        let Some(number) = state.begin_close() else { return };
        // `stop` takes the lock, and enif_select may call it directly.
        drop(state);
        // SAFETY: the descriptor is still open. It is in `Phase::Stopping`, which only `stop` and
        // the failure below leave.
        let outcome = unsafe {
            enif_select(
                env,
                number,
                ERL_NIF_SELECT_STOP,
                self.object(),
                ptr::null(),
                ErlNifTerm::default(),
            )
        };
        if outcome < 0 {
            self.lock().finish_close();
        }
    }

    fn demonitor(&self, env: *mut ErlNifEnv, monitor: &ErlNifMonitor) {
        // SAFETY: `self` keeps the object. For a monitor that just fired, the call fails without
        // consequence.
        unsafe { enif_demonitor_process(env, self.object(), monitor) };
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // SAFETY: this reference keeps the object.
        let object = unsafe { self.0.as_ref() };
        object.lock()
    }

    fn object(&self) -> *mut c_void {
        self.0.as_ptr().cast()
    }

    /// Returns a new reference to the object of a callback or term.
    ///
    /// # Safety
    ///
    /// `object` is a living resource of our type.
    unsafe fn keep(object: NonNull<Object>) -> Self {
        // SAFETY: the caller's promise.
        unsafe { enif_keep_resource(object.as_ptr().cast()) };
        Self(object)
    }
}

impl Object {
    /// Locks the state. A panic under the lock leaves the state whole: every change is one
    /// assignment.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Returns the number to stop, `None` if nothing is left to do.
    fn begin_close(&mut self) -> Option<RawFd> {
        match std::mem::replace(&mut self.phase, Phase::Closed) {
            Phase::Open { pipe, selected: true } => {
                let number = pipe.fd.as_raw_fd();
                self.phase = Phase::Stopping(pipe);
                Some(number)
            }
            Phase::Stopping(pipe) => {
                self.phase = Phase::Stopping(pipe);
                None
            }
            Phase::Open { selected: false, .. } | Phase::Closed => None,
        }
    }

    fn finish_close(&mut self) {
        self.phase = Phase::Closed;
    }
}

impl Readiness {
    fn mode(self) -> c_int {
        match self {
            Self::Read => ERL_NIF_SELECT_READ,
            Self::Write => ERL_NIF_SELECT_WRITE,
        }
    }
}

impl Clone for Fd {
    fn clone(&self) -> Self {
        // SAFETY: this reference keeps the object.
        unsafe { Self::keep(self.0) }
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: gives back the reference this value held.
        unsafe { enif_release_resource(self.object()) };
    }
}

impl<'a> Decoder<'a> for Fd {
    fn decode(term: Term<'a>) -> NifResult<Self> {
        let kind = OBJECT_TYPE.load(Ordering::Acquire);
        let mut object = ptr::null();
        // SAFETY: the type is registered; `object` is written when the term is such a resource.
        let found = unsafe {
            enif_get_resource(term.get_env().as_c_arg(), term.as_c_arg(), kind, &mut object)
        };
        let object = NonNull::new(object.cast_mut().cast::<Object>());
        match object {
            // SAFETY: a resource of our type, kept by the term.
            Some(object) if found != 0 => Ok(unsafe { Self::keep(object) }),
            _ => Err(Error::BadArg),
        }
    }
}

impl Encoder for Fd {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        // SAFETY: `self` keeps the object, and the term is tagged with the environment in which
        // it is made.
        unsafe { Term::new(env, enif_make_resource(env.as_c_arg(), self.object())) }
    }
}

unsafe extern "C" fn dtor(_env: *mut ErlNifEnv, object: *mut c_void) {
    // A panic must not cross into the VM. It could only come from close(2), which does not panic.
    let _ = catch_unwind(|| {
        // SAFETY: the VM calls this once, when the last reference is gone. The descriptor is then
        // closed or was never selected, because a selected one holds a reference. So closing it
        // is our task.
        unsafe { ptr::drop_in_place(object.cast::<Object>()) };
    });
}

unsafe extern "C" fn stop(
    _env: *mut ErlNifEnv,
    object: *mut c_void,
    _event: ErlNifEvent,
    _direct: c_int,
) {
    let _ = catch_unwind(|| {
        // SAFETY: the VM keeps the object during the call.
        let object = unsafe { &*object.cast::<Object>() };
        object.lock().finish_close();
    });
}

unsafe extern "C" fn down(
    env: *mut ErlNifEnv,
    object: *mut c_void,
    _pid: *const ErlNifPid,
    monitor: *const ErlNifMonitor,
) {
    let _ = catch_unwind(|| {
        let Some(object) = NonNull::new(object.cast::<Object>()) else { return };
        // SAFETY: the VM keeps the object during the call.
        let fd = unsafe { Fd::keep(object) };
        let mut state = fd.lock();
        let is_owner = state.owner.as_ref().is_some_and(|owner| {
            // SAFETY: both point to monitors that the VM wrote.
            unsafe { enif_compare_monitors(owner, monitor) == 0 }
        });
        // Otherwise a former owner ended while the descriptor was given on.
        if is_owner {
            state.owner = None;
            drop(state);
            fd.close_in(env);
        }
    });
}
