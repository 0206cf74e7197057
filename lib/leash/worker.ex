defmodule Leash.Worker do
  @moduledoc """
  A program under a supervisor, which ends with everything that it starts.

      children = [
        {Leash.Worker,
         command: "python3",
         args: ["-u", "embedder.py"],
         name: MyApp.Embedder,
         ready: ~r/READY/}
      ]

      Supervisor.start_link(children, strategy: :one_for_one)

  | what happens | what ends the tree |
  |---|---|
  | `stop/2`, `Leash.stop_all/2`, supervisor shutdown, `:normal` or `:shutdown` exit of the owner | the ladder of `:stop`, then SIGKILL |
  | the owner or this process crashes or is killed | SIGKILL at once; with `on_crash: :ladder` as above |
  | the VM ends in any way, SIGKILL included | the ladder, by the shim |
  | the shim is killed | SIGKILL to everything below it, by the run's warden, and to everything that carries the worker's tag; `:shim_died` |
  | VM and shim are killed together | SIGKILL by the run's warden; if that was killed too, the sweep of the next start |

  With `on_exit: :detach` only the first row holds, without its shutdowns. What another service
  starts for the program (`systemd-run`, `at`, `docker run`) is left alone.

  If the program ends by itself, then this process exits with `Leash.Exit.reason/1`. So a
  `:transient` worker is restarted if its program fails, and not if it succeeds.

  `guides/workers.md` has all exit reasons, functions in options, output in the log, checks,
  limits, and workers that outlive their VM. `guides/ladders.md` has the steps of `:stop`,
  `guides/pools.md` how many workers end together.
  """

  alias Leash.{Adopted, Degraded, Detached, Error, Exit, Posix, Pty, Run, RunId, Schema, Signal}
  alias Leash.Stdio.{FileOptions, Receiver}
  alias Leash.Worker.{ChildSpec, Launch, Options, Protocol, Server}

  @stop Schema.new(
          kill: [
            type: :boolean,
            default: false,
            doc: "`true` skips the ladder, even one that has begun."
          ]
        )

  @signal Schema.new(
            to: [
              type: {:in, [:leader, :group, :tree]},
              default: :leader,
              doc:
                "The processes that get the signal: the program alone, its process group, or " <>
                  "everything that it started."
            ]
          )

  @typedoc "An option of `start_link/1`."
  @type option :: unquote(Schema.typespec(Options.schema()))

  @typedoc "An option of `child_spec/1` alone."
  @type child_option :: unquote(Schema.typespec(ChildSpec.schema()))

  @typedoc "A worker: pid or registered name."
  @type worker :: GenServer.server()

  @typedoc """
  A process that could not be ended.

  `why` is `:eperm`, `:uninterruptible` (state D: it waits in the kernel), or another verdict of
  `Leash.sweep/1`.
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
  The options of `{:log, options}`:

  #{Receiver.log_docs()}
  The options of `{:file, path, options}`:

  #{FileOptions.docs()}
  ## Errors

  Raises `Leash.OptionsError` if an option is wrong. For other problems it returns
  `{:error, reason}`. `Leash.Error.format/1` has a sentence for each reason. In both cases nothing
  is left behind.

    * `:not_running` - the `:leash` application is not started, or is stopping
    * `:unsupported_os` - this is not Linux, see `guides/systems.md`
    * `:stopping` - `Leash.stop_all/2` is ending its group at the moment
    * `:too_many_workers` - 32,766 trees live or are not yet proven gone
    * `{:exec, posix}` - the program could not be executed, errors of execve(2): `:enoent` (also a
      missing interpreter), `:eacces`, `:enoexec`, `:e2big`, `:etxtbsy` …
    * `{stage, posix}` - another stage failed: `:cd`, `:stdin`, `:stdout`, `:stderr`, `:fork`
      (`:eagain` at the limit of processes), `:pipe` (`:emfile`), `:setsid`, `:pdeathsig`,
      `:owner`, and `:ids`, `:kill`, `:capabilities`, see `Leash.Identity`
    * `{:cgroup, why}` - `:cgroup` cannot be had here, see `Leash.Cgroup`
    * `{:pty, posix}` - with `:pty`, no terminal could be made: `:enospc` (none is free, see
      pty(7)), `:enoent` (no `/dev/ptmx`), `:emfile` …
    * `{:shim, reason}` - the shim itself could not be started: `:emfile`, `:eagain`, `:enomem` …,
      or `:no_working_directory` if the VM's directory was deleted
    * `:no_warden` - the run's warden, which starts the shims, was away for ten seconds, or cannot
      be started. The log and `Leash.capabilities/0` say why
    * `{:port_in_use, port}` - `ready: {:tcp, port}` or `{:http, …}`, and another process already
      listens there. With `{:unix, path}`, that path
    * `{:wait_timeout, what}` - what `:wait_for` names was not there in time. Nothing was started
    * `:ready_timeout`, `:start_timeout` - it took too long and was ended
    * `{:exited, %Leash.Exit{}}` - it ended before it was ready. `:stderr` of the exit has the
      last lines of its stderr
    * `:shim_died` - the shim was killed meanwhile

  With `on_exit: :detach` also:

    * `{:already_started, pid}` - this VM has it; `pid` is the process that holds it
    * `{:ambiguous, os_pids}` - several workers of this name live; nothing was started
    * `{:detached_elsewhere, map}` - another VM that lives (`:owner_pid`) has started it. Two VMs
      must not both own it
    * `{:mark, why}` - the mark could not be set, so no later run would find the worker
    * `:no_pidfd` - this machine has no pidfds or no `/proc`, so nothing could ever end the worker
    * `:no_proc`, `:incomplete` - `/proc` cannot be read, so it is not known whether one lives
  """
  @spec start_link([option()] | map()) :: GenServer.on_start()
  def start_link(options) do
    options = Schema.unwrap!(Options.validate(options))

    if options.on_exit == :detach,
      do: Adopted.start_or_adopt(options, fn -> start_named(options) end),
      else: start_named(options)
  end

  # If the owner of a named worker crashes, its supervisor starts the next worker while the old
  # one may still be ending its tree.
  defp start_named(options) do
    with {:error, {:already_started, pid}} = taken <- start_process(options) do
      if Launch.until_gone(pid), do: start_named(options), else: taken
    end
  end

  defp start_process(options) do
    if Run.degraded?(), do: Degraded.Worker.start_link(options), else: Server.start_link(options)
  end

  @doc """
  Returns a child specification; its `:shutdown` is the length of the ladder plus two seconds.

  `id` is the `:name`. Without a name, `id` is made of command and arguments, so that two workers
  of one program may differ in these. Besides the options of `start_link/1`, the function takes
  these for a supervisor:

  #{Schema.docs(ChildSpec.schema())}
  Raises `Leash.OptionsError` if one of these is wrong. `start_link/1` raises it for the others.
  """
  @spec child_spec([option() | child_option()] | map()) :: ChildSpec.t()
  def child_spec(options), do: ChildSpec.new(__MODULE__, options)

  @doc """
  Returns the program's process id, or nil if there is no such worker.

  Once the program has ended, the id may belong to another process.
  """
  @spec os_pid(worker()) :: pos_integer() | nil
  def os_pid(worker), do: info(worker)[:os_pid]

  @doc "Returns the shim's process id, or nil if there is no such worker."
  @spec shim_pid(worker()) :: pos_integer() | nil
  def shim_pid(worker), do: info(worker)[:shim_pid]

  @doc """
  Returns what is known about a worker, or nil if there is no such worker (any more).

  Exits if the worker's process does not answer within five seconds. `Leash.Tree.info/1` does not
  ask that process.

    * `:run_id`, `:worker` - the run that started it, and its number in that run
    * `:group`, `:command`, `:args` - as given at its start
    * `:os_pid` - its program; `nil` if the program of an adopted worker has just ended
    * `:shim_pid` - its shim
    * `:state` - `:running` or `:ending`
    * `:started_at` - a `DateTime`
    * `:mark` - whether the mark could be set: `:set`, `:off`, `:no_depth`, `{:error, posix}`
    * `:cgroup` - the path of its control group, or `{:error, why}` if it runs without one
      (`required: false`); `nil` without `:cgroup`, and for an adopted worker
    * `:adopted?` - whether the worker was running before this process began
    * `:not_covered` - only for an attachment, see `Leash.attach/2`
    * `:pty` - only for a worker with a terminal: its device and its present size
  """
  @spec info(worker()) ::
          %{
            optional(:not_covered) => [
              %{pid: pos_integer(), command: String.t(), why: :escaped | :unmarked}
            ],
            optional(:pty) => %{
              device: String.t(),
              rows: non_neg_integer(),
              cols: non_neg_integer()
            },
            run_id: Leash.RunId.t(),
            worker: pos_integer(),
            group: Leash.group() | nil,
            os_pid: pos_integer() | nil,
            shim_pid: pos_integer() | nil,
            command: String.t(),
            args: [binary()],
            state: :running | :ending | :waiting,
            restart: Leash.restart() | nil,
            started_at: DateTime.t(),
            mark: :set | :off | :no_depth | {:error, Posix.t()},
            adopted?: boolean(),
            cgroup: Path.t() | {:error, term()} | nil
          }
          | nil
  def info(worker), do: call(worker, :info, 5_000, nil)

  @doc """
  Writes to the program's stdin; returns when the kernel has taken everything.

  A program that does not read holds back only the processes that write to it. The process that
  gets the program's output must take messages meanwhile. Otherwise a program that answers its
  input is held back by its answers past `:output_window`, and stops reading.

  Into a terminal (`pty:`) the data are typed. So `"\\x03"` is Ctrl-C, and a line ends with
  `"\\n"` or `"\\r"`.

  Errors:

    * `:not_piped` - the worker was started with neither `stdin: :pipe` nor `:pty`
    * `:epipe` - the program closed its stdin, or ended meanwhile
    * `:noproc` - there is no such worker (any more)
    * `:closed` - `close_stdin/1` was called before
    * `:timeout` - the program did not read in time; part of the data may have been taken
  """
  @spec write(worker(), iodata(), timeout()) ::
          :ok | {:error, :not_piped | :epipe | :closed | :timeout | :noproc}
  def write(worker, data, timeout \\ 5_000)
      when timeout == :infinity or (is_integer(timeout) and timeout >= 0) do
    # Converted here, so that wrong iodata raises in the caller and the data is not copied.
    data = IO.iodata_to_binary(data)
    call(worker, {:write, data, timeout}, :infinity, {:error, :noproc}, {:error, :epipe})
  end

  @doc """
  Closes the program's stdin after what was written, so that it sees the end of its input.

  Into a terminal (`pty:`) the end is typed: the character VEOF, usually Ctrl-D, and twice in the
  middle of a line. A terminal stays open, so more can be written afterwards. A program that reads
  single characters, such as an editor, gets Ctrl-D as one of them.

  The errors are those of `write/3`.
  """
  @spec close_stdin(worker()) :: :ok | {:error, :not_piped | :noproc}
  def close_stdin(worker),
    do: call(worker, :close_stdin, :infinity, {:error, :noproc}, :ok)

  @doc """
  Gives the terminal of a worker with `pty:` another size.

  If that is a change, then the kernel sends SIGWINCH to the terminal's foreground group.

  Errors:

    * `:no_pty` - the worker has no terminal
    * `:epipe` - the program ended meanwhile
    * `:noproc` - there is no such worker (any more)

  Raises `Leash.OptionsError` if a number is not from 1 to 65,535.
  """
  @spec resize(worker(), rows :: 1..65_535, cols :: 1..65_535) ::
          :ok | {:error, :no_pty | :epipe | :noproc}
  def resize(worker, rows, cols) do
    %{rows: rows, cols: cols} = Schema.unwrap!(Pty.check_size(rows, cols))
    call(worker, {:resize, rows, cols}, :infinity, {:error, :noproc}, {:error, :epipe})
  end

  @doc """
  Opens the files of a worker's output anew, after another program has renamed them.

  The worker must have `{:file, path, options}` as `:stdout` or `:stderr`. After the call, nothing
  is written to the old files. If a file cannot be opened, then the old one goes on.

  Errors:

    * `:not_reopenable` - this VM writes no file of it. Only the program has `{:file, path}` open
    * `:noproc` - there is no such worker (any more)
    * a POSIX name, such as `:eacces`
  """
  @spec reopen(worker()) :: :ok | {:error, :not_reopenable | :noproc | :unsupported_os | atom()}
  def reopen(worker), do: call(worker, :reopen)

  @doc """
  Ends the whole tree and returns when it is gone.

  The ladder of `:stop` ends the tree; SIGKILL ends what is left then. Any number of callers may
  ask: the tree is ended once, and all callers get the same answer. If a worker has already ended,
  then the answer is how it ended.

  ## Options

  #{Schema.docs(@stop)}
  ## Errors

    * `%Leash.Error{survivors: list}` - some processes could not be ended, see `t:survivor/0`
    * `:noproc` - there is no such worker (any more)

  Raises `Leash.OptionsError` if an option is wrong.
  """
  @spec stop(worker(), kill: boolean()) ::
          {:ok, Exit.t()} | {:error, Error.t() | :noproc}
  def stop(worker, options \\ []) do
    %{kill: kill?} = Schema.unwrap!(Schema.validate(@stop, options))
    call(worker, {:stop, if(kill?, do: :kill, else: :ladder)})
  end

  @doc """
  Sends the program a signal.

      Leash.Worker.signal(MyApp.Nginx, :sighup)
      Leash.Worker.signal(MyApp.Workers, :sigusr1, to: :tree)

  The signal is `:sigterm`, `:sigusr1` or another name of signal(7), or a number from 1 to 64. The
  shim sends it. The shim is the parent of the program, so the signal never reaches a process
  that got the program's number later. After the proof of the end nothing is sent.

  `:ok` means that the shim has the request, not that the program obeys. SIGSTOP stops the
  program until SIGCONT comes, or until the tree is ended. A signal that ends the program is an
  end by itself. To end the tree, use `stop/2`.

  ## Options

  #{Schema.docs(@signal)}
  ## Errors

    * `:noproc` - there is no such worker, or its program has ended
    * `:adopted` - the worker was taken over by `adopt/2`, so only its `:leader` can be signalled
    * `:unsupported_os` - the worker runs degraded, see `guides/systems.md`
    * a lower-case POSIX name - an error of send(2) or pidfd_send_signal(2): `:eagain` if the shim
      does not read its requests, `:eperm` if an adopted program has changed its user

  Raises `Leash.OptionsError` if signal or option are wrong.
  """
  @spec signal(worker(), Signal.t(), to: :leader | :group | :tree) ::
          :ok | {:error, :noproc | :adopted | :unsupported_os | Posix.t()}
  def signal(worker, signal, options \\ []) do
    %{to: to} = Schema.unwrap!(Schema.validate(@signal, options))
    call(worker, {:signal, Schema.unwrap!(Signal.check(signal)), to})
  end

  @doc """
  Waits until the whole tree is gone, and returns how its program ended.

      {:ok, %Leash.Exit{status: 0}} = Leash.Worker.await(MyApp.Import, 60_000)

  Neither links to the worker nor ends it. Any number of processes may wait. If the worker is
  restarted, then the answer is the end of the program that ran at the time of the call. `timeout`
  is in milliseconds.

  Errors:

    * `:timeout` - the tree lives; the worker goes on
    * `%Leash.Error{survivors: list}` - some processes could not be ended, see `t:survivor/0`
    * `:noproc` - there is no such worker (any more), or it was killed or gave its tree up
  """
  @spec await(worker(), timeout()) :: {:ok, Exit.t()} | {:error, :timeout | :noproc | Error.t()}
  def await(worker, timeout \\ :infinity)
      when timeout == :infinity or (is_integer(timeout) and timeout >= 0) do
    call(worker, :await, timeout, {:error, :noproc})
  catch
    :exit, {:timeout, {GenServer, :call, _}} ->
      :ok = Protocol.forget(worker)
      {:error, :timeout}
  end

  @doc """
  Ends the whole tree by its ladder, and starts the program anew with the same options.

  Returns how the old program ended, once the new one runs or, with `:ready`, is ready. Process,
  pid and name stay, and links and monitors see nothing. So the supervisor does not count the
  restart. If the new program cannot be started, then the process exits with that reason, and its
  supervisor decides.

  Functions in options are the same ones, `:cd` and `PATH` are looked at again. A check of
  `:health` and a limit of `:guard` begin anew. A stop that comes meanwhile is stronger. In the
  time between, `info/1` and `stop/2` are answered, and other calls wait for the new program.

  Errors:

    * the reasons of `start_link/1` - the tree was ended, and the program could not be started
    * `:stopping` - the worker is being stopped
    * `%Leash.Error{survivors: list}` - some processes could not be ended; nothing was started
    * `:no_options` - the worker is from `Leash.attach/2` or `adopt/2`
    * `:unsupported_os` - the worker runs degraded, see `guides/systems.md`
    * `:noproc` - there is no such worker (any more)
  """
  @spec restart(worker()) :: {:ok, Exit.t()} | {:error, term()}
  def restart(worker), do: call(worker, :restart)

  @doc """
  Takes over a worker that a run left behind on purpose, by `on_exit: :detach` of `start_link/1`.

      {:ok, worker} = Leash.Worker.adopt(MyApp.Embedder)
      Leash.Worker.info(worker).adopted?
      #=> true
      Leash.Worker.stop(worker)

  `name` is the name that the worker was started with, or its text: `"MyApp.Embedder"`. The
  returned process answers as any worker does. It has no links. It ends when the tree has
  ended. If it ends for another reason, then the tree goes on and can be adopted again.
  `stop/2` and `Leash.stop_all/2` end the tree by the ladder that it was started with.

  Only a parent can see how a process ends. An adopted tree has another parent, so its
  `Leash.Exit` has neither status nor signal.

  ## Options

  #{Schema.docs(Adopted.schema())}
  ## Errors

    * `:not_found` - no such tree of this user lives in this pid namespace
    * `{:already_started, pid}` - this VM has it already: that process
    * `{:ambiguous, os_pids}` - several trees of that name live
    * `{:detached_elsewhere, map}` - the VM that started it lives (`:owner_pid`) and is not this
      one
    * `:stopping` - it is ending, or `Leash.stop_all/2` is ending the group
    * `:not_running` - the `:leash` application is not started
    * `:no_proc`, `:incomplete` - `/proc` cannot be read

  Raises `Leash.OptionsError` if name or option are wrong.
  """
  @spec adopt(GenServer.name() | String.t(), group: Leash.group() | nil) ::
          {:ok, pid()} | {:error, term()}
  def adopt(name, options \\ []), do: Adopted.adopt(name, options)

  @doc """
  The living detached workers of this user, whichever VM started them.

  `:name` is the text that `adopt/2` takes. `:os_pid` is the program, `nil` in the moment of its
  end. `:owner_pid` is the VM that started it. `:owner_alive?` says whether that VM lives, and is
  `nil` if that cannot be told.

  If `/proc` cannot be read, then the list is empty, too. Works while the `:leash` application is
  stopped.
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

  defp call(worker, request), do: call(worker, request, :infinity, {:error, :noproc})
  defp call(worker, request, timeout, absent), do: call(worker, request, timeout, absent, absent)

  # `ended` is the answer of a worker that ended during the call.
  defp call(worker, request, timeout, absent, ended) do
    GenServer.call(worker, request, timeout)
  catch
    :exit, {:noproc, {GenServer, :call, _}} -> absent
    :exit, {reason, {GenServer, :call, _}} when reason != :timeout -> ended
  end
end
