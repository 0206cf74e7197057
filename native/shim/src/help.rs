//! The output of `--help`.

/// The text of `--help`.
pub const TEXT: &str = "\
usage: leash-shim --run-id=ID [OPTIONS] -- COMMAND [ARGS...]
       leash-shim --run-id=ID --attach=PID[:TICKS] [OPTIONS]
       leash-shim --run-id=ID --warden [--control=NAME] [--owner=PID:TICKS]

Starts COMMAND and ends when nothing of its process tree is left: children,
daemons, sessions of their own. Whoever holds the leash ends the tree by
letting go.

  leash-shim --run-id=s59m65f -- sleep 100

Every option is one argument. The first is always --run-id.

  --run-id=ID         the run: 7 characters of 0-9 and a-z
  --worker=N          the worker's number within the run, 1 to 32766
  --name=TEXT         1 to 200 bytes by which a detached tree is found again;
                      the third argument, where it is given
  --channel=FD        a socket that is leash and report at once, and on which
                      its other end may ask for the ladder or for SIGKILL
  --leash=FD          end the tree when FD hangs up; it is never read
  --owner=PID:TICKS   end the tree when that process ends; TICKS is field 22
                      of /proc/PID/stat
  --report=FD         write report frames to FD
  --stdin=WHERE       null, inherit (default), fd:N from 3 up, or open: a
                      pipe that ends with the leash, or with us, and brings
                      nothing
  --stdout=WHERE      null, inherit (default), fd:N from 3 up or file:PATH,
                      appended to
  --stderr=WHERE      as --stdout, or stdout: the same place as stdout
  --stop=STEPS        the ladder: SIGNAL:MS[@TO], CMD:MS or STDIN:MS,
                      separated by commas, at most 8; MS may be inf; TO is
                      leader, group (default) or tree. Default
                      TERM:2000@group. SIGKILL always comes last. STDIN has
                      the VM close the command's stdin, and waits; by hand it
                      closes nothing
  --step=COUNT ...    the next COUNT arguments (at most 32) are the command
                      of a CMD step; one --step for each, in order, behind
                      all other options
  --linger=MS         how long the children of a command that exited by itself
                      get before the ladder; default 200
  --cd=DIR            the command's working directory
  --arg0=NAME         the command's argv[0]
  --uid=N --gid=N --groups=N,N...
                      the command's ids; --uid without --groups: no
                      supplementary groups
  --limits=LIMITS     NAME:VALUE, separated by commas: NOFILE, NPROC, CORE,
                      FSIZE, CPU, AS (setrlimit(2), soft and hard), NICE
  --no-mark           leave RLIMIT_LOCKS alone
  --on-hangup=WHAT    stop (default) or detach: the tree outlives leash and
                      owner
  --on-exit=WHAT      stop (default) or keep: what a command that exited by
                      itself leaves goes on, and no sweep ends it
  --on-term=WHAT      auto (default): while the leash holds, TERM from pid 0
                      or 1 is not for us; ladder: it is
  --foreground        stay in the terminal's session, with the command in our
                      process group: it reads the terminal, the keyboard's
                      signals are its own, and when it stops so do we
  --attach=PID[:TICKS]
                      instead of COMMAND, a process that is there already:
                      it and what it starts end as a command's tree does.
                      Beside it only run-id, worker, channel, leash, owner,
                      report, stop, step, linger and on-term
  --warden            no command: starts the shims that are asked for on
                      --control, and ends what is below one that was killed.
                      Once the owner has ended, SIGKILL to what has the run's
                      mark and no leash-shim, until nothing is left. Needs
                      --control or --owner; heeds no signal
  --control=NAME      beside --warden: the abstract Unix socket on which the
                      owner listens, and asks for the shims of its run
  --help, --version   print this, or the version; as the only argument

Once COMMAND runs, its ARGS are wiped from our own command line, except with
--on-hangup=detach or --name.

signals to leash-shim:
  TERM, HUP, INT      begin the ladder; a second of them kills at once
  QUIT                kills at once, whatever was going on
  USR1, USR2, WINCH, CONT and all others
                      are passed on to the command, without --leash and
                      --channel only
  HUP, INT, QUIT that are ignored at the start (nohup, &) stay ignored, for us
  and for the command, without --leash and --channel only

exit status:
  0 to 255            the command's own; 0 of a process that was attached
  128+N               signal N ended the command
  127                 the command was not found
  126                 the command could not be executed
  125                 leash-shim itself failed; nothing was started
";

/// The text of `--version`.
pub const VERSION: &str = concat!("leash-shim ", env!("CARGO_PKG_VERSION"), "\n");
