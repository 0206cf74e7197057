/*
 * The life of one run, from its record to the proof that nothing of it is left, with everything that can end at any moment: the VM,
 * its shim, the worker and what that forked, the run's wardens, the VM that sweeps. Beside it others (unmarked, or of a neighbour whose
 * VM lives, or kept on purpose), and pid numbers that are used again.
 *
 * What is shown, over every order of events (script/model runs it):
 *
 *   safe      no signal ever reaches a process that is not of the run that is being ended; as long as its shim lives, none but the shim's
 *             reaches the tree; and while the VM lives none reaches anything but a warden's what its own shim has left
 *   complete  shim and wardens come to their ends, and then nothing of the run lives: where a start has swept since the VM's end; and
 *             without any start, where the VM had a warden and nobody from outside killed the last one after the VM's end. What has
 *             lost its mark is gone as well where the warden that has started its shim was not killed
 *   proof     when that warden says that it has no orphan, and the shim has ended, then nothing of the tree lives
 *
 * Each transition names the function that it stands for; script/model sees that there is one of that name. A pid is a number that may
 * be used again; a pidfd means one process and goes stale with it. Forks, foreign starts, kills of wardens and crashes are bounded, so
 * every execution comes to an end.
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
 *   OWNER_THEN_MARK    the shim looks for its owner before it has marked itself
 *   REACHED_BY_SWEEP   says that the sweep never signals anybody: what is shown is not shown of nothing
 *   REACHED_BY_SHIM    says so of the shim
 *   REACHED_BY_WARDEN  says so of the warden
 *
 * and of the warden:
 *
 *   WARDEN_LEAVES_ON_HANGUP  the warden leaves when its leash hangs up, which it does before the VM has ended
 *   WARDEN_ACTS_ON_HANGUP    the warden takes the hang-up for the VM's end
 *   WARDEN_LEAVES_IF_LATE    the warden leaves if it finds the VM gone when it starts, as a shim does
 *   WARDEN_TAKES_ALL         the warden does not look for living shims
 *   WARDEN_TAKES_KEPT        the warden does not spare what outlives the run on purpose
 *   WARDEN_BY_NUMBER         the warden signals the number that it has read
 *   WARDEN_ONE_LOOK          one calm pass is enough for the warden to leave
 *   WARDEN_FORGETS_SHIM      the warden leaves though its own shim lives, or what that has left
 *   WARDEN_ADOPTS_NOTHING    the warden is no subreaper
 *   WARDEN_ENDS_ITS_SHIMS    the warden ends all that descends from it, and not what a killed shim has left
 *   WORD_AT_HANGUP           word is asked for when the channel of the shim hangs up, and not when the shim has ended
 *   WARDEN_WAKES_NOBODY      the warden does not wake a shim that is stopped
 *   WARDEN_NOT_REPLACED      the VM does not start another in place of a warden that was killed
 *   SWEEP_TAKES_WARDEN       the sweep does not wait for a living warden
 *
 * LOCK_LAST_TWO_WITNESSES, the record before the lock and a judge who asks for the owner as well, has to pass: one living witness is enough.
 *
 * Left out, because only time tells them apart: a sweep's deadline, past which it kills a shim or a warden that it has waited for (here
 * both may be killed at any moment); and that a warden gives up on those whom it may not signal. A look of the warden and the strike
 * after it (Warden::end_members) are one pass here: each target is looked at once more in both.
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
/* How many of the tree lose their mark. */
#ifndef SHEDS
#define SHEDS 0
#endif
/* How often somebody stops the shim. */
#ifndef HALTS
#define HALTS 0
#endif

/* How many at a time, at most. */
#ifndef WARDENS
#define WARDENS 1
#endif
/* How many are killed from outside, and how often the VM's own process for them crashes. */
#ifndef KILLS
#define KILLS 1
#endif
#ifndef CRASHES
#define CRASHES (WARDENS - 1)
#endif
/* Whether another VM starts: where none does, nobody but the shim and the warden is there. */
#ifndef STARTS
#define STARTS 1
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

