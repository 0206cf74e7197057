defmodule Leash.Worker do
  @moduledoc """
  A supervised operating system process that never outlives its owner.

      children = [
        {Leash.Worker, command: "python3", args: ["-u", "embedder.py"], name: MyApp.Embedder, ready: ~r/READY/}
      ]

      Supervisor.start_link(children, strategy: :one_for_one)

  The program runs under a shim of its own, together with everything that it starts: children,
  daemons, sessions of their own. However this process ends, that whole tree ends with it:

  | what happens | what ends the tree |
  |---|---|
  | `stop/2`, `Leash.stop_all/2`, supervisor shutdown, `:normal` or `:shutdown` exit of the owner | the ladder of `:stop`, then SIGKILL |
  | the owner or this process crashes or is killed | SIGKILL at once; with `on_crash: :ladder` as above |
  | the VM ends in any way, SIGKILL included | the ladder, by the shim |
  | the shim is killed | SIGKILL to everything below it, by the run's warden, and to everything that carries the worker's tag; `:shim_died` |
  | VM and shim are killed together | SIGKILL by the run's warden; if that was killed too, the sweep of the next start |

  With `on_exit: :detach` only the first row holds, without its shutdowns: see "A worker that outlives its VM".

  What is started on purpose by somebody else (`systemd-run`, `at`, `docker run`) is not part of the
  tree and is left alone. A command as a step of `:stop` can end it, where the ladder is gone through: SIGKILL at once
  skips it, see `Leash.Ladder`.

  ## A worker that outlives its VM

      {Leash.Worker, command: "embedder", name: MyApp.Embedder, on_exit: :detach, stdout: {:file, "/var/log/embedder.log"}, stderr: :stdout}

  `on_exit: :detach` is for a program that takes long to load and is to go on while the application restarts. It needs
  a `:name`, and output to a file or nowhere. What ends it: `stop/2`, `Leash.stop_all/2` of its group or of `:all`, its own end, and
  `leash kill --outliving`. What does not: a shutdown by its supervisor, the crash or kill of this process, the end of the application
  or of the VM in any way, a sweep.

  `start_link/1` with the name of one that lives *takes it over* instead of starting a second: `info/1` then has `adopted?: true`.
  Command and other options of the new start are not compared with those it was started with, `:stop` included. `Leash.adopt/2`
  takes it over without starting anything, `Leash.detached/0` lists all. A name means the same for all applications of a user, so
  it should begin with yours, as a module's does. Of a worker that was taken over nobody sees the exit status: it exits with `:normal`.

  A start that has not finished (`:ready`) is ended with its caller like any other. When its shim is killed while this VM lives, all of the tree is ended; while
  none does, the program ends with the shim, and what else it had started goes on. Where the worker is itself part of another
  run's worker, it ends with that.

  ## How it exits

  When the program ends by itself, its remaining children get `:linger` milliseconds, then the
  ladder; then this process exits with `Leash.Exit.reason/1` of the result, or what `:exit_reason`
  makes of it. So a `:transient` worker is restarted when its program fails and not when it succeeds. Other reasons:

    * `:shim_died` - the shim was killed; nothing of the tree is left
    * `{:survivors, list}` - some processes could not be ended, see `t:survivor/0`. That takes at
      most `:linger`, the ladder and three seconds, and what a look at all processes takes; then
      the next may be started
    * `:shutdown` - the `:leash` application stops. While the whole VM does, this process stays
      until it is killed: told of an end, its owner would start anew what cannot be started any
      more
    * `{:unhealthy, reason}` - `:health` found it unwell so many times in a row; `reason` is that of the last time: `:timeout`,
      `{:status, status}`, `{:returned, term}`, `{:raised, exception}`, or of the connection, such as `:econnrefused`
    * `{:guard, %{limit: limit, max: number, value: number}}` - the tree exceeded a limit of `:guard`

  ## Functions in options

  `:on_output`, `:on_stderr`, `:ready`, `:health`, `:guard` and `:exit_reason` take functions. One
  that raises, throws or exits costs a line in the log that names option, worker and function, and
  nothing else. Of one that fails at each call, a line comes every ten seconds with a count. As
  with `Task`, the process that started the worker is in `$callers` of the process that runs the
  function.

  | option | fails | hangs |
  |---|---|---|
  | `:on_output`, `:on_stderr` | the program goes on, the data of this call are not repeated | the pipe fills and holds the program back; a stop does not wait, and a second after the end of the tree the log names it |
  | `:ready` | it is asked again; logged if the worker never gets ready | ended with the worker after `:ready_timeout`, and logged |
  | `:health` | a failure, and logged | killed after `:timeout`: a failure, and logged |
  | `:guard` | logged | holds up nothing |
  | `:exit_reason` | the default reason, and logged | killed after 1,000 ms: the default reason, and logged |

  ## Output in the log

  With `on_output: :log`, a line is a text of UTF-8 that controls no terminal: U+FFFD stands for a
  byte that is no UTF-8, and a picture such as `␛` (U+241B, ESC) for a control character. A line
  of more than 8,000 bytes goes on in the next event, "…" marks both. A line that a carriage return
  overwrites, as that of a progress bar, is shown at most once a second, its last state always.

  ## Started again

  A supervisor may be told of the end of this
  process, or of its owner, before the tree is gone. So a start waits for trees of its own run
  that are ending and have what it wants: its `:name`, a port of `:ready` or `:health`, a file of
  `:stdout` or `:stderr`. A port that is taken by a tree which has not named it is waited for as
  well. It waits for as long as such a tree may take to end. Trees that go on, and ports of other
  processes, are not waited for.

  ## Errors at start

  `start_link/1` returns `{:error, reason}` and leaves nothing behind:

    * `%Leash.OptionsError{}` - an option is wrong; nothing was started
    * `:not_running` - the `:leash` application is not started, or is stopping
    * `:stopping` - `Leash.stop_all/2` is ending its group at the moment
    * `:too_many_workers` - 32,766 trees live or are not yet proven gone
    * `{:exec, posix}` - the program could not be executed, errors of execve(2): `:enoent` (also a
      missing interpreter), `:eacces`, `:enoexec`, `:e2big`, `:etxtbsy` …
    * `{stage, posix}` - another stage failed: `:cd`, `:stdin`, `:stdout`, `:stderr`, `:fork` (`:eagain` at the
      limit of processes), `:pipe` (`:emfile`), `:setsid`, `:ids`, `:pdeathsig`, `:owner`
    * `{:shim, reason}` - the shim itself could not be started: `:emfile`, `:eagain`, `:enomem` …; `:no_working_directory` where
      that of the VM was deleted
    * `:no_warden` - the run's warden, which starts the shims, was away for ten seconds, or cannot be started; the log and
      `Leash.capabilities/0` say why
    * `{:port_in_use, port}` - `ready: {:tcp, port}` or `{:http, …}` and somebody else listens there already
    * `:ready_timeout`, `:start_timeout` - it took too long and was ended
    * `{:exited, %Leash.Exit{}}` - it ended before it was ready
    * `:shim_died` - the shim was killed meanwhile

  With `on_exit: :detach` also:

    * `{:already_started, pid}` - this VM has it, by whatever process
    * `{:ambiguous, os_pids}` - several of this name live; nothing was started
    * `{:detached_elsewhere, map}` - another VM that lives (`:owner_pid`) has started it: two VMs must not both
      think that it is theirs
    * `{:mark, why}` - the mark could not be set, so that nobody would find it again
    * `:no_pidfd` - this machine has no pidfds or no `/proc`, so that nobody could ever end it
    * `:no_proc`, `:incomplete` - `/proc` cannot be read, so whether one lives is not known
  """

  alias Leash.{Adopted, Exit, Posix, Schema}
  alias Leash.Worker.{ChildSpec, Launch, Options, Server}

  @typedoc "An option of `start_link/1`."
  @type option :: unquote(Schema.typespec(Options.schema()))

  @typedoc "An option of `child_spec/1` alone."
  @type child_option :: unquote(Schema.typespec(ChildSpec.schema()))

  @typedoc "A worker: pid or registered name."
  @type worker :: GenServer.server()

  @typedoc """
  A process that could not be ended. `why` is `:eperm`, `:uninterruptible` (state D: it waits in the kernel), or
  another verdict of `Leash.sweep/1`.
  """
  @type survivor :: %{
          required(:pid) => pos_integer(),
          required(:command) => String.t(),
          required(:state) => String.t(),
          required(:why) => atom(),
          optional(atom()) => term()
        }

  @doc """
  Starts a program and links it to the calling process.

  Returns when the program was executed or, with `:ready`, when it is ready.

  ## Options

  #{Schema.docs(Options.schema())}
  The reasons of `{:error, reason}` are listed in the module's documentation.
  """
  @spec start_link([option()] | map()) :: GenServer.on_start()
  def start_link(options) do
    with {:ok, options} <- Options.validate(options) do
      if options.on_exit == :detach,
        do: Adopted.start_or_adopt(options, fn -> start_named(options) end),
        else: start_named(options)
    end
  end

  # A supervisor starts the next when the owner of this name's process has crashed, which may end
  # its tree for a while yet.
  defp start_named(options) do
    with {:error, {:already_started, pid}} = taken <- Server.start_link(options) do
      if Launch.until_gone(pid), do: start_named(options), else: taken
    end
  end

  @doc """
  A child specification; `:shutdown` is the length of the ladder and two seconds.

  `id` is the `:name`, else made of command and arguments, so that two workers of one program may
  differ in these. Beside the options of `start_link/1` it takes, for a supervisor:

  #{Schema.docs(ChildSpec.schema())}
  It raises `Leash.OptionsError` where one of these is wrong; other wrong options are
  `start_link/1`'s to report.
  """
  @spec child_spec([option() | child_option()] | map()) :: ChildSpec.t()
  def child_spec(options), do: ChildSpec.new(__MODULE__, options)

  @doc "The program's process id; it may belong to somebody else once the program has ended."
  @spec os_pid(worker()) :: pos_integer() | nil
  def os_pid(worker), do: info(worker).os_pid

  @doc "The shim's process id."
  @spec shim_pid(worker()) :: pos_integer() | nil
  def shim_pid(worker), do: info(worker).shim_pid

  @doc """
  What is known about a worker: `:run_id`, `:worker` (its number), `:group`, `:os_pid`, `:shim_pid`,
  `:command`, `:args`, `:state` (`:running` or `:ending`), `:started_at` (`DateTime`), `:mark`: whether the
  mark could be set (`:set`, `:off`, `:no_depth`, `{:error, posix}`), and `:adopted?`: whether it was running before this process
  began; run id and number are those of the run that started it then, and `:os_pid` is `nil` where its program had just ended. Of
  what `Leash.attach/2` took over also `:not_covered`.
  """
  @spec info(worker()) :: %{
          optional(:not_covered) => [
            %{pid: pos_integer(), command: String.t(), why: :escaped | :unmarked}
          ],
          run_id: Leash.RunId.t(),
          worker: pos_integer(),
          group: Leash.group() | nil,
          os_pid: pos_integer() | nil,
          shim_pid: pos_integer() | nil,
          command: String.t(),
          args: [binary()],
          state: :running | :ending,
          started_at: DateTime.t(),
          mark: :set | :off | :no_depth | {:error, Posix.t()},
          adopted?: boolean()
        }
  def info(worker), do: GenServer.call(worker, :info)

  @doc """
  Writes to the program's stdin; returns when the kernel has taken everything.

  A program that does not read holds back those who write to it and nobody else. The process that gets the program's
  output has to take messages meanwhile: past `:output_window` a program that answers what it reads is held
  back by its answers, and stops reading. Errors:

    * `:not_piped` - the worker was not started with `stdin: :pipe`
    * `:epipe` - the program closed its stdin, or ended
    * `:closed` - `close_stdin/1` was called before
    * `:timeout` - the program did not read in time; part of the data may have been taken
  """
  @spec write(worker(), iodata(), timeout()) ::
          :ok | {:error, :not_piped | :epipe | :closed | :timeout}
  def write(worker, data, timeout \\ 5_000)
      when timeout == :infinity or (is_integer(timeout) and timeout >= 0) do
    # Here, so that what is no iodata is the caller's mistake, and the data is not copied on its way.
    data = IO.iodata_to_binary(data)
    GenServer.call(worker, {:write, data, timeout}, :infinity)
  catch
    :exit, {reason, _call} when reason != :timeout -> {:error, :epipe}
  end

  @doc "Closes the program's stdin after what was written, so that it sees the end of its input."
  @spec close_stdin(worker()) :: :ok | {:error, :not_piped}
  def close_stdin(worker), do: GenServer.call(worker, :close_stdin, :infinity)

  @doc """
  Ends the whole tree and returns when it is gone.

  The ladder of `:stop` ends it, SIGKILL what is left then. Any number of callers may ask: there is
  one ending, and all get the same answer. A worker that has already ended answers with how it did.

  ## Options

    * `:kill` - `true` skips the ladder, also one that has begun

  ## Errors

    * `%{survivors: list}` - some processes could not be ended, see `t:survivor/0`
    * `:noproc` - there is no such worker any more
  """
  @spec stop(worker(), kill: boolean()) ::
          {:ok, Exit.t()} | {:error, %{survivors: [survivor()]} | :noproc}
  def stop(worker, options \\ []) do
    case options do
      [] ->
        call_stop(worker, :ladder)

      [kill: kill?] when is_boolean(kill?) ->
        call_stop(worker, if(kill?, do: :kill, else: :ladder))

      _other ->
        raise ArgumentError, "expected [kill: boolean], got: #{inspect(options)}"
    end
  end

  defp call_stop(worker, how) do
    GenServer.call(worker, {:stop, how}, :infinity)
  catch
    :exit, {_reason, {GenServer, :call, _}} -> {:error, :noproc}
  end
end
