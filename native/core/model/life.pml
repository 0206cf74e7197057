/*
 * The life of one run, from its record to the proof that nothing of it is left, with everything that can end at any moment: the VM,
 * its shim, the worker and what that forked. Beside it others (unmarked, or of a neighbour whose VM lives), and pid numbers that are used again.
 *
 * What is shown, over every order of events (script/model runs it):
 *
 *   safe      no signal ever reaches a process that is not of the run that is being ended
 *   complete  when nothing can happen any more and a start has swept since the run died, nothing of the run lives
 *
 * Each transition names the function that it stands for. A pid is a number that may be used again; a pidfd means one process and goes
 * stale with it. Forks and foreign starts are bounded, so every execution ends, and the end is where `complete` is looked at.
 *
 * Mutations, each of which has to fail:
 *
 *   KILL_AFTER_REAP    the shim signals a number that it has reaped
 *   KILL_BY_NUMBER     the sweep signals the number that it has read, not a pidfd that it has checked
 *   CHECK_THEN_OPEN    the sweep reads the mark first and opens the pidfd afterwards
 *   DROP_EARLY         an orderly stop drops the record before the tree is proven gone
 *   ONE_LOOK           one look that finds nobody ends the sweep
 *   LOCK_LAST          the record gets its name before its lock, and a judge believes the lock alone
 *   FORK_THEN_MARK     the shim starts the worker before it has marked itself
 *   REACHED_BY_SWEEP   says that the sweep never signals anybody: what is shown is not shown of nothing
 *   REACHED_BY_SHIM    says so of the shim
 *
 * LOCK_LAST_TWO_WITNESSES, the record before the lock and a judge who asks for the owner as well, has to pass: one living witness is enough.
 */

#ifndef PIDS
#define PIDS 3
#endif
#ifndef FORKS
#define FORKS 2
#endif
#ifndef FOREIGN
#define FOREIGN 1
#endif

#ifdef LOCK_LAST_TWO_WITNESSES
#define RECORD_FIRST
#endif
#ifdef LOCK_LAST
#define RECORD_FIRST
#define LOCK_ALONE
#endif

#define NONE PIDS

#define FREE 0
#define LIVES 1
#define ZOMBIE 2

#define NOBODY 0
#define RUN 1
#define NEIGHBOUR 2

#define INIT 0
#define SHIM 1

byte state[PIDS], mark[PIDS], parent[PIDS];
/* The tree: marked or not, as only the model knows. */
bool of_run[PIDS];

/* The shim has no number here: the sweep knows it by its command line and leaves the tree to it while it lives. */
bool vm = true, shim = false, marked = false, launched = false;
bool record = false, lock = false;
byte forks = FORKS, foreign = FOREIGN;

/* Who is meant by the worker's number while it is the shim's child, and by the pidfd that the sweep holds. */
byte worker = NONE, pidfd = NONE;

/* Chosen by the environment, and always 0 between its events. */
byte a = 0, b = 0;

#define bears(p) (state[p] == LIVES && mark[p] == RUN)
#define child(p) (state[p] != FREE && parent[p] == SHIM)

inline free(p) {
  state[p] = FREE; mark[p] = NOBODY; parent[p] = INIT; of_run[p] = false;
  if :: worker == p -> worker = NONE :: else fi;
  if :: pidfd == p -> pidfd = NONE :: else fi
}

inline ends(p) {
  if
  :: parent[p] == SHIM -> state[p] = ZOMBIE
  :: else -> free(p)
  fi
}

/* The one place where a process is signalled. */
inline signal(p) {
  if
  :: state[p] == LIVES ->
     assert(of_run[p] && !vm);
     ends(p)
  :: else
  fi
}

/* RunLock::create (native/core/src/run_lock.rs), then Leash.Worker starts a shim; an orderly end is the shim's, then Run.close/2. */
active proctype Vm() {
#ifdef RECORD_FIRST
  if :: vm -> record = true :: !vm -> goto over fi;
  if :: vm -> lock = true :: !vm -> goto over fi;
#else
  if :: vm -> lock = true :: !vm -> goto over fi;
  if :: vm -> record = true :: !vm -> goto over fi;
#endif
  if :: atomic { vm -> shim = true; launched = true } :: !vm -> goto over fi;
#ifdef DROP_EARLY
  if :: vm -> record = false :: !vm fi;
#endif
over:
  skip
}

/* SIGKILL, the kernel's out-of-memory killer: at any moment. The lock goes with the VM. */
active proctype VmDies() {
  d_step { vm = false; lock = false }
}

/* At any moment, or never. PDEATHSIG takes the worker (spawn.rs die_with_parent); the others go to init, which reaps them. */
active proctype ShimDies() {
  if
  :: d_step { shim ->
       shim = false;
       if :: worker != NONE -> free(worker) :: else fi;
       a = 0;
       do
       :: a < PIDS ->
          if
          :: child(a) && state[a] == ZOMBIE -> free(a)
          :: child(a) && state[a] == LIVES -> parent[a] = INIT
          :: else
          fi;
          a++
       :: else -> break
       od;
       a = 0 }
  :: skip
  fi
}

/* The worker and what it forks, each of whom may end. Marks are inherited (getrlimit(2)). */
active proctype Tree() {
end_idle:
  do
  :: atomic { forks > 0 ->
       select(a : 0 .. PIDS - 1);
       select(b : 0 .. PIDS - 1);
       if
       :: of_run[a] && state[a] == LIVES && state[b] == FREE ->
          forks--; state[b] = LIVES; mark[b] = mark[a]; parent[b] = parent[a]; of_run[b] = true
       :: else
       fi;
       a = 0; b = 0 }
  :: atomic {
       select(a : 0 .. PIDS - 1);
       if
       :: of_run[a] && state[a] == LIVES -> ends(a)
       :: else
       fi;
       a = 0 }
  :: break
  od
}