/* Whose mark. OTHERS is all that nobody here may take for the run's: none, a neighbour's, the run's with the bit that says `outlives`. */
#define NOBODY 0
#define RUN 1
#define OTHERS 2

/* By descent; WARD is the warden that has started the shim. */
#define INIT 0
#define SHIM 1
#define WARD 2

byte state[PIDS], mark[PIDS], parent[PIDS];
/* The tree: marked or not, as only the model knows. */
bool of_run[PIDS], shed[PIDS];

/* A VM that ends closes its files, which lets leashes and lock go, and does nothing any more; then its pidfd says so. */
bool acts = true, vm = true;
/* An orderly stop has let the leashes of the shims go. */
bool stopping = false;

/* The shim has no number here: others know it by its command line and leave the tree to it while it lives. Whoever stops it (SIGSTOP)
 * does so when it has a tree; without one it is in nobody's way. */
bool shim = false, marked = false, launched = false, halted = false;
/* It has let go of its channel, and is about to end. */
bool closing = false;
bool record = false, lock = false;
byte forks = FORKS, foreign = FOREIGN, halts = HALTS, sheds = SHEDS;
/* Which warden has started the shim; and whether it is one, and was not killed. */
byte starter = WARDENS;
bool descent = false;

/* Who is meant by the worker's number while it is the shim's child, and by the pidfds that sweep and wardens hold. */
byte worker = NONE, pidfd = NONE;

#if WARDENS > 0
/* A warden has no number either. */
#define AWAY 0
#define FORKED 1
#define KEEPS 2
#define ENDED 3
byte warden[WARDENS], held[WARDENS] = NONE;
/* Whose leash the VM holds. */
byte leashed = WARDENS;
/* The VM has to start one, or has not heard yet that it came up. */
bool to_start = false;
byte kills = KILLS, crashes = CRASHES;

#if WARDENS > 1
#define a_warden (warden[0] == KEEPS || warden[1] == KEEPS)
#define no_warden (!(warden[0] == KEEPS || warden[0] == FORKED || warden[1] == KEEPS || warden[1] == FORKED))
#else
#define a_warden (warden[0] == KEEPS)
#define no_warden (!(warden[0] == KEEPS || warden[0] == FORKED))
#endif
#else
#define a_warden false
#define no_warden true
#endif

/* What is to be answered for at the end: a start has swept; there was no warden who could. */
bool swept = false;
#if WARDENS > 0
bool unguarded = false;
#else
bool unguarded = true;
#endif

/* Chosen by the environment, and always 0 between its events. */
byte a = 0;

#define bears(p) (state[p] == LIVES && mark[p] == RUN)
#define child(p) (state[p] != FREE && parent[p] == SHIM)
#define orphan(p) (state[p] != FREE && parent[p] == WARD)
#if PIDS > 3
#define any_child (child(0) || child(1) || child(2) || child(3))
#define any_orphan (orphan(0) || orphan(1) || orphan(2) || orphan(3))
#elif PIDS > 2
#define any_child (child(0) || child(1) || child(2))
#define any_orphan (orphan(0) || orphan(1) || orphan(2))
#else
#define any_child (child(0) || child(1))
#define any_orphan (orphan(0) || orphan(1))
#endif
/* A shim counts as one by its command line and its mark (Engine::add_target in full_pass.rs, RunMembers::role_of in run_members.rs). */
#define shim_seen (shim && marked)
#define shim_runs (shim && !halted && !closing)

inline free(p) {
  state[p] = FREE; mark[p] = NOBODY; parent[p] = INIT; of_run[p] = false; shed[p] = false;
  if :: worker == p -> worker = NONE :: else fi;
#if WARDENS > 0
  if :: held[0] == p -> held[0] = NONE :: else fi;
#endif
#if WARDENS > 1
  if :: held[1] == p -> held[1] = NONE :: else fi;
#endif
  if :: pidfd == p -> pidfd = NONE :: else fi
}

