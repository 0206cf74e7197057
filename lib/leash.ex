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
    * `Leash.OSProcess` - looking at, signalling and monitoring any process by identity instead of pid
    * `stop_all/2` - every worker of a group ended in parallel, for the shutdown of a pool
    * `Leash.Telemetry` - events, where the host has `:telemetry`; `Leash.Logger` writes them to the log for those who ask
    * `Leash.Operator` - the command `leash`, for operators; also `mix leash.ps`, `mix leash.stop` …
    * `sweep/1` - what crashed runs left; called at application start
    * `Leash.RunId` - the ids that runs are known by

  ## Configuration

      config :leash,
        run_dir: "/run/my_app/leash"

  #{Leash.Schema.docs(Leash.Config.schema())}
  """

  alias Leash.{Cmd, Command, Hunt, Native, Run, RunId, StopAll, Sweep, Workers}

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
    * `{:ok, :gone}` - nothing of the tree is left, but nobody saw how it ended: of `open_port/3`, or its process was
      killed or did not answer
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
  | `sh -c 'x &'`, x holds stdout | waits for x | waits for x, `:timeout` ends it |
  | `sh -c 'x > /dev/null 2>&1 &'` | leaves x behind | ends x |
  | `git gc --auto`, `pg_ctl start` (daemons) | leaves them behind | ends them |

  With `on_exit: :keep` what is left goes on when the command has exited by itself; see `guides/commands.md` for that, and for what
  corresponds to the options of other calls.

  Other differences: without `:input` stdin is empty instead of a pipe that nobody writes to, a command that a
  signal ended has 128 and the signal's number as its status on every system, and `:timeout` and
  `:max_output` return what was written until then.

  ## Options

  #{Leash.Schema.docs(Command.Options.cmd())}
  ## Raises

    * `ErlangError` with `:original` `:enoent`, `:eacces` - there is no such program; `:emfile`, `:eagain`, `:e2big` … - the
      system refused
    * `Leash.OptionsError` - an option is wrong; nothing was started
    * `ArgumentError` - the command or an argument is no binary, or the command has a NUL byte
    * `RuntimeError` - the `:leash` application is not started, or `stop_all/2` is ending the group
    * what `:into` or the enumerable of `:input` raise; the tree is ended first
  """
  @spec cmd(String.t(), [binary()], [cmd_option()]) ::
          {Collectable.t() | {Collectable.t(), binary()}, 0..255 | :timeout | :max_output}
  def cmd(command, args \\ [], options \\ []), do: Cmd.run(command, args, options)

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

  Raises `Leash.CommandError` at the end unless the exit status is 0, and what `cmd/3` raises. A stream that is
  halted does not look at the status.

  ## Options

  #{Leash.Schema.docs(Command.Options.stream())}
  """
  @spec stream!(String.t(), [binary()], [stream_option()]) :: Enumerable.t()
  def stream!(command, args \\ [], options \\ []),
    do: Leash.Stream.new(command, args, options, Leash.Stream.last!(command))

  @doc """
  Like `stream!/3`, with `{:exit, how}` as its last element instead of an exception.

  `how` is `{:status, 0..255}`, `{:signal, name}` or `:timeout`.

      iex> Leash.stream("sh", ["-c", "echo out; exit 3"]) |> Enum.to_list()
      ["out\\n", {:exit, {:status, 3}}]
  """
  @spec stream(String.t(), [binary()], [stream_option()]) :: Enumerable.t()
  def stream(command, args \\ [], options \\ []),
    do: Leash.Stream.new(command, args, options, &Leash.Stream.last/1)

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
  | the owner, or another process linked to the port, crashes or is killed | SIGKILL at once |
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
    * a port that closes at the end of stdout (neither `:exit_status` nor `:eof` is given) ends the program, too

  ## Options

  Those of `Port.open/2` for programs except `:nouse_stdio`, and `:stop`, `:linger`, `:limits`, `:mark`, `:run_id_flag` and
  `:group` of `Leash.Worker`.

  #{Leash.OpenPort.Options.docs()}
  ## Raises

    * `ErlangError` with `:original` `:enoent`, `:eacces` - there is no such program, or it cannot be one; `:emfile`,
      `:eagain`, `:system_limit` … - the system refused
    * `Leash.OptionsError` - command, arguments or an option are wrong
    * `RuntimeError` - the `:leash` application is not started, or `stop_all/2` is ending the group

  Nothing was started then.
  """
  @spec open_port(String.t(), [binary()], [port_option()]) :: port()
  def open_port(command, args \\ [], port_options \\ []),
    do: Leash.OpenPort.open(command, args, port_options)

  @doc """
  The workers of this run, by number.

  `:tree` is `:alive` or `:ending`; a worker is listed until its tree is gone, also when its process is not there any
  more. Of `open_port/3` the `:pid` is the process that watches the port, the label the program's name, and `:os_pid`
  is not known: nil.
  """
  @spec list() :: [
          %{
            worker: pos_integer(),
            pid: pid(),
            label: String.t(),
            group: group() | nil,
            os_pid: pos_integer() | nil,
            shim_pid: pos_integer() | nil,
            tree: :alive | :ending
          }
        ]
  def list do
    for row <- Workers.living(:all) do
      %{
        worker: row.number,
        pid: row.pid,
        label: row.label,
        group: row.group,
        os_pid: row.os_pid,
        shim_pid: row.shim,
        tree: row.tree
      }
    end
  end

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
  `{:error, stopped}` that something of at least one is. Both lists hold one `t:stopped/0` per worker, by number. The call
  takes at most the deadline and some milliseconds for SIGKILL; four seconds more where a shim or a process in the kernel is stuck.

  What others see meanwhile:

    * A start in the group is refused until the call returns: `{:error, :stopping}` from `Leash.Worker`, a `RuntimeError` from the
      others; one under way fails the same way. So a supervisor cannot put back what is being ended. `:all` refuses every start
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
         {:ok, report} <- Hunt.run(run_spec(run, run_id)) do
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
      ladder: Sweep.ladder(sigterm: 2_000)
    }
  end

  defp refused(%{refused: {:run, verdict}}), do: {:error, verdict}
  defp refused(report), do: {:ok, Sweep.from_report(report)}

  @doc """
  What this machine gives: which carriers, pidfds, what of `/proc` can be seen, whether the run has a
  record, and (`:control`) whether `leash stop` can ask it. Where something is missing Leash works at a lower level, and this is where it says so.
  """
  @spec capabilities() :: map()
  def capabilities do
    {run_dir, record} =
      case Run.fetch() do
        {:ok, %Run{lock: {:ok, _lock}, config: config}} -> {config.run_dir, :ok}
        {:ok, %Run{lock: {:error, reason}, config: config}} -> {config.run_dir, {:error, reason}}
        :error -> {nil, {:error, :not_running}}
      end

    run_dir
    |> Native.capabilities()
    |> Map.merge(%{record: record, control: Leash.Control.status()})
  end
end
