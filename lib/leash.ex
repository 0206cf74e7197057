defmodule Leash do
  @moduledoc """
  Every OS process your BEAM app starts, on a leash.

      {Leash.Worker, command: "python3", args: ["-u", "worker.py"], name: MyApp.Embedder}

  If a VM is killed, then the operating system processes that it started live on. They hold ports,
  GPUs and files, and write stale output.

  Leash tags each program with the run that it belongs to. It makes sure that the programs, and
  everything they start, are gone when your app is: on stop, on a crash, on `kill -9`. The next
  start ends what a crashed run left behind. Leash does not touch a process that is not its own.

    * `Leash.Worker` - a supervised program
    * `cmd/3` - a command and its output; `stream!/3` - the same, part by part
    * `open_port/3` - a port like any other; its program ends with the port
    * `attach/2` - a process that Leash did not start, ended with its owner
    * `list/1`, `tree/1`, `Leash.Tree` - the workers, the processes of their trees, and what these
      use
    * `Leash.OSProcess` - looks at, signals and monitors any process by identity instead of pid
    * `stop_all/2` - ends every worker of a group in parallel, to shut down a pool
    * `Leash.Cluster` - the workers, a sweep or the end of a group on every node
    * `:leash` - the same from Erlang, with charlists, proplists and maps
    * `Leash.Telemetry` - events, if the host has `:telemetry`; `Leash.Logger` writes them to the
      log
    * `Leash.Operator` - the command `leash`, for operators; also `mix leash.ps`, `mix leash.stop`
      …
    * `Leash.Worker.adopt/2`, `Leash.Worker.detached/0` - workers that outlive their VM on purpose
    * `sweep/1` - ends what crashed runs left; called at application start
    * `Leash.RunId` - the ids of runs

  ## Configuration

      config :leash,
        run_dir: "/run/my_app/leash"

  #{Leash.Schema.docs(Leash.Config.schema())}
  """

  alias Leash.{Capabilities, Command, Run, RunId, StopAll, Sweep}
  alias Leash.Command.Collect

  @doc """
  The id of this run.

  Raises `Leash.Error` with `:reason` `:not_running` while the `:leash` application is stopped.
  """
  @spec run_id() :: RunId.t()
  def run_id, do: Run.current!().id

  @typedoc """
  The name of a group of workers; not `nil` and not `:all`.

  Use an atom such as the pool's module, or a string if names come from outside. A tuple names one
  of many pools: `{MyApp.Pool, 3}`.
  """
  @type group :: atom() | String.t() | tuple()

  @typedoc """
  The outcome of `stop_all/2` for one worker.

  `:pid` is the process that held the worker. `:os_pid` is its program, if that is known. The
  `:result` is one of:

    * `{:ok, %Leash.Exit{}}` - nothing of the tree is left, and this is how it ended
    * `{:ok, :gone}` - nothing of the tree is left, and this call does not know how it ended. That
      holds for `open_port/3`, and for commands and streams, where the caller has the status. It
      also holds if the worker's process was killed or did not answer
    * `{:error, %Leash.Error{survivors: list}}` - Leash could not end these processes, see
      `t:Leash.Worker.survivor/0`. An empty list means that none was found, but that not every
      process could be looked at
  """
  @type stopped :: %{
          worker: pos_integer(),
          pid: pid(),
          label: String.t(),
          group: group() | nil,
          os_pid: pos_integer() | nil,
          result: {:ok, Leash.Exit.t() | :gone} | {:error, Leash.Error.t()}
        }

  @typedoc "An option of `cmd/3`."
  @type cmd_option :: unquote(Leash.Schema.typespec(Command.Options.cmd()))

  @typedoc "An option of `stream!/3` and `stream/3`."
  @type stream_option :: unquote(Leash.Schema.typespec(Command.Options.stream()))

  @doc """
  Runs a command to its end and returns its output and exit status: `System.cmd/3` on a leash.

      iex> Leash.cmd("echo", ["hello"])
      {"hello\\n", 0}

  As with `System.cmd/3`, the command is over when its output ends. The call waits for a
  background process that still holds stdout. At the end of the output, or at `:timeout` or
  `:max_output`, Leash ends everything that the command started. The call returns when nothing of
  that is left. The same happens if the caller or the VM is killed meanwhile.

  Background processes end as follows:

  | | `System.cmd/3` | `Leash.cmd/3`, the streams |
  |---|---|---|
  | `sh -c 'x &'`, x holds stdout | waits for x | waits for x; `:linger` or `:timeout` ends it, and the status stays that of `sh` |
  | `sh -c 'x > /dev/null 2>&1 &'` | leaves x behind | ends x |
  | `git gc --auto`, `pg_ctl start` (daemons) | leaves them behind | ends them |

  With `on_exit: :keep`, background processes go on after the command exits by itself. See
  `guides/commands.md` for that, and for the counterparts of other calls' options.

  There are two other differences. If a signal ends a command, then its status is 128 plus the
  signal's number on every system. `:timeout` and `:max_output` return the output written until
  then.

  If a status has arrived, then the call returns it, whatever follows:

  | what happens | what is returned |
  |---|---|
  | `:timeout` passes while the command runs | `:timeout`, or `{:timeout, :idle}` without output |
  | `:timeout` passes after its exit, while something holds stdout | its status |
  | something that it started cannot be ended (it is root's, or waits in the kernel) | its status, or `:timeout` |
  | its shim is killed, and it ends with that | 137, as for SIGKILL |
  | the same after its exit | its status |

  Leash logs a warning if it could not end a process, or did not see how the command ended. The
  former is also an event of `Leash.Telemetry`: `[:leash, :worker, :survivors]`.

  ## Options

  #{Leash.Schema.docs(Command.Options.cmd())}
  ## Raises

    * `ErlangError` with `:original` `:enoent`, `:eacces` - there is no such program; `:emfile`,
      `:eagain`, `:e2big` … - the system refused
    * `Leash.OptionsError` - an option is wrong; nothing was started
    * `ArgumentError` - the command or an argument is no binary, or the command has a NUL byte
    * `Leash.Error` - Leash could not start it; `:reason` is an error of
      `Leash.Worker.start_link/1`, such as `:not_running`, `:stopping`, `:no_warden` or
      `:shim_died`
    * any exception of `:into` or of the enumerable of `:input`; the tree is ended first
  """
  @spec cmd(String.t(), [binary()], [cmd_option()]) ::
          {Collectable.t() | {Collectable.t(), binary()}, Collect.status()}
  def cmd(command, args \\ [], options \\ []), do: Collect.run(command, args, options)

  @doc """
  The output of a command as a lazy stream of binaries, read as fast as it is consumed.

      iex> Leash.stream!("seq", ["3"]) |> Enum.join()
      "1\\n2\\n3\\n"

      iex> Leash.stream!("sort", [], input: ["b\\n", "a\\n"]) |> Enum.join()
      "a\\nb\\n"

  The command starts when the stream is run; each run starts it anew. A slow consumer holds the
  command back: Leash reads nothing before the consumer asks for it.

  Leash ends everything that the command started when the stream ends or is halted
  (`Enum.take/2`). The same happens if the consumer raises or is killed. The table of `cmd/3` says
  how background processes end.

  The process that begins to read a stream must also finish it. If another process reads on, then
  the stream raises `RuntimeError` and Leash ends the command.

  Unless the exit status is 0, the stream raises `Leash.CommandError` at its end. It also raises
  what `cmd/3` raises. A halted stream does not look at the status. Survivors and a killed shim
  have the same effect as for `cmd/3`; a killed shim counts as `{:signal, :sigkill}`.

  ## Options

  #{Leash.Schema.docs(Command.Options.stream())}
  """
  @spec stream!(String.t(), [binary()], [stream_option()]) :: Enumerable.t()
  def stream!(command, args \\ [], options \\ []),
    do: Leash.Command.Stream.new(command, args, options, Leash.Command.Stream.last!(command))

  @doc """
  Like `stream!/3`, with `{:exit, how}` as its last element instead of an exception.

  `how` is `{:status, 0..255}`, `{:signal, name}`, `:timeout` or `{:timeout, :idle}`.

      iex> Leash.stream("sh", ["-c", "echo out; exit 3"]) |> Enum.to_list()
      ["out\\n", {:exit, {:status, 3}}]
  """
  @spec stream(String.t(), [binary()], [stream_option()]) :: Enumerable.t()
  def stream(command, args \\ [], options \\ []),
    do: Leash.Command.Stream.new(command, args, options, &Leash.Command.Stream.last/1)

  @typedoc "An option of `open_port/3`."
  @type port_option :: unquote(Leash.OpenPort.Options.typespec())

  @doc """
  Opens a port whose program, with everything that it starts, ends with the port: `Port.open/2` on
  a leash.

      port = Leash.open_port("python3", ["-u", "worker.py"], [:binary, :exit_status, packet: 4])
      Port.command(port, "request")

  The port is like any other. The calling process owns it. `Port.command/2`, `Port.connect/2`,
  `Port.info/1` and `Port.monitor/1` work, and its messages are those of `Port.open/2`.

  The ladder of `:stop` ends the tree when the port closes, its owner or the program ends, or the
  VM ends in any way. With `on_crash: :kill`, a crash of the owner is SIGKILL at once.
  `Port.close/1` does not wait until the tree is gone; `list/0` shows the tree until then.

  With `:exit_status`, the owner gets the status once, when the program's children are gone as
  well. `Port.info(port, :os_pid)` is the shim's. `guides/ports.md` has all that ends the tree,
  and all differences from a bare port.

  ## Options

  The options are those of `Port.open/2` for programs, except `:nouse_stdio`. In addition, there
  are `:clear_env`, `:stop`, `:linger`, `:limits`, `:cgroup`, `:mark`, `:run_id_flag`, `:group`,
  `:label` and those of `Leash.Identity`.

  #{Leash.OpenPort.Options.docs()}
  ## Raises

    * `ErlangError` with `:original` `:enoent`, `:eacces` - there is no such program, or it cannot
      be one; `:emfile`, `:eagain`, `:system_limit` … - the system refused
    * `Leash.OptionsError` - command, arguments or an option are wrong
    * `Leash.Error` - Leash could not start it; `:reason` is `:not_running`, `:stopping`,
      `:too_many_workers` or `{:shim, :no_working_directory}`

  If it raises, then nothing was started.
  """
  @spec open_port(String.t(), [binary()], [port_option()]) :: port()
  def open_port(command, args \\ [], port_options \\ []),
    do: Leash.OpenPort.open(command, args, port_options)

  @typedoc "An option of `attach/2`."
  @type attach_option :: unquote(Leash.Schema.typespec(Leash.Attachment.schema()))

  @doc """
  Ties an OS process that Leash did not start to an owner.

  The process, with everything below it, ends when its owner or the VM ends.

      port = Port.open({:spawn_executable, "/usr/bin/python3"}, args: ["-u", "worker.py"])
      {:ok, attachment} = Leash.attach(port, group: :workers)

      {:ok, server} = Leash.OSProcess.identify(pid_from_a_file)
      {:ok, attachment} = Leash.attach(server, owner: :application, stop: [sigint: 5_000])

  The target is a handle of `Leash.OSProcess`, a pid, or a port. A pid is resolved when the
  function is called. If time passes between learning the pid and using it, then take a handle. A
  port stands for its program; the port itself stays with its owner.

  The returned process stands for the target, as a `Leash.Worker` does for a program. It is not
  linked. `Leash.Worker.stop/2` ends the tree, `Leash.Worker.info/1` describes it.
  `list/0` lists it, and `stop_all/2` ends it with its group. The returned process exits with
  `:normal` when the target ends by itself or is stopped. The ladder of `:stop` ends the tree, and
  with `on_crash: :kill` a crash of the owner is SIGKILL at once.

  Processes that left the tree before the call are not covered, and are never signalled.
  `Leash.Worker.info(attachment).not_covered` lists those that the call could identify.
  `status` and `signal` of the `Leash.Exit` are `nil`, because only its parent learns how the
  target ended. `guides/attach.md` has all that ends the tree, and what is covered.

  ## Options

  #{Leash.Schema.docs(Leash.Attachment.schema())}
  ## Errors

  If it returns an error, then it has changed nothing. It raises `Leash.OptionsError` if target or
  option are wrong.

    * `:noproc` - the owner had ended before the call, or ended during it
    * `:esrch`, `:reused` - the process has ended, or its pid belongs to another process now
    * `:eperm` - this user may not signal or mark the process: it is another user's, or a
      set-user-id program. For root without `CAP_SYS_RESOURCE`, this holds for every process that
      is not root's
    * `{:refused, why}` - `:vm`, `:ancestor`, `:kernel_thread` or `:pid_1` as for
      `Leash.OSProcess.signal/2`. The VM's fork server counts as an ancestor
    * `{:refused, :marked}` - the process already belongs to a run, as the programs of
      `Leash.Worker` and `open_port/3` and their shims do
    * `{:refused, :no_depth}` - no mark is left inside eight runs
    * `{:owner, reason}` - the owner outside of the VM cannot be watched, reasons of
      `Leash.OSProcess`
    * `:unknown`, `:no_proc`, `:emfile`, `:enfile` - as for `Leash.OSProcess`
    * `:not_running`, `:stopping`, `:too_many_workers`, `:no_warden`, `{:shim, reason}`,
      `:start_timeout`, `:shim_died`, `{:already_started, pid}` - as for
      `Leash.Worker.start_link/1`
  """
  @spec attach(Leash.OSProcess.target() | port(), [attach_option()] | map()) ::
          {:ok, pid()} | {:error, term()}
  def attach(target, options \\ []), do: Leash.Attachment.start(target, options)

  @typedoc """
  The end of the previous worker with this name, in this VM.

  `:exit` is nil if the end was not seen, because the worker's process was killed. `:reason` is
  the exit reason of that process.
  """
  @type last_exit :: %{exit: Leash.Exit.t() | nil, reason: term(), at: DateTime.t()}

  @typedoc """
  A wait of `restart_delay:` (`Leash.Worker.start_link/1`).

  `:attempt` counts the failures in a row, `:delay` is in milliseconds, and `:next_at` is when the
  program starts, or was started.
  """
  @type restart :: %{attempt: pos_integer(), delay: pos_integer(), next_at: DateTime.t()}

  @typedoc """
  A worker as `list/1` and `Leash.Tree.info/1` return it.

    * `:run_id`, `:worker` - this run, and the worker's number in it
    * `:kind` - `:worker`, `:command` (of `cmd/3` and the streams), `:port`, `:attachment`, or
      `:adopted`
    * `:pid` - the process that holds the worker. For a `:command` it is the caller, which takes
      no call of `Leash.Worker`
    * `:name` - the registered name of that process; `:label` - the worker's name in logs;
      `:group`
    * `:os_pid` - its program, `:shim_pid` - the shim above it
    * `:tree` - `:alive` or `:ending`
    * `:age` - milliseconds since it was started
    * `:processes` - the number of processes in its tree. It does not count the shim, zombies, or
      processes that lost their mark (see `guides/escapes.md`)
    * `:rss` - bytes of memory that they have in RAM; shared memory counts once for each process
    * `:cpu` - milliseconds of CPU time that they used, including children that ended and that
      they waited for
    * `:restart` - the last wait of `restart_delay:`, with `:attempt`, `:delay` (milliseconds) and
      `:next_at`; nil if there was none. A worker that waits has no `:os_pid`
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
          restart: restart() | nil,
          last_exit: last_exit() | nil
        }

  @doc """
  The workers of this run, by number, see `t:listed/0`.

  A worker is listed until its tree is gone, even if its process is gone already. For
  `open_port/3`, `:pid` is the process that watches the port, `:label` is the program's name, and
  `:os_pid` is nil, because it is not known. If `/proc` cannot be read, then `:processes`, `:rss`
  and `:cpu` are nil.

  The call looks at the process table once for all workers, outside of the schedulers. For 1,000
  workers with 5,000 processes it takes less than 50 ms.

  ## Options

  #{Leash.Schema.docs(Leash.Listing.schema())}
  Raises `Leash.OptionsError` if an option is wrong.
  """
  @spec list(usage: boolean()) :: [listed()]
  def list(options \\ []), do: Leash.Listing.list(options)

  @doc """
  Draws workers with all of their processes as a tree: `IO.puts(Leash.tree())`.

      s59m65f  owner 4242, 1 worker, 3 processes, 31M
      └─ worker 1 MyApp.Embedder in :pool [3 processes, 31M, cpu 0.41s, 5m02s]
         └─ 4250 S [24M, cpu 0.39s, 5m02s] python3 -u embedder.py
            ├─ 4251 S [3M, cpu 0.01s, 5m01s] python3 -u embedder.py
            └─ 4252 S [4M, cpu 0.01s, 5m01s] python3 -u embedder.py

  `which` is `:all`, a group, or a worker's process, name or number. Each process has its pid,
  state, memory, CPU time, age and command. Beyond 500 processes it has only the command's name,
  because command lines cost as much as all the rest. Control characters in names and command
  lines are replaced.
  """
  @spec tree(:all | group() | pid() | GenServer.name() | pos_integer()) :: String.t()
  def tree(which \\ :all), do: Leash.TreeView.draw(which)

  @doc """
  Ends the workers of a group, or `:all`, in parallel and under one deadline.

  Returns when nothing of them is left.

      def prep_stop(state) do
        with {:error, stopped} <- Leash.stop_all(MyApp.Pool, deadline: 8_000) do
          for %{label: label, result: {:error, why}} <- stopped,
              do: Logger.error("\#{label}: \#{inspect(why)}")
        end

        state
      end

  The call ends the trees of `Leash.Worker`, `cmd/3`, `stream!/3`, `stream/3` and `open_port/3`
  that were started with `group:`. It includes those that are still starting, and those whose
  process is already gone. Each tree ends by its own `:stop`; at the deadline, what is left gets
  SIGKILL.

  `{:ok, stopped}` means that nothing is left of any worker. The call also returns it if there
  were none, or if the `:leash` application is not started. `{:error, stopped}` means that
  something of at least one worker is left. It can also mean that a port whose start is stuck may
  still come (no survivors). Both lists hold one `t:stopped/0` per worker, by number.

  The call takes at most the deadline and some milliseconds for SIGKILL. If a shim or a process in
  the kernel is stuck, then it takes four seconds more.

  A start in the group is refused until the call returns: `Leash.Worker` returns
  `{:error, :stopping}`, the others raise `Leash.Error`. `:all` refuses every start. A Worker
  exits with `:normal`. Any number of callers may ask at the same time.

  `guides/pools.md` says when a pool should call this, and what supervisors, callers and ports see
  meanwhile.

  ## Options

  #{Leash.Schema.docs(StopAll.schema())}
  Raises `Leash.OptionsError` if group or option are wrong; nothing was signalled then.
  """
  @spec stop_all(group() | :all, deadline: non_neg_integer()) ::
          {:ok, [stopped()]} | {:error, [stopped()]}
  def stop_all(group \\ :all, options \\ []), do: StopAll.run(group, options)

  @doc """
  Ends what crashed runs of this user left behind, and reports it.

  The application calls this at its start with the options of `config :leash, sweep: […]`. See
  `Leash.Sweep` for the result and for the way a run is judged.

  ## Options

  #{Leash.Schema.docs(Leash.Sweep.schema())}
  Raises `Leash.OptionsError` if an option is wrong; nothing was signalled then. The only usual
  error is `:not_running`: the `:leash` application is not started.
  """
  @spec sweep(keyword()) :: {:ok, Sweep.t()} | {:error, :not_running | term()}
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
  def kill_run(run_id), do: Sweep.kill_run(run_id)

  @doc """
  Returns what this machine supports.

  The map says which carriers and pidfds there are, what of `/proc` can be seen, and whether the
  run has a record. `:set_user` says whether programs can run as any user, and `:own_capabilities`
  which capabilities they can keep, see `Leash.Identity`. `:control` says whether `leash stop` can
  ask this run.

  `:warden` says whether the run has a warden. A warden starts the shims. If VM and shims are
  killed at once, then it ends what is left. `{:error, :marks_unseen}` means that the warden ends
  only what is below its own shims. It does not find what the mark alone tells, such as a port's
  tree.

  `:cgroup` is `{:ok, %{parent: path, controllers: names}}`: where groups for `:cgroup` of a tree
  are made, and which limits they can have. `{:error, why}` is the reason why there can be none,
  see `Leash.Cgroup`.

  If something is missing, then Leash works at a lower level; this map says so.
  """
  @spec capabilities() :: map()
  def capabilities, do: Capabilities.all()
end