inline ends(p) {
  if
  :: parent[p] == SHIM -> state[p] = ZOMBIE
  :: else -> free(p)
  fi
}

/* The one place where a process is signalled; `rightly` is what the one who does it may go by. */
inline signal(p, rightly) {
  if
  :: state[p] == LIVES ->
     assert(of_run[p] && rightly);
     ends(p)
  :: else
  fi
}

/* What the shim goes by: the leash hangs up, or the VM's pidfd says so (events.rs). */
#define let_go (stopping || !acts)
/* And everybody else. */
#define left_over (!vm && !shim_seen)

#if WARDENS > 0
inline start_warden(w) {
  warden[w] = FORKED; leashed = w
}

/* Its children are init's then. */
inline forsakes(w) {
  if
  :: starter == w ->
     starter = WARDENS;
     a = 0;
     do
     :: a < PIDS -> if :: orphan(a) -> parent[a] = INIT :: else fi; a++
     :: else -> break
     od;
     a = 0
  :: else
  fi
}

inline is_killed(w) {
  warden[w] = ENDED;
  descent = descent && starter != w;
  forsakes(w);
  if
  :: leashed == w -> leashed = WARDENS;
#ifndef WARDEN_NOT_REPLACED
     to_start = acts
#endif
  :: else
  fi;
  if :: !acts && no_warden -> unguarded = true :: else fi
}
#endif

#ifdef WORD_AT_HANGUP
#define shim_ended (!shim || closing)
#else
#define shim_ended (!shim)
#endif

/* RunLock::create (run_lock.rs), then Leash.Warden, then Leash.Shim.request/3 for a worker, or a port; at any time an orderly stop. */
active proctype Vm() {
#ifdef RECORD_FIRST
end_killed_0:
  d_step { acts -> record = true };
end_killed_1:
  d_step { acts -> lock = true };
#else
end_killed_0:
  d_step { acts -> lock = true };
end_killed_1:
  d_step { acts -> record = true };
#endif
#if WARDENS > 0
  /* Leash.Warden.init/1: it has come up before there is a Reaper, without which no worker can start */
end_killed_2:
  d_step { acts -> to_start = true };
end_killed_3:
  acts && !to_start;
#endif
end_killed_4:
  if
  /* of a port: by the VM's fork server */
  :: atomic { acts -> shim = true; launched = true }
#if WARDENS > 0
  /* Leash.Warden.start_shim/2, Control::take: by the warden */
  :: atomic { acts && leashed < WARDENS && warden[leashed] == KEEPS ->
       shim = true; launched = true; starter = leashed; descent = true }
#endif
  fi;
#ifdef DROP_EARLY
end_killed_5:
  d_step { acts -> record = false };
#endif
  /* Leash.Reaper.terminate/2: the shim first, then whoever still has a tag. Here in one look; what it takes where a look is not one
   * moment is shown of the sweep. */
end_killed_6:
  d_step { acts -> stopping = true };
end_killed_7:
  if :: d_step { acts && shim && halted -> halted = false } :: acts && !(shim && halted) fi;
end_killed_8:
  /* Leash.Cleanup.start/2: the warden's word first (WardenChildren::notify_when_clear), once the shim's pidfd says that it has ended */
  atomic { acts && shim_ended && !any_orphan ->
    d_step {
      a = 0;
      do
      :: a < PIDS ->
         assert(!(descent && of_run[a] && state[a] == LIVES));
         if :: bears(a) -> signal(a, stopping) :: else fi;
         a++
      :: else -> break
      od;
      a = 0 } };
  /* Leash.Supervisor stops Leash.Warden after the Reaper: its port closes */
#if WARDENS > 0
end_killed_9:
  atomic { acts -> to_start = false; leashed = WARDENS };
#endif
  /* Leash.Run.close/2 */
end_killed_10:
  atomic { acts -> record = false; lock = false }
}

