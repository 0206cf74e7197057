defmodule Leash do
  @moduledoc """
  Every OS process your BEAM app starts, on a leash.

      {Leash.Worker, command: "python3", args: ["-u", "worker.py"], name: MyApp.Embedder}

  Operating system processes that a VM starts stay when it is killed: they hold ports, GPUs and
  files, and write stale output. Leash starts them tagged with the run they belong to, ends them and
  everything they started on every path on which the run can end, and at the next start ends what a
  crashed run left behind, without touching a process that is not its own.

    * `Leash.Worker` - a supervised program
    * `cmd/3` - a command and what it wrote; `stream!/3` - the same, part by part
    * `open_port/3` - a port like any other, whose program ends with it
    * `attach/2` - a process that somebody else started, ended with its owner
    * `list/1`, `info/1`, `tree/1` - the workers, with what their trees consist of and use
    * `Leash.OSProcess` - looking at, signalling and monitoring any process by identity instead of pid
    * `stop_all/2` - every worker of a group ended in parallel, for the shutdown of a pool
    * `Leash.Cluster` - the workers, a sweep or the end of a group on every node
    * `:leash` - the same from Erlang, with charlists, proplists and maps
    * `Leash.Telemetry` - events, where the host has `:telemetry`; `Leash.Logger` writes them to the log for those who ask
    * `Leash.Operator` - the command `leash`, for operators; also `mix leash.ps`, `mix leash.stop` …
    * `adopt/2`, `detached/0` - workers that outlive their VM on purpose
    * `sweep/1` - what crashed runs left; called at application start
    * `Leash.RunId` - the ids that runs are known by

  ## Configuration

      config :leash,
        run_dir: "/run/my_app/leash"

  #{Leash.Schema.docs(Leash.Config.schema())}
  """

  alias Leash.{Cleanup, Command, Detached, Ladder, Native, Run, RunId, StopAll, Sweep}
  alias Leash.Command.Collect

  @doc """
  This run's id. Raises while the `:leash` application is stopped.
  """
  @spec run_id() :: RunId.t()
  def run_id, do: Run.current!().id

  @typedoc """
  The name of a group of workers; not `nil` and not `:all`.

  An atom such as the pool's module, a string where names come from outside, a tuple for one of many (`{MyApp.Pool, 3}`).
  """
  @type group :: atom() | String.t() | tuple()

  @typedoc """
  What became of one worker in `stop_all/2`.

  `:pid` is the process that held it, `:os_pid` its program where that was known. The `:result`:

    * `{:ok, %Leash.Exit{}}` - nothing of the tree is left, and this is how it ended
    * `{:ok, :gone}` - nothing of the tree is left, and how it ended is not known here: of `open_port/3`, of a command
      or stream, whose caller has the status, or the process of the worker was killed or did not answer
    * `{:error, %{survivors: list}}` - these processes could not be ended, see `t:Leash.Worker.survivor/0`; with an empty list nobody was found,
      but not everybody could be looked at
  """
  @type stopped :: %{
          worker: pos_integer(),
          pid: pid(),
          label: String.t(),
          group: group() | nil,
          os_pid: pos_integer() | nil,
          result:
            {:ok, Leash.Exit.t() | :gone} | {:error, %{survivors: [Leash.Worker.survivor()]}}
        }

  @typedoc "An option of `cmd/3`."
  @type cmd_option :: unquote(Leash.Schema.typespec(Command.Options.cmd()))

  @typedoc "An option of `stream!/3` and `stream/3`."
  @type stream_option :: unquote(Leash.Schema.typespec(Command.Options.stream()))

  @doc """
  Runs a command to its end and returns what it wrote and its exit status: `System.cmd/3` on a leash.

      iex> Leash.cmd("echo", ["hello"])
      {"hello\\n", 0}

  It is over when its output has ended, as with `System.cmd/3`: a background process that still holds stdout is
  waited for. Then, or when `:timeout` or `:max_output` says so, everything that it started is ended, and the call
  returns when nothing of that is left. The same happens when the caller is killed in the middle, and when the VM is.

  What becomes of a background process:

  | | `System.cmd/3` | `Leash.cmd/3`, the streams |
  |---|---|---|
  | `sh -c 'x &'`, x holds stdout | waits for x | waits for x; `:linger` or `:timeout` ends it, and the status stays that of `sh` |
  | `sh -c 'x > /dev/null 2>&1 &'` | leaves x behind | ends x |
  | `git gc --auto`, `pg_ctl start` (daemons) | leaves them behind | ends them |

  With `on_exit: :keep` what is left goes on when the command has exited by itself; see `guides/commands.md` for that, and for what
  corresponds to the options of other calls.

  Other differences: a command that a signal ended has 128 and the signal's number as its status on every system, and
  `:timeout` and `:max_output` return what was written until then.

  A status that has come is what is returned, whatever follows:

  | what happens | what is returned |
  |---|---|
  | `:timeout` passes while the command runs | `:timeout` |
  | `:timeout` passes after its exit, while something holds stdout | its status |
  | something that it started cannot be ended (it is root's, or waits in the kernel) | its status, or `:timeout` |
  | its shim is killed, and it ends with that | 137, as for SIGKILL |
  | the same after its exit | its status |

  What could not be ended, and an end that was not seen, are a warning in the log; the former is an event of `Leash.Telemetry`
  as well, `[:leash, :worker, :survivors]`.

  ## Options

  #{Leash.Schema.docs(Command.Options.cmd())}
  ## Raises

    * `ErlangError` with `:original` `:enoent`, `:eacces` - there is no such program; `:emfile`, `:eagain`, `:e2big` … - the
      system refused
    * `Leash.OptionsError` - an option is wrong; nothing was started
    * `ArgumentError` - the command or an argument is no binary, or the command has a NUL byte
    * `RuntimeError` - the `:leash` application is not started, `stop_all/2` is ending the group, or the VM's working
      directory was deleted
    * what `:into` or the enumerable of `:input` raise; the tree is ended first
    * `ErlangError` with `:original` `:no_warden`, `:shim_died` (the shim was killed before the command was executed),
      `:too_many_workers`, `:no_pidfd` - as for `Leash.Worker`; nothing is left
  """
  @spec cmd(String.t(), [binary()], [cmd_option()]) ::
          {Collectable.t() | {Collectable.t(), binary()}, 0..255 | :timeout | :max_output}
  def cmd(command, args \\ [], options \\ []), do: Collect.run(command, args, options)

  @doc """
  The output of a command as a lazy stream of binaries, read as fast as it is consumed.

      iex> Leash.stream!("seq", ["3"]) |> Enum.join()
      "1\\n2\\n3\\n"

      iex> Leash.stream!("sort", [], input: ["b\\n", "a\\n"]) |> Enum.join()
      "a\\nb\\n"

  The command starts when the stream is run, and each run starts it anew. A consumer that takes its time holds the
  command back: nothing is read before it is asked for. When the stream ends, is halted (`Enum.take/2`), its consumer raises
  or is killed, everything that the command started is ended. What becomes of background processes
  is in the table of `cmd/3`.

  The process that begins to read a stream has to go on with it: in another one it raises `RuntimeError`, and the command
  is ended.

  Raises `Leash.CommandError` at the end unless the exit status is 0, and what `cmd/3` raises. A stream that is
  halted does not look at the status. What survives, and a shim that is killed, change no more than they do for `cmd/3`: the latter
  is `{:signal, :sigkill}`.

  ## Options

  #{Leash.Schema.docs(Command.Options.stream())}
  """
  @spec stream!(String.t(), [binary()], [stream_option()]) :: Enumerable.t()
  def stream!(command, args \\ [], options \\ []),
    do: Leash.Command.Stream.new(command, args, options, Leash.Command.Stream.last!(command))

  @doc """
  Like `stream!/3`, with `{:exit, how}` as its last element instead of an exception.

  `how` is `{:status, 0..255}`, `{:signal, name}` or `:timeout`.

      iex> Leash.stream("sh", ["-c", "echo out; exit 3"]) |> Enum.to_list()
      ["out\\n", {:exit, {:status, 3}}]
  """
  @spec stream(String.t(), [binary()], [stream_option()]) :: Enumerable.t()
  def stream(command, args \\ [], options \\ []),
    do: Leash.Command.Stream.new(command, args, options, &Leash.Command.Stream.last/1)

  @typedoc "An option of `open_port/3`."
  @type port_option :: unquote(Leash.OpenPort.Options.typespec())

  @doc """
  Opens a port whose program, with everything that it starts, ends with the port: `Port.open/2` on a leash.

      port = Leash.open_port("python3", ["-u", "worker.py"], [:binary, :exit_status, packet: 4])
      Port.command(port, "request")

  It is a port like any other: the calling process owns it, `Port.command/2`, `Port.connect/2`, `Port.info/1` and
  `Port.monitor/1` work, and its messages are those of `Port.open/2`. What ends the tree:

  | what happens | what ends the tree |
  |---|---|
  | `Port.close/1`, `:normal` or `:shutdown` exit of the owner | the ladder of `:stop`, then SIGKILL |
  | the owner, or another process linked to the port, crashes or is killed | the same; with `on_crash: :kill` SIGKILL at once |
  | the program ends by itself | its children get `:linger` milliseconds, then the ladder |
  | the VM ends in any way, SIGKILL included | the ladder, by the shim |
  | the `:leash` application stops | the ladder, bounded by `:stop_timeout` |
  | the shim is killed | SIGKILL to everything that carries the tree's tag |

  This holds, too, while data wait in the port's queue, which keep a bare port's program alive. `Port.close/1` does not wait
  until the tree is gone; `list/0` shows the tree until then.

  The program is looked for in `PATH`, or from the VM's current directory. Differences to a bare port:

    * with `:exit_status` the owner gets the status when the program's children are gone as well, so exactly once also
      where one of them would have kept stdout open for ever; `Port.info(port, :os_pid)` and `:name` are the shim's
    * a program that cannot be executed although it is there (a missing interpreter) has status 126 or 127 and
      a line on the VM's stderr, instead of the error number as status
    * a program that closes its stdin while it lives causes no `:epipe`, because the shim keeps the pipe
      open; what is written then stays in the pipe. One that closes its stdout is seen as usual, except
      with `:in`, where the shim keeps stdout
    * none for `System.halt/1`, which waits for ever while a program does not read what is in its port's queue. No code
      runs in the VM then, so nothing ends that program before the VM; `System.stop/1` ends both
    * an empty value in `:env` is an empty variable, where a bare port unsets it; `nil` and `false` unset
    * a port that closes at the end of stdout (neither `:exit_status` nor `:eof` is given) ends the program, too

  ## Options

  Those of `Port.open/2` for programs except `:nouse_stdio`, and `:stop`, `:linger`, `:limits`, `:mark`, `:run_id_flag` and
  `:group` of `Leash.Worker`.

  #{Leash.OpenPort.Options.docs()}
  ## Raises

    * `ErlangError` with `:original` `:enoent`, `:eacces` - there is no such program, or it cannot be one; `:emfile`,
      `:eagain`, `:system_limit` … - the system refused
    * `Leash.OptionsError` - command, arguments or an option are wrong
    * `RuntimeError` - the `:leash` application is not started, `stop_all/2` is ending the group, or the VM's working
      directory was deleted

  Nothing was started then.
  """
  @spec open_port(String.t(), [binary()], [port_option()]) :: port()
  def open_port(command, args \\ [], port_options \\ []),
    do: Leash.OpenPort.open(command, args, port_options)

  @typedoc "An option of `attach/2`."
  @type attach_option :: unquote(Leash.Schema.typespec(Leash.Attachment.schema()))

  @doc """
  Ties an OS process that somebody else started to an owner: it ends, with everything below it, when its owner ends, or the VM.

      port = Port.open({:spawn_executable, "/usr/bin/python3"}, args: ["-u", "worker.py"])
      {:ok, attachment} = Leash.attach(port, group: :workers)

      {:ok, server} = Leash.OSProcess.identify(pid_from_a_file)
      {:ok, attachment} = Leash.attach(server, owner: :application, stop: [sigint: 5_000])

  The target is a handle of `Leash.OSProcess`, a number (whoever has it at the call), or a port, whose program is meant; take a handle where time passes between
  learning the number and using it. The port itself stays its owner's.

  The process that is returned stands for it, as a `Leash.Worker` does for a program, and is not linked: `Leash.Worker.stop/2` ends the tree,
  `Leash.Worker.info/1` and `os_pid/1` describe it, `list/0` lists it, `stop_all/2` ends it with its group. It exits with `:normal` when the
  process ends by itself or is stopped. What ends the tree:

  | what happens | what ends the tree |
  |---|---|
  | `Leash.Worker.stop/2`, `stop_all/2`, the owner exits with `:normal` or `:shutdown`, an owner outside of the VM ends | the ladder of `:stop`, then SIGKILL |
  | the owner crashes or is killed; the returned process is killed | the same; with `on_crash: :kill` SIGKILL at once |
  | it ends by itself | what it started gets `:linger` milliseconds, then the ladder |
  | the VM ends in any way, SIGKILL included | the ladder, by the shim |
  | the `:leash` application stops | the ladder, bounded by `:stop_timeout` |
  | the shim is killed | SIGKILL to everything that carries the tree's mark; `:shim_died` |
  | VM and shim are killed together | SIGKILL by the run's warden; if that was killed too, the sweep of the next start |

  ## Who is covered

  A shim of its own marks the process and everybody below it; whatever they start inherits the mark, also daemons and other sessions. Who had left the tree *before*
  is not covered, and is never signalled. `Leash.Worker.info(attachment).not_covered` names, as `%{pid: pid, command: command, why: why}`, whom the
  call could tell: `:escaped` is in a session or process group of the tree without being below it, `:unmarked` is below it and could not be marked
  (a set-user-id program), so that it is ended only as long as it is below. A daemon that had made a session of its own cannot be told from anybody
  else's. Nobody is stopped while he is marked; what is started in that moment by somebody who ends in it may be missed as well.

  How the process ended only its parent learns: `status` and `signal` of its `Leash.Exit` are `nil`. Nobody but the parent can reap it either.

  ## Options

  #{Leash.Schema.docs(Leash.Attachment.schema())}
  ## Errors

  Nothing was changed then.

    * `%Leash.OptionsError{}` - target or option are wrong
    * `:noproc` - the owner has ended already, or ended meanwhile
    * `:esrch`, `:reused` - the process has ended, or its number is another's by now
    * `:eperm` - it may not be signalled, or not be marked: another user's, a set-user-id program, and for root without `CAP_SYS_RESOURCE` whatever is not root's
    * `{:refused, why}` - `:vm`, `:ancestor`, `:kernel_thread` or `:pid_1` as for `Leash.OSProcess.signal/2` (the VM's fork server counts as an
      ancestor); `:marked`: it belongs to a run already, as a program of `Leash.Worker` or of `open_port/3` does, and so has its shim;
      `:no_depth`: inside eight runs no mark is left
    * `{:owner, reason}` - the owner outside of the VM cannot be watched, reasons of `Leash.OSProcess`
    * `:unknown`, `:no_proc`, `:emfile`, `:enfile` - as for `Leash.OSProcess`
    * `:not_running`, `:stopping`, `:too_many_workers`, `:no_warden`, `{:shim, reason}`, `:start_timeout`, `:shim_died`, `{:already_started, pid}` - as for `Leash.Worker`
  """
  @spec attach(Leash.OSProcess.target() | port(), [attach_option()] | map()) ::
          {:ok, pid()} | {:error, term()}
  def attach(target, options \\ []), do: Leash.Attachment.start(target, options)

  @typedoc """
  How the previous life of a worker with this name ended, in this VM: `:exit` is nil where nobody saw it (its process was killed),
  `:reason` what its process exited with.
  """
  @type last_exit :: %{exit: Leash.Exit.t() | nil, reason: term(), at: DateTime.t()}

  @typedoc """
  A worker as `list/1` and `info/1` have it.

    * `:run_id`, `:worker` - this run, and the number in it
    * `:kind` - `:worker`, `:command` (of `cmd/3` and the streams), `:port`, `:attachment`, or `:adopted`
    * `:pid` - the process that holds it. That of a `:command` is its caller, which takes no call of `Leash.Worker`; `:name` what that is registered as, `:label` what it is called in logs, `:group`
    * `:os_pid` - its program, `:shim_pid` - the shim above it
    * `:tree` - `:alive` or `:ending`
    * `:age` - milliseconds since it was started
    * `:processes` - how many processes its tree has. The shim is not counted, nor zombies, nor who lost its mark (see README)
    * `:rss` - bytes of memory that they have in RAM; what several of them share counts for each of them
    * `:cpu` - milliseconds of CPU time that they used, with children that have ended and were waited for by them
    * `:last_exit` - see `t:last_exit/0`; nil for a first life, and for workers without a name
  """
  @type listed :: %{
          run_id: RunId.t() | nil,
          worker: pos_integer(),
          kind: :worker | :command | :port | :attachment | :adopted,
          pid: pid(),
          name: GenServer.name() | nil,
          label: String.t(),
          group: group() | nil,
          os_pid: pos_integer() | nil,
          shim_pid: pos_integer() | nil,
          tree: :alive | :ending,
          age: non_neg_integer(),
          processes: non_neg_integer() | nil,
          rss: non_neg_integer() | nil,
          cpu: non_neg_integer() | nil,
          last_exit: last_exit() | nil
        }

  @typedoc """
  A process of a worker's tree: bytes of memory (`:rss`), milliseconds of CPU time (`:cpu`) and of age. `:parent` is another
  process of the tree, the shim, or whoever took it in; `:state` is the letter of proc_pid_stat(5).
  """
  @type os_member :: %{
          os_pid: pos_integer(),
          parent: pos_integer() | nil,
          state: String.t(),
          command: String.t(),
          rss: non_neg_integer(),
          cpu: non_neg_integer(),
          age: non_neg_integer()
        }

  @doc """
  The workers of this run, by number, see `t:listed/0`.

  A worker is listed until its tree is gone, also when its process is not there any
  more. Of `open_port/3` the `:pid` is the process that watches the port, the label the program's name, and `:os_pid`
  is not known: nil. `:processes`, `:rss` and `:cpu` are nil where `/proc` cannot be read.

  One look at the process table for all of them, outside of the schedulers: for 1,000 workers with 5,000 processes it takes less than 50 ms.

  ## Options

  #{Leash.Schema.docs(Leash.Listing.schema())}
  Raises `Leash.OptionsError` when an option is wrong.
  """
  @spec list(vitals: boolean()) :: [listed()]
  def list(options \\ []), do: Leash.Listing.list(options)

  @doc """
  One worker, by its process, its registered name or its number: as in `list/1`, and the processes of its tree as `:members`.

  nil where there is no such worker (any more). Asks the process table and not the worker, so that it answers for a worker whose process
  does not. `:members` is nil where `/proc` cannot be read.
  """
  @spec info(pid() | GenServer.name() | pos_integer()) ::
          %{
            required(:members) => [os_member()] | nil,
            required(:worker) => pos_integer(),
            optional(atom()) => term()
          }
          | nil
  def info(worker), do: Leash.Listing.info(worker)

  @doc """
  Workers with all of their processes, drawn as a tree: `IO.puts(Leash.tree())`.

      s59m65f  owner 4242, 1 worker, 3 processes, 31M
      └─ worker 1 MyApp.Embedder in :pool [3 processes, 31M, cpu 0.41s, 5m02s]
         └─ 4250 S [24M, cpu 0.39s, 5m02s] python3 -u embedder.py
            ├─ 4251 S [3M, cpu 0.01s, 5m01s] python3 -u embedder.py
            └─ 4252 S [4M, cpu 0.01s, 5m01s] python3 -u embedder.py

  `which` is `:all`, a group, or a worker's process, name or number. Each process has number, state, memory, CPU time, age and command; beyond
  500 processes the command's name alone, because command lines cost as much as all the rest. Control characters in what
  others wrote are replaced.
  """
  @spec tree(:all | group() | pid() | GenServer.name() | pos_integer()) :: String.t()
  def tree(which \\ :all), do: Leash.TreeView.draw(which)

  @doc """
  Ends the workers of a group, or `:all`, in parallel and under one deadline, and returns when nothing of them is left.

      def prep_stop(state) do
        with {:error, stopped} <- Leash.stop_all(MyApp.Pool, deadline: 8_000) do
          for %{label: label, result: {:error, why}} <- stopped, do: Logger.error("\#{label}: \#{inspect(why)}")
        end

        state
      end

  Meant are the trees of `Leash.Worker`, `cmd/3`, `stream!/3`, `stream/3` and `open_port/3` that were started with `group:`, those
  that are still starting, and those whose process is gone already. Each ends by its own `:stop`; what is left at the deadline
  gets SIGKILL.

  `{:ok, stopped}` means that nothing is left of any of them, also when there were none or the `:leash` application is not started;
  `{:error, stopped}` that something of at least one is, or that a port whose start is stuck may still come (no survivors). Both lists
  hold one `t:stopped/0` per worker, by number. The call takes at most the deadline and some milliseconds for SIGKILL; four seconds more
  where a shim or a process in the kernel is stuck.

  What others see meanwhile:

    * A start in the group is refused until the call returns: `{:error, :stopping}` from `Leash.Worker`, a `RuntimeError` from the
      others; one under way fails the same way, and one that is stuck a second after the deadline with `:killed`. So a supervisor
      cannot put back what is being ended. `:all` refuses every start
    * A Worker exits with `:normal`, as by `Leash.Worker.stop/2`: a `:transient` one is not restarted. The supervisor of a
      `:permanent` one tries, fails, and by its `max_restarts` may end itself; and tries with success where the call is already over. Stop that
      supervisor instead (which ends its workers in parallel, too), or first
    * `cmd/3` returns what was written until then, and the status of a signal; `stream!/3` raises `Leash.CommandError`; a port
      closes as when its program ends

  Any number of callers may ask at the same time, any of them may own the workers, and one that is killed leaves nothing half
  done. A Worker process that does not answer (suspended) does not matter: its shim is told directly, after half a second.

  ## Options

  #{Leash.Schema.docs(StopAll.schema())}
  Raises `Leash.OptionsError` when group or option are wrong; nothing was signalled then.

  `guides/pools.md` says when a pool should call this, and when it need not.
  """
  @spec stop_all(group() | :all, deadline: non_neg_integer()) ::
          {:ok, [stopped()]} | {:error, [stopped()]}
  def stop_all(group \\ :all, options \\ []), do: StopAll.run(group, options)

  @doc """
  Takes over a worker that a run left behind on purpose, by `on_exit: :detach` of `Leash.Worker`.

      {:ok, worker} = Leash.adopt(MyApp.Embedder)
      Leash.Worker.info(worker).adopted?
      #=> true
      Leash.Worker.stop(worker)

  `name` is what it was started with, or the text of that: `"MyApp.Embedder"`. The process that is returned answers what a
  `Leash.Worker` does and is linked to nobody. It ends when the tree has ended; when it ends for another reason, the tree goes
  on and can be adopted again. `Leash.Worker.stop/2` ends the tree by the ladder it was started with, `stop_all/2` does too.

  Of a tree that somebody else's child is, only the end can be seen: `Leash.Exit` has neither status nor signal.

  ## Options

  #{Leash.Schema.docs(Leash.Adopted.schema())}
  ## Errors

    * `:not_found` - no such tree of this user lives in this pid namespace
    * `{:already_started, pid}` - this VM has it already: that process
    * `{:ambiguous, os_pids}` - several of that name live
    * `{:detached_elsewhere, map}` - the VM that started it lives (`:owner_pid`) and is not this one
    * `:stopping` - it is being ended, or `stop_all/2` is ending the group
    * `%Leash.OptionsError{}` - name or option are wrong
    * `:not_running` - the `:leash` application is not started
    * `:no_proc`, `:incomplete` - `/proc` cannot be read
  """
  @spec adopt(GenServer.name() | String.t(), group: group() | nil) ::
          {:ok, pid()} | {:error, Leash.OptionsError.t() | term()}
  def adopt(name, options \\ []), do: Leash.Adopted.adopt(name, options)

  @doc """
  The detached workers of this user that live, whoever started them.

  `:name` is the text that `adopt/2` takes, `:os_pid` the program (`nil` in the moment of its end), `:owner_pid` the VM that started it
  and `:owner_alive?` whether that lives, `nil` where that cannot be told. The list is empty, too, where `/proc` cannot be read.
  Works while the `:leash` application is stopped.
  """
  @spec detached() :: [
          %{
            name: binary(),
            run_id: RunId.t(),
            worker: pos_integer(),
            os_pid: pos_integer() | nil,
            shim_pid: pos_integer(),
            owner_pid: pos_integer() | nil,
            owner_alive?: boolean() | nil
          }
        ]
  def detached, do: Detached.list()

  @doc """
  Ends what crashed runs of this user left behind, and says what it saw.

  Called at application start with the options of `config :leash, sweep: […]`. See `Leash.Sweep` for
  the result and for how a run is judged.

  ## Options

  #{Leash.Schema.docs(Leash.Sweep.schema())}
  ## Errors

    * `%Leash.OptionsError{}` - an option is wrong; nothing was signalled
    * `:not_running` - the `:leash` application is not started
  """
  @spec sweep(keyword()) ::
          {:ok, Sweep.t()} | {:error, Leash.OptionsError.t() | :not_running | term()}
  def sweep(options \\ []), do: Sweep.run(options)

  @doc """
  Ends what is left of one dead run, as `sweep/1` would.

  Errors:

    * `:invalid_run_id` - not an id; nothing was signalled
    * `:live` - its VM lives: stop that instead
    * `:own` - it is this run: stop the application instead
    * any other verdict of `Leash.Sweep` that keeps a run, such as `:unknown_owner`
    * `:not_running` - the `:leash` application is not started
  """
  @spec kill_run(RunId.t()) :: {:ok, Sweep.t()} | {:error, atom()}
  def kill_run(run_id) do
    with :ok <- check_id(run_id),
         {:ok, run} <- with(:error <- Run.fetch(), do: {:error, :not_running}),
         :ok <- check_foreign(run, run_id),
         {:ok, report} <- Cleanup.run(run_spec(run, run_id)) do
      refused(report)
    end
  end

  defp check_id(run_id), do: if(RunId.valid?(run_id), do: :ok, else: {:error, :invalid_run_id})

  defp check_foreign(%Run{id: id}, id), do: {:error, :own}
  defp check_foreign(_run, _id), do: :ok

  defp run_spec(run, run_id) do
    %{
      kind: :run,
      run_id: run_id,
      own_run_id: run.id,
      run_dir: run.config.run_dir,
      app: run.config.app,
      deadline: 10_000,
      ladder: Sweep.ladder(Ladder.default())
    }
  end

  defp refused(%{refused: {:run, verdict}}), do: {:error, verdict}
  defp refused(report), do: {:ok, Sweep.from_report(report)}

  @doc """
  What this machine gives: which carriers, pidfds, what of `/proc` can be seen, whether the run has a
  record, whether `leash stop` can ask it (`:control`), and whether there is a process that starts shims and ends what is left
  when VM and shims are killed at once (`:warden`; `{:error, :marks_unseen}`: it ends then what is below its own shims, and does
  not find what the mark alone tells, such as a port's tree). Where something is missing Leash works at a lower level, and this is where it says so.
  """
  @spec capabilities() :: map()
  def capabilities do
    {run_dir, record} =
      case Run.fetch() do
        {:ok, %Run{lock: {:ok, _lock}, config: config}} -> {config.run_dir, :ok}
        {:ok, %Run{lock: {:error, reason}, config: config}} -> {config.run_dir, {:error, reason}}
        :error -> {configured_run_dir(), {:error, :not_running}}
      end

    run_dir
    |> Native.capabilities()
    |> Map.merge(%{
      record: record,
      control: Leash.Control.status(),
      warden: Leash.Warden.status()
    })
  end

  defp configured_run_dir do
    case Leash.Config.load() do
      {:ok, config} -> config.run_dir
      # The start will say what is wrong with it.
      {:error, _wrong} -> ""
    end
  end
end