/* Anybody else, on any number that is free: unmarked, or with the mark of a run whose VM lives. */
active proctype Others() {
  do
  :: atomic { foreign > 0 ->
       foreign--;
       select(a : 0 .. PIDS - 1);
       if
       :: state[a] == FREE -> state[a] = LIVES; if :: mark[a] = NOBODY :: mark[a] = NEIGHBOUR fi
       :: else
       fi;
       a = 0 }
  :: break
  od
}

inline mark_itself() {
  /* prepare::mark: before the first fork, so that no child is without it */
  if :: shim -> marked = true :: else fi
}

inline spawn_worker() {
  /* spawn::start; PDEATHSIG and the look at the parent close the race with the shim's death */
  atomic {
    if
    :: shim ->
       a = 0;
       do
       :: a < PIDS && state[a] != FREE -> a++
       :: else -> break
       od;
       if
       :: a < PIDS ->
          state[a] = LIVES; parent[a] = SHIM; of_run[a] = true; worker = a;
          if :: marked -> mark[a] = RUN :: else fi
       :: else
       fi;
       a = 0
    :: else
    fi
  }
}

/* run.rs, supervise.rs */
active proctype Shim() {
  byte p = 0;
  bool left = false;
end_never:
  (launched);
#ifdef FORK_THEN_MARK
  spawn_worker();
  mark_itself();
#else
  mark_itself();
  spawn_worker();
#endif
  /* watched.rs: the leash hangs up, or the VM's pidfd says so */
  (!vm || !shim);
  do
  :: !shim -> break
  :: shim ->
     /* kill_pass, tree::walk: a child that is not reaped keeps its number. Reaper::reap. */
     if
#ifdef KILL_AFTER_REAP
     :: d_step { shim && child(p) && state[p] == ZOMBIE -> free(p) };
        d_step { if :: shim -> signal(p) :: else fi }
#else
     :: d_step { shim && child(p) && state[p] == ZOMBIE -> free(p) }
#endif
     :: d_step { shim && child(p) && state[p] == LIVES ->
#ifdef REACHED_BY_SHIM
        assert(false);
#endif
        signal(p) }
     :: !shim || !child(p)
     fi;
     /* sys::none_lives: ECHILD; it exits when nothing of its tree is left */
     d_step {
       p = (p + 1) % PIDS;
       left = false;
       a = 0;
       do
       :: a < PIDS -> left = left || child(a); a++
       :: else -> break
       od;
       a = 0;
       if :: shim && !left -> shim = false :: else fi;
       left = false
     }
  od
}

#ifdef LOCK_ALONE
#define dead (record && !lock)
#else
/* Judge::run (verdict.rs): the lock is free, and the owner whom the record names is gone; without a record nobody says who owns it */
#define dead (record && !lock && !vm)
#endif

#ifdef ONE_LOOK
#define CALM 1
#else
/* Work::is_calm (work.rs) waits until nobody comes and goes. Here that is a look for each fork that may still be under way. */
#define CALM (FORKS + 1)
#endif

/* The start of another VM: Hunt::run (native/core/src/hunt.rs). It may come at any moment, also before the lock is taken. */
active proctype Sweep() {
  byte p = 0, calm = 0;
  bool tagged = false, found = false;
again:
  do
  :: !dead -> break
  /* strike.rs is_in_charge: a shim that lives is waited for */
  :: dead && calm < CALM && !shim ->
     found = false;
     do
     :: p < PIDS ->
        /* scan.rs: one number after the other, while processes come and go */
        tagged = bears(p);
        if
        :: tagged ->
           found = true;
#ifdef REACHED_BY_SWEEP
           assert(false);
#endif
#if defined(KILL_BY_NUMBER)
           if :: dead -> d_step { signal(p) } :: else fi;
#elif defined(CHECK_THEN_OPEN)
           d_step { if :: state[p] != FREE -> pidfd = p :: else fi };
           d_step { if :: dead && pidfd == p -> signal(p) :: else fi };
#else
           /* strike.rs: the pidfd; then the mark, read again by number; then whether the pidfd still means that number; then the run is
            * judged again; then the signal goes through the pidfd */
           d_step { if :: state[p] != FREE -> pidfd = p :: else fi };
           tagged = bears(p);
           tagged = tagged && pidfd == p;
           tagged = tagged && dead;
           d_step { if :: tagged && pidfd == p -> signal(p) :: else fi };
#endif
           d_step { tagged = false; pidfd = NONE }
        :: else
        fi;
        p++
     :: else -> break
     od;
     p = 0;
     d_step {
       if :: found -> calm = 0 :: else -> calm++ fi;
       found = false
     }
  /* close_books (sweep.rs): only a run of which nothing is left loses its record */
  :: d_step { dead && calm >= CALM && !vm -> record = false; calm = 0 } -> goto over
  :: dead && calm >= CALM && vm -> break
  od;
  /* A later start sweeps again: what is shown is shown of the last. */
  calm = 0;
  if
  :: vm -> (!vm); goto again
  :: !vm && dead -> goto again
  :: !vm && !dead
  fi;
over:
  skip
}

active proctype Judgement() {
  timeout;
  d_step {
    assert(!shim);
    a = 0;
    do
    :: a < PIDS -> assert(!(of_run[a] && state[a] == LIVES)); a++
    :: else -> break
    od;
    a = 0
  }
}