/* SIGKILL, the kernel's out-of-memory killer: at any moment. It closes its files before it has ended (do_exit, kernel/exit.c). */
active proctype VmDies() {
  d_step {
    acts = false; lock = false;
#if WARDENS > 0
    if :: to_start && no_warden -> unguarded = true :: else fi
#endif
  }
  vm = false
}

/* At any moment, or never. PDEATHSIG takes the worker (spawn.rs, process::die_with); the others go to init, which reaps them. */
active proctype ShimDies() {
#ifdef SHIM_LIVES
  skip
#else
end_never:
  d_step { shim -> closing = true };
  /* exit_notify in kernel/exit.c: children and zombie at one moment. It may have ended by itself before. */
  d_step {
    shim = false; marked = false; halted = false; closing = false;
    if :: worker != NONE -> free(worker) :: else fi;
    a = 0;
    do
    :: a < PIDS ->
       if
       :: child(a) && state[a] == ZOMBIE -> free(a)
#ifdef WARDEN_ADOPTS_NOTHING
       :: child(a) && state[a] == LIVES -> parent[a] = INIT
#else
       :: child(a) && state[a] == LIVES -> parent[a] = (starter < WARDENS -> WARD : INIT)
#endif
       :: else
       fi;
       a++
    :: else -> break
    od;
    a = 0 }
#endif
}

#define comes(p) d_step { foreign > 0 && state[p] == FREE -> foreign--; state[p] = LIVES; mark[p] = OTHERS }
#define goes(p) d_step { of_run[p] && state[p] == LIVES -> ends(p) }
#define forks_as(p, q) \
  d_step { forks > 0 && of_run[p] && state[p] == LIVES && state[q] == FREE -> \
    forks--; state[q] = LIVES; mark[q] = mark[p]; parent[q] = parent[p]; of_run[q] = true; shed[q] = shed[p] }

/* It resets its limit, and clears its environment. */
#define sheds_mark(p) d_step { sheds > 0 && of_run[p] && bears(p) -> sheds--; mark[p] = NOBODY; shed[p] = true }

/* The worker and what it forks, each of whom may end. Marks are inherited (getrlimit(2)). And anybody else, on any number that is free. */
active proctype Processes() {
end_idle:
  do
  /* The shim is a process, too: it may be stopped. */
  :: d_step { halts > 0 && shim_runs && any_child -> halts--; halted = true }
#if SHEDS > 0
  :: sheds_mark(0) :: sheds_mark(1)
#if PIDS > 2
  :: sheds_mark(2)
#endif
#endif
  :: goes(0) :: goes(1) :: forks_as(0, 1) :: forks_as(1, 0) :: comes(0) :: comes(1)
#if PIDS > 2
  :: goes(2) :: forks_as(0, 2) :: forks_as(1, 2) :: forks_as(2, 0) :: forks_as(2, 1) :: comes(2)
#endif
#if PIDS > 3
  :: goes(3) :: forks_as(0, 3) :: forks_as(1, 3) :: forks_as(2, 3) :: forks_as(3, 0) :: forks_as(3, 1) :: forks_as(3, 2) :: comes(3)
#endif
  od
}

inline mark_itself() {
  /* prepare::mark: before the first fork, so that no child is without it */
  if :: shim_runs -> marked = true :: !shim fi
}

inline look_for_owner() {
  /* prepare::owner, EventSources::let_go_within: a run that is over gets no worker any more */
  d_step { shim_runs || !shim -> if :: shim && let_go -> shim = false; marked = false :: else fi }
}

inline spawn_worker() {
  /* spawn::start; PDEATHSIG and the look at the parent close the race with the shim's death */
  atomic {
    if
    :: shim_runs ->
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
    :: !shim
    fi
  }
}

/* Supervisor::kill_pass, tree::walk: a child that is not reaped keeps its number. */
#ifdef REACHED_BY_SHIM
#define shim_kills(p) d_step { shim_runs && let_go && child(p) && state[p] == LIVES -> assert(false) }
#else
#define shim_kills(p) d_step { shim_runs && let_go && child(p) && state[p] == LIVES -> signal(p, let_go) }
#endif
/* Children::reap */
#ifdef KILL_AFTER_REAP
#define shim_reaps(p) \
  d_step { shim_runs && let_go && child(p) && state[p] == ZOMBIE -> free(p) } \
  d_step { if :: shim -> signal(p, let_go) :: else fi }
#else
#define shim_reaps(p) d_step { shim_runs && let_go && child(p) && state[p] == ZOMBIE -> free(p) }
#endif

/* run.rs, supervise.rs; `let_go` is what EventSources::wait waits for */
active proctype Shim() {
end_never:
  (launched);
#if defined(FORK_THEN_MARK)
  look_for_owner();
  spawn_worker();
  mark_itself();
#elif defined(OWNER_THEN_MARK)
  look_for_owner();
  mark_itself();
  spawn_worker();
#else
  mark_itself();
  look_for_owner();
  spawn_worker();
#endif
end_killed:
  do
  :: shim_kills(0) :: shim_reaps(0) :: shim_kills(1) :: shim_reaps(1)
#if PIDS > 2
  :: shim_kills(2) :: shim_reaps(2)
#endif
#if PIDS > 3
  :: shim_kills(3) :: shim_reaps(3)
#endif
  /* wait::peek_any says ECHILD: it exits when nothing of its tree is left */
  :: d_step { shim_runs && let_go && !any_child -> shim = false; marked = false }
  od
}

#if WARDENS > 0
/* Somebody kills a warden; or Leash.Warden crashes, which lets its leash go. */
active proctype Outside() {
end_never:
  do
  :: d_step { kills > 0 && (warden[0] == FORKED || warden[0] == KEEPS) -> kills--; is_killed(0) }
#if WARDENS > 1
  :: d_step { kills > 0 && (warden[1] == FORKED || warden[1] == KEEPS) -> kills--; is_killed(1) }
#endif
  :: d_step { crashes > 0 && acts && leashed < WARDENS -> crashes--; leashed = WARDENS; to_start = true }
  od
}

/* Leash.Warden.open/1: one that ended, or that nobody holds any more, is replaced. */
active proctype LeashWarden() {
end_idle:
  do
  :: d_step { acts && to_start && leashed == WARDENS && warden[0] == AWAY -> start_warden(0) }
#if WARDENS > 1
  :: d_step { acts && to_start && leashed == WARDENS && warden[1] == AWAY -> start_warden(1) }
#endif
  od
}

#ifdef WARDEN_TAKES_KEPT
#define is_wanted(p) (state[p] == LIVES && (mark[p] != NOBODY))
#else
#define is_wanted(p) bears(p)
#endif

#ifdef WARDEN_TAKES_ALL
#define shim_spares false
#else
#define shim_spares shim_seen
#endif

#ifdef WARDEN_ACTS_ON_HANGUP
#define is_over(w) (!vm || is_hung_up(w))
#else
#define is_over(w) (!vm)
#endif
#define is_hung_up(w) (!acts || leashed != w)
/* WardenChildren::any: its shims, and what they left */
#ifdef WARDEN_FORGETS_SHIM
#define has_own(w) false
#else
#define has_own(w) (starter == w && (shim || any_orphan))
#endif
/* WardenChildren::end_orphans: a child that is not reaped keeps its number */
#ifdef WARDEN_ENDS_ITS_SHIMS
#define warden_ends(p) d_step { warden[w] == KEEPS && starter == w && (orphan(p) || child(p)) && state[p] == LIVES -> signal(p, !shim) }
#else
#define warden_ends(p) d_step { warden[w] == KEEPS && starter == w && orphan(p) && state[p] == LIVES -> signal(p, !shim) }
#endif
#if PIDS > 3
#define warden_ends_any warden_ends(0) :: warden_ends(1) :: warden_ends(2) :: warden_ends(3)
#elif PIDS > 2
#define warden_ends_any warden_ends(0) :: warden_ends(1) :: warden_ends(2)
#else
#define warden_ends_any warden_ends(0) :: warden_ends(1)
#endif

#ifdef WARDEN_ONE_LOOK
#define WARDEN_CALM 1
#else
/* Quiescence::note (quiescence.rs), as CALM below. */
#define WARDEN_CALM (FORKS + 1)
#endif

/* Processes are numbered as they stand here; spin says so where this one is wrong. */
#define FIRST_WARDEN 7

/* warden.rs. Whatever it is about to do, it may have been killed. */
active [WARDENS] proctype Warden() {
  byte w = _pid - FIRST_WARDEN, p = 0, calm = 0;
  bool found = false;
end_away:
  (warden[w] == FORKED || warden[w] == ENDED);
  if
  :: warden[w] == ENDED -> goto ended
#ifdef WARDEN_LEAVES_IF_LATE
  :: atomic { warden[w] == FORKED && !vm -> warden[w] = ENDED; goto ended }
#endif
  /* warden::begin: it connects, and says that it is ready; also where the VM has ended meanwhile */
  :: d_step { warden[w] == FORKED ->
       warden[w] = KEEPS;
       if :: acts && leashed == w -> to_start = false :: else fi }
  fi;
  /* Warden::outlives_owner: a leash that hangs up says that the VM is ending, or only that it has let go of this one */
  do
  :: warden[w] == ENDED -> goto ended
  :: warden[w] == KEEPS && is_over(w) -> break
  :: warden_ends_any
#ifdef WARDEN_LEAVES_ON_HANGUP
  :: atomic { warden[w] == KEEPS && is_hung_up(w) -> warden[w] = ENDED; goto ended }
#endif
  /* After ten seconds: a VM that is dying has ended by then. */
  :: atomic { warden[w] == KEEPS && acts && is_hung_up(w) && !has_own(w) -> warden[w] = ENDED; goto ended }
  :: warden[w] == KEEPS && vm && is_hung_up(w) && !has_own(w) ->
     do
     :: d_step { warden[w] == KEEPS && p < PIDS -> found = found || bears(p); p++ }
     :: warden[w] != KEEPS || p == PIDS -> break
     od;
     p = 0;
     d_step {
       if :: found || shim_seen -> calm = 0 :: else -> calm++ fi;
       found = false }
     if
     :: atomic { warden[w] == KEEPS && calm >= WARDEN_CALM && !has_own(w) ->
          warden[w] = ENDED;
          /* The VM had let go of this one before, and its end came while it started another or after that one was killed. */
          if :: !acts && leashed != w && no_warden -> unguarded = true :: else fi;
          goto ended }
     :: warden[w] != KEEPS || calm < WARDEN_CALM || has_own(w)
     fi
  od;
  calm = 0;
  /* Warden::end_members: a shim that lives is woken and waited for, by its pidfd; what has none is killed */
  do
  :: warden[w] == ENDED -> break
  :: warden_ends_any
#ifndef WARDEN_WAKES_NOBODY
  :: d_step { warden[w] == KEEPS && shim_seen && halted -> halted = false }
#endif
  :: warden[w] == KEEPS && !shim_spares && calm < WARDEN_CALM ->
     do
     :: d_step { warden[w] == KEEPS && p < PIDS && !is_wanted(p) -> p++ }
     :: d_step { warden[w] == KEEPS && p < PIDS && is_wanted(p) -> found = true };
#ifdef WARDEN_BY_NUMBER
        d_step { if :: warden[w] == KEEPS -> signal(p, left_over) :: else fi; p++ }
#else
        /* MarkScan::examine: the mark; the pidfd; the mark again, by number; then whether the pidfd still means that number */
        d_step { if :: state[p] != FREE -> held[w] = p :: else fi };
        d_step { if :: !is_wanted(p) || held[w] != p -> held[w] = NONE :: else fi };
        /* RunMembers::signal_without_shim */
        d_step {
          if
          :: held[w] == p && warden[w] == KEEPS && !shim_spares ->
#ifdef REACHED_BY_WARDEN
             assert(false);
#endif
             signal(p, left_over)
          :: else
          fi;
          held[w] = NONE; p++ }
#endif
     :: warden[w] != KEEPS || p == PIDS -> break
     od;
     p = 0;
     d_step {
       if :: found -> calm = 0 :: else -> calm++ fi;
       found = false }
  :: atomic { warden[w] == KEEPS && calm >= WARDEN_CALM && !has_own(w) -> warden[w] = ENDED; break }
  od;
ended:
  atomic { warden[w] = AWAY; forsakes(w); held[w] = NONE; p = 0; calm = 0; found = false; goto end_away }
}
#endif

#ifdef LOCK_ALONE
#define dead (record && !lock)
#else
/* Policy::weigh (judge_run.rs): the lock is free, and the owner whom the record names is gone; without a record nobody says who owns it */
#define dead (record && !lock && !vm)
#endif

#ifdef SWEEP_TAKES_WARDEN
#define in_charge shim_seen
#else
#define in_charge (shim_seen || a_warden)
#endif

#ifdef ONE_LOOK
#define CALM 1
#else
/* Churn::is_quiescent (churn.rs) waits until nobody comes and goes. Here that is a look for each fork that may still be under way. */
#define CALM (FORKS + 1)
#endif

#if STARTS > 0
/* The start of another VM: Engine::step (engine.rs). It may come at any moment, also before the lock is taken, and end at any. */
active proctype Sweep() {
  byte p = 0, calm = 0;
  bool found = false;
again:
  do
  :: !dead -> break
#ifdef SWEEP_TAKES_WARDEN
  :: d_step { dead && warden[0] == KEEPS -> warden[0] = ENDED }
#endif
  /* is_in_charge (targets.rs): a shim or warden that lives is waited for; Engine::due: a shim that is stopped is woken */
  :: d_step { dead && shim_seen && halted -> halted = false }
  :: dead && calm < CALM && !in_charge ->
     found = false;
     do
     /* scan_until (scan.rs): one number after the other, while processes come and go */
     :: d_step { p < PIDS && !bears(p) -> p++ }
     :: d_step { p < PIDS && bears(p) -> found = true };
#ifdef REACHED_BY_SWEEP
        assert(false);
#endif
#if defined(KILL_BY_NUMBER)
        d_step { if :: dead -> signal(p, left_over) :: else fi; p++ }
#else
        /* Engine::signal (signalling.rs): the pidfd; then the mark, read again by number; then the run is judged again, and whether the
         * pidfd still means that number; then the signal goes through the pidfd */
        d_step { if :: state[p] != FREE -> pidfd = p :: else fi };
#ifndef CHECK_THEN_OPEN
        d_step { if :: !bears(p) || pidfd != p -> pidfd = NONE :: else fi };
#endif
        d_step { if :: dead && pidfd == p -> signal(p, left_over) :: else fi; pidfd = NONE; p++ }
#endif
     :: p == PIDS -> break
     od;
     p = 0;
     d_step {
       if :: found -> calm = 0 :: else -> calm++ fi;
       found = false
     }
  /* Engine::close_run (finalize.rs): only a run of which nothing is left loses its record */
  :: d_step { dead && calm >= CALM && !vm -> record = false; calm = 0; swept = true } -> goto over
  :: dead && calm >= CALM && vm -> break
  od;
  /* A later start sweeps again: what is shown is shown of the last. */
  calm = 0;
  if
  :: vm -> (!vm); goto again
  :: !vm && dead -> goto again
  :: d_step { !vm && !dead -> swept = true }
  fi;
over:
  skip
}
#endif

/* At every moment at which there is nobody any more but a sweep, whose VM may end, too. */
active proctype Judgement() {
end_never:
  do
  :: d_step { !vm && !shim && no_warden && (swept || !unguarded) ->
       a = 0;
       do
       :: a < PIDS -> assert(!(of_run[a] && state[a] == LIVES && (!shed[a] || descent))); a++
       :: else -> break
       od;
       a = 0 }
  od
}
