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
  | the owner or this process crashes or is killed | SIGKILL at once |
  | the VM ends in any way, SIGKILL included | the ladder, by the shim |
  | the shim is killed | SIGKILL to everything that carries the worker's tag; `:shim_died` |
  | VM and shim are killed together | the sweep of the next start |

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
    * `:port_closed` - somebody closed the port; nothing of the tree is left
    * `{:survivors, list}` - some processes could not be ended, see `t:survivor/0`
    * `{:unhealthy, reason}` - `:health` found it unwell so many times in a row; `reason` is that of the last time: `:timeout`,
      `{:status, status}`, `{:returned, term}`, `{:raised, exception}`, or of the connection, such as `:econnrefused`
    * `{:guard, %{limit: limit, max: number, value: number}}` - the tree exceeded a limit of `:guard`

  ## Errors at start

  `start_link/1` returns `{:error, reason}` and leaves nothing behind:

    * `%Leash.OptionsError{}` - an option is wrong; nothing was started
    * `:not_running` - the `:leash` application is not started, or is stopping
    * `:stopping` - `Leash.stop_all/2` is ending its group at the moment
    * `:too_many_workers` - 32,766 trees live or are not yet proven gone
    * `{:exec, posix}` - the program could not be executed, errors of execve(2): `:enoent` (also a
      missing interpreter), `:eacces`, `:enoexec`, `:e2big`, `:etxtbsy` …
    * `{stage, posix}` - another stage failed: `:cd`, `:stdin`, `:stdout`, `:stderr`, `:fork` (`:eagain` at the
      limit of processes), `:pipe` (`:emfile`), `:stdio`, `:setsid`, `:ids`, `:pdeathsig`, `:owner`
    * `{:port, reason}` - the shim itself could not be started, errors of `Port.open/2`
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

  use GenServer

  alias Leash.{
    Attachment,
    Command,
    Detached,
    Exit,
    Guard,
    HeldShim,
    Hunt,
    Ladder,
    LastExits,
    Native,
    Posix,
    Reaper,
    Run,
    Schema,
    Shim,
    StopCommand,
    Telemetry,
    Workers
  }

  alias Leash.Worker.{Health, Input, Options, Output, ReadyProbe}

  require Logger

  # How long this process waits for handlers to take what the pipes still hold after the end; they
  # go on by themselves afterwards.
  @drain_ms 1_000

  # Beyond its ladder, until a shim is taken for stuck; then from step to step.
  @slack_ms 1_000

  # Between two looks whether a shim has ended that was let go, and how long it is waited for beyond its ladder: without /proc
  # it finds its tree by trying numbers.
  @look_for_shim_ms 10
  @let_go_ms 10_000
  # From the exit of a program that left nothing to the word that its tree is gone.
  @last_report_ms 100

  @typedoc "An option of `start_link/1`."
  @type option :: unquote(Schema.typespec(Options.schema()))

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
      name = if options.name, do: [name: options.name], else: []

      Detached.start_or_adopt(options, name, fn ->
        GenServer.start_link(__MODULE__, {options, nil}, name)
      end)
    end
  end

  @doc false
  # For `Leash.Command`: a Worker without a link, whose client reads the pipes itself. The client gets
  # `{ref, message}` and its end, whatever the reason, ends the tree. Never logs a crash of its own.
  @spec start_for({pid(), reference()}, map()) :: {:ok, pid()} | {:error, term()}
  def start_for(client, options) do
    with {:error, {:shutdown, reason}} <- GenServer.start(__MODULE__, {options, client}),
         do: {:error, reason}
  end

  @doc false
  # For `Leash.attach/2`: a Worker without a link, whose program is there already. Never logs a crash of its start.
  @spec start_attached(map()) :: {:ok, pid()} | {:error, term()}
  def start_attached(options) do
    name = if options.name, do: [name: options.name], else: []

    with {:error, {:shutdown, reason}} <- GenServer.start(__MODULE__, {options, :attached}, name),
         do: {:error, reason}
  end

  @doc """
  A child specification; `:shutdown` is the length of the ladder and two seconds.

  `id` is the `:name`, else the command. Other keys are changed with `Supervisor.child_spec/2`.
  """
  @spec child_spec([option()] | map()) :: Supervisor.child_spec()
  def child_spec(options) do
    # Wrong options are start_link/1's to report.
    fetch = fn key ->
      if is_map(options), do: options[key], else: is_list(options) && options[key]
    end

    stop = fetch.(:stop) || [sigterm: 2_000]

    %{
      id: fetch.(:name) || {__MODULE__, fetch.(:command) || fetch.(:shell)},
      start: {__MODULE__, :start_link, [options]},
      type: :worker,
      shutdown: if(Ladder.valid?(stop), do: Ladder.shutdown(stop), else: 5_000)
    }
  end

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
  def write(worker, data, timeout \\ 5_000) do
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

  ## The process

  # phases: :launching → :running → :ending (asked to) → :hunting (the shim is gone without proof)
  #         → :draining (the tree is gone, output is still on its way) → :done
  @impl true
  def init({options, nil}), do: init(options, nil)

  def init({options, :attached}),
    do: with({:stop, reason} <- init(options, nil), do: {:stop, {:shutdown, reason}})

  def init({options, {pid, ref}}) do
    client = %{
      pid: pid,
      ref: ref,
      monitor: Process.monitor(pid),
      output_done?: false,
      answered?: false
    }

    with {:stop, reason} <- init(options, client), do: {:stop, {:shutdown, reason}}
  end

  defp init(options, client) do
    Process.flag(:trap_exit, true)

    with {:ok, state} <- launch(options, client) do
      state |> await_start() |> started()
    else
      {:error, reason} -> {:stop, reason}
    end
  end

  defp launch(options, client) do
    label = label(options)

    with :ok <- holdable(options),
         {:ok, options} <- Attachment.watch(options),
         {:ok, number} <-
           Reaper.register(%{
             kind: kind(options, client),
             label: label,
             name: options.name,
             stop: options.stop,
             group: options.group,
             outlives: if(options.on_exit == :detach, do: :own)
           }),
         # Not before: the predecessor of that name may have listened there until now.
         :ok <- ReadyProbe.free(options.ready),
         {:ok, run} <- fetch_run(),
         options = Run.with_flag(run, number, options),
         :ok <- Attachment.record(run, number, options),
         {:ok, listener, stdio_name} <- listen(options),
         {:ok, port} <- open_port(run, number, options, stdio_name) do
      {:ok,
       %{
         run: run,
         number: number,
         client: client,
         attachment: options[:attach],
         # Without the environment: this state is printed when the process crashes.
         options: %{options | env: []},
         label: label,
         port: port,
         listener: listener,
         shim_pid: with({:os_pid, pid} <- Port.info(port, :os_pid), do: pid),
         shim_fd: nil,
         os_pid: nil,
         mark: nil,
         started_at: DateTime.utc_now(),
         outputs: %{},
         traffic: Guard.traffic(options[:guard]),
         input: nil,
         phase: :launching,
         ready?: options.ready == nil,
         # why start_link fails, or why this process exits
         failure: nil,
         # how the tree is being ended: nil, :ladder or :kill
         ending: nil,
         requested?: false,
         stoppers: [],
         exited: nil,
         # what became of the ladder's commands, by the index of their steps
         commands: %{},
         result: nil,
         hunt: nil,
         gone?: false,
         shim_ended?: false,
         # the leash was let go, where the shim cannot be signalled: until when it is waited for
         let_go: nil,
         parent: parent(),
         reaper: Process.monitor(Reaper)
       }}
    end
  end

  # What outlives its leash is ended by a signal to its shim, or never.
  defp holdable(%{on_exit: :detach}),
    do: if(HeldShim.possible?(), do: :ok, else: {:error, :no_pidfd})

  defp holdable(_options), do: :ok

  defp kind(%{attach: _target}, _client), do: :attachment
  defp kind(_options, nil), do: :worker
  defp kind(_options, _client), do: :command

  # Started by proc_lib, so the first ancestor is who called start_link.
  defp parent do
    case Process.get(:"$ancestors") do
      [pid | _] when is_pid(pid) -> pid
      [name | _] when is_atom(name) -> Process.whereis(name)
      _none -> nil
    end
  end

  defp label(%{name: nil, command: command}), do: Path.basename(command)
  defp label(%{name: name}), do: inspect(name)

  defp fetch_run do
    with :error <- Run.fetch(), do: {:error, :not_running}
  end

  defp listen(options) do
    if options.stdin == :pipe or options.stdout == :output or options.stderr == :output,
      do: with({:error, reason} <- Native.listen(), do: {:error, {:stdio, reason}}),
      else: {:ok, nil, nil}
  end

  defp open_port(run, number, options, stdio_name) do
    port = Shim.open(run, number, options, stdio_name)

    # Where this process is killed before the first report, the Reaper has to look after it.
    with :detach <- options.on_exit,
         {:os_pid, pid} <- Port.info(port, :os_pid),
         do: Workers.change(number, shim: pid)

    {:ok, port}
  rescue
    error in ErlangError -> {:error, {:port, error.original}}
    # Port.open/2 has badarg for what validation could not foresee, such as a NUL from the VM's own
    # environment.
    error in ArgumentError -> {:error, {:port, Exception.message(error)}}
  end

  ## Starting

  defp await_start(state) do
    state
    |> accept()
    |> loop_until(now() + state.options.start_timeout, :start_timeout, &launched?/1)
  end

  defp started(%{failure: nil, phase: :running} = state) do
    ReadyProbe.start(state.options.ready, fn -> described(state) end)

    state
    |> loop_until(now() + state.options.ready_timeout, :ready_timeout, & &1.ready?)
    |> ready()
  end

  # The program ran: what came of it is an answer to its client, and no error of the start.
  defp started(%{client: client, os_pid: pid} = state) when client != nil and pid != nil,
    do: {:ok, state, {:continue, :over}}

  defp started(state), do: not_started(state, stop_reason(state))

  defp ready(%{failure: nil, phase: :running, ready?: true} = state) do
    Telemetry.worker(:ready, state.number)
    Health.start(state.options[:health], state.number)
    {:ok, state}
  end

  defp ready(state), do: not_started(state, start_error(state))

  defp not_started(state, reason) do
    _ = note_end(state, reason)
    answer_stoppers(state)
    {:stop, reason}
  end

  defp start_error(%{failure: nil, result: {:ok, exit}}), do: {:exited, exit}
  defp start_error(state), do: stop_reason(state)

  defp launched?(state), do: state.phase != :launching

  # Handles messages until the condition holds; past the deadline, or when the parent goes, the
  # tree is ended first. Only messages of ours are taken: calls wait for the loop of GenServer.
  defp loop_until(state, deadline, failure, condition) do
    cond do
      state.phase == :done ->
        state

      state.failure == nil and state.ending == nil and condition.(state) ->
        state

      true ->
        case next_message(deadline) do
          {:leash, {:stop, _from, _how}} = message ->
            # Whoever waits for the start is told; an ending under way keeps its own reason.
            failure? = state.ending == nil and state.failure == nil
            state = if failure?, do: %{state | failure: :stopping}, else: state
            state |> advance(message) |> loop_until(:infinity, failure, condition)

          {:EXIT, pid, reason} = message ->
            # A parent that ends takes us along whatever its reason; others only when they crash.
            if own_exit?(state, pid) or (reason == :normal and pid != state.parent),
              do: state |> advance(message) |> loop_until(deadline, failure, condition),
              else: state |> fail(reason) |> loop_until(:infinity, failure, condition)

          :timeout ->
            state |> fail(failure) |> loop_until(:infinity, failure, condition)

          message ->
            state |> advance(message) |> loop_until(deadline, failure, condition)
        end
    end
  end

  defp fail(state, reason) do
    begin_end(%{state | failure: state.failure || reason}, Reaper.how(reason))
  end

  defp next_message(deadline) do
    receive do
      {port, _} = message when is_port(port) -> message
      {:EXIT, _, _} = message -> message
      {:leash, _} = message -> message
      {:leash_fd, _, _} = message -> message
      {:output_ready, _} = message -> message
      {:DOWN, _, _, _, _} = message -> message
    after
      left(deadline) -> :timeout
    end
  end

  defp left(:infinity), do: :infinity
  defp left(deadline), do: max(0, deadline - now())

  defp now, do: System.monotonic_time(:millisecond)

  ## Running

  @impl true
  def handle_continue(:over, state), do: continue(state)

  @impl true
  def handle_call(:info, _from, state) do
    info = %{
      run_id: state.run.id,
      worker: state.number,
      group: state.options.group,
      os_pid: state.os_pid,
      shim_pid: state.shim_pid,
      command: state.options.command,
      args: state.options.args,
      state: if(state.phase == :running, do: :running, else: :ending),
      started_at: state.started_at,
      mark: with({:error, errno} <- state.mark, do: {:error, Posix.name(errno)}),
      adopted?: false
    }

    {:reply, Attachment.info(info, state.attachment), state}
  end

  def handle_call({:write, _data, _timeout}, _from, %{input: nil} = state),
    do: {:reply, {:error, no_input(state)}, state}

  def handle_call({:write, data, timeout}, from, state) do
    Input.write(state.input, data, timeout, from)
    {:noreply, state}
  end

  def handle_call(:close_stdin, _from, %{input: nil} = state),
    do:
      {:reply, with(:epipe <- no_input(state), do: :ok, else: (reason -> {:error, reason})),
       state}

  def handle_call(:close_stdin, from, state) do
    Input.close(state.input, from)
    {:noreply, state}
  end

  def handle_call({:stop, how}, from, state),
    do: state |> advance({:leash, {:stop, from, how}}) |> continue()

  defp described(state),
    do: with({:reply, info, _state} <- handle_call(:info, nil, state), do: info)

  defp no_input(%{options: %{stdin: :pipe}}), do: :epipe
  defp no_input(_state), do: :not_piped

  @impl true
  def handle_info({:EXIT, pid, reason} = message, state) do
    if own_exit?(state, pid) or reason == :normal,
      do: state |> advance(message) |> continue(),
      else: {:stop, reason, state}
  end

  def handle_info(message, state), do: state |> advance(message) |> continue()

  defp own_exit?(state, pid),
    do: pid == state.port or pid == state.input or is_map_key(state.outputs, pid)

  defp continue(%{phase: :done} = state), do: {:stop, stop_reason(state), state}
  defp continue(state), do: {:noreply, state}

  # Shut down, or crashed: this process may not end before its tree has.
  @impl true
  def terminate(reason, %{phase: :done} = state), do: state |> note_end(reason) |> answer()

  def terminate(reason, state) do
    if lasts?(state) and no_stop_waits?(),
      do: state |> leave(reason) |> answer(),
      else: end_and_answer(reason, state)
  end

  # A caller of stop/2 whose request is still in the mailbox gets what he asked for.
  defp no_stop_waits? do
    {:messages, messages} = Process.info(self(), :messages)

    not Enum.any?(messages, fn message ->
      match?({:"$gen_call", _from, {:stop, _how}}, message) or
        match?({:leash, {:stop, _from, _how}}, message)
    end)
  end

  defp end_and_answer(reason, state) do
    state
    |> begin_end(Reaper.how(reason))
    |> loop_until(:infinity, reason, fn _state -> false end)
    |> note_end(reason)
    |> answer()
  end

  # A tree that outlives this process, and that nobody asked to end.
  defp lasts?(state),
    do: state.options.on_exit == :detach and state.phase == :running and state.ending == nil

  # The Reaper holds the shim from now on.
  defp leave(state, reason) do
    state = hold(state)
    close_port(state)
    %{state | port: nil, phase: :done, failure: reason, result: {:error, :noproc}}
  end

  # Before this process is gone, after which its successor may be asked for it.
  defp note_end(state, reason) do
    LastExits.put(state.options.name, state.result, reason)
    state
  end

  # Everybody who asked gets the answer, those too whose call is still in the mailbox.
  defp answer(state), do: state |> answer_client() |> answer_stoppers()

  defp answer_stoppers(state) do
    Enum.each(state.stoppers, &GenServer.reply(&1, state.result))

    receive do
      {:"$gen_call", from, {:stop, _how}} -> answer_stoppers(%{state | stoppers: [from]})
      {:leash, {:stop, from, _how}} -> answer_stoppers(%{state | stoppers: [from]})
    after
      0 -> :ok
    end
  end

  # What happened is the client's to know, and was sent to it.
  defp stop_reason(%{client: client, phase: :done, os_pid: pid})
       when client != nil and pid != nil,
       do: :normal

  defp stop_reason(%{failure: failure}) when failure != nil, do: failure
  defp stop_reason(%{requested?: true}), do: :normal
  defp stop_reason(%{result: {:error, %{survivors: list}}}), do: {:survivors, list}

  defp stop_reason(%{result: {:ok, exit}, options: options}) do
    case options.exit_reason do
      nil -> Exit.reason(exit)
      fun -> fun.(exit)
    end
  end

  ## The life of the tree: one message, one step. Used by init, by the loop and by terminate alike.

  defp advance(%{port: port} = state, {port, {:data, frame}}),
    do: report(state, named(state, Shim.report(frame)))

  # The fork server exits with the errno when it cannot execute the shim itself (E2BIG: the shim's
  # arguments are the program's and some more). No shim ever ran then.
  defp advance(%{port: port, mark: nil} = state, {port, {:exit_status, errno}})
       when errno in 1..124 do
    failure = state.failure || {:exec, Posix.name(errno)}
    update_row(%{state | phase: :done, failure: failure, result: {:error, :noproc}}, tree: :gone)
  end

  defp advance(%{port: port} = state, {port, {:exit_status, _status}}),
    do: shim_gone(state, :shim_died)

  defp advance(%{port: port, options: %{on_exit: :detach}, phase: :running} = state, {
         :EXIT,
         port,
         _reason
       })
       when state.ending == nil,
       do: leave(%{state | port: nil}, :port_closed)

  # Somebody closed the port, so no report comes any more: the shim has taken it as the end, and its
  # pidfd says when it is through.
  defp advance(%{port: port, phase: phase} = state, {:EXIT, port, _reason})
       when phase in [:launching, :running, :ending] do
    state = hold(%{state | port: nil})

    cond do
      never_held?(state) ->
        let_go(%{state | failure: state.failure || :port_closed})

      state.shim_fd == nil or state.shim_ended? ->
        shim_gone(state, :port_closed)

      true ->
        stuck_after(:ladder, patience(state))

        %{
          state
          | phase: :ending,
            ending: state.ending || :ladder,
            failure: state.failure || :port_closed
        }
    end
  end

  defp advance(%{let_go: until, phase: :ending} = state, {:leash, which})
       when until != nil and which in [:look_for_shim, :shim_ended],
       do: look_for_shim(state)

  defp advance(%{let_go: nil, result: nil, phase: phase} = state, {:leash, :let_go})
       when phase in [:launching, :running, :ending],
       do: let_go(state)

  defp advance(%{port: nil} = state, {:leash, :shim_ended}), do: shim_gone(state, :port_closed)
  # With the port open, its exit status comes behind the last report and says the same.
  defp advance(state, {:leash, :shim_ended}), do: %{state | shim_ended?: true}

  defp advance(state, {:leash_fd, _fd, :ready}), do: accept(state)

  defp advance(state, {:output_ready, _pid}) do
    Enum.each(Map.keys(state.outputs), &Output.limit/1)
    %{state | ready?: true}
  end

  defp advance(%{outputs: outputs} = state, {:EXIT, pid, _reason}) when is_map_key(outputs, pid),
    do: drained(%{state | outputs: Map.delete(outputs, pid)})

  defp advance(%{input: input} = state, {:EXIT, input, reason}),
    do: input_ended(%{state | input: nil}, reason)

  defp advance(%{client: %{monitor: monitor}} = state, {:DOWN, monitor, :process, _, reason}),
    do: fail(state, reason)

  defp advance(%{attachment: %{watch: watch}} = state, {:DOWN, watch, :process, _, reason}),
    do: owner_ended(state, Reaper.how(reason))

  defp advance(state, {:leash, :owner_ended}), do: owner_ended(state, :ladder)

  defp advance(%{client: client} = state, {:leash, :output_done}) when client != nil,
    do: end_rest(%{state | client: %{client | output_done?: true}})

  defp advance(state, {:leash, {:end, how}}), do: begin_end(state, how)

  defp advance(state, {:leash, {:stop, from, how}}) do
    requested? = state.phase == :running or state.requested?
    begin_end(%{state | stoppers: [from | state.stoppers], requested?: requested?}, how)
  end

  defp advance(%{exited: nil} = state, {:leash, {:doomed, reason}}), do: doomed(state, reason)
  defp advance(state, {:leash, :hold}), do: hold(state)

  defp advance(%{hunt: {_pid, monitor}} = state, {:DOWN, monitor, :process, _, reason}),
    do: hunted(%{state | hunt: nil}, reason)

  defp advance(%{reaper: monitor} = state, {:DOWN, monitor, :process, _, _reason}),
    do: reattach(state, Reaper.reattach())

  defp advance(state, {:leash, {:reattach, tries}}), do: reattach(state, Reaper.reattach(tries))
  defp advance(state, {:leash, {:stuck, how}}), do: stuck(state, how)
  defp advance(%{phase: :draining} = state, {:leash, :drained}), do: %{state | phase: :done}
  defp advance(state, _other), do: state

  ## What the shim reports

  defp named(state, report), do: StopCommand.named(report, state.options.stop, state.commands)

  defp report(state, {:ready, %{mark: mark, shim: shim_pid}}) do
    # A shim that ends at once may be gone before the port could be asked for its number.
    state = %{state | mark: mark, shim_pid: state.shim_pid || shim_pid}

    state = update_row(state, shim: state.shim_pid)

    cond do
      state.ending ->
        signal_ending(state)

      # Nobody would find its processes again, or know that they are to be left alone.
      state.options.on_exit == :detach and mark != :set ->
        fail(state, {:mark, with({:error, errno} <- mark, do: Posix.name(errno))})

      true ->
        hold_later(state)
    end
  end

  defp report(state, {:started, os_pid}) do
    state = update_row(accept(%{state | os_pid: os_pid}), os_pid: os_pid)
    Telemetry.worker(:start, state.number)
    Guard.watch(state.number, state.options[:guard], state.traffic)
    feed(state)
    if state.phase == :launching, do: %{state | phase: :running}, else: state
  end

  defp report(state, {:attached, os_pid, _marked, _unmarked}) do
    attachment = Attachment.attached(state.attachment, state.run, state.number)
    report(%{state | attachment: attachment}, {:started, os_pid})
  end

  defp report(state, {:start_failed, stage, errno}),
    do: %{state | failure: state.failure || {stage, Posix.name(errno)}}

  defp report(state, {:exited, how}), do: end_rest(%{state | exited: how})

  defp report(state, {:gone, exit}),
    do: answer_client(%{state | result: {:ok, %Exit{exit | os_pid: state.os_pid}}})

  defp report(state, {:step, cause, step, elapsed}) do
    Telemetry.step(state.number, cause, step, elapsed)
    state
  end

  defp report(state, {:command, index, result}), do: put_in(state.commands[index], result)

  defp report(state, _unknown), do: state

  defp hold_later(state) do
    _timer = Process.send_after(self(), {:leash, :hold}, HeldShim.after_ms())
    state
  end

  defp hold(%{shim_fd: nil, mark: mark, phase: phase} = state)
       when mark != nil and phase in [:launching, :running, :ending] do
    case HeldShim.open(state.shim_pid, state.run.id, state.number) do
      {:ok, fd} ->
        ended? = Native.pidfd_monitor(fd, {:leash, :shim_ended}) != :ok
        %{state | shim_fd: fd, shim_ended?: ended?}

      # It has ended, and the port says so.
      {:error, _gone} ->
        state
    end
  end

  # It is held, has not reported yet, or is gone.
  defp hold(state), do: state

  defp update_row(state, changes) do
    Workers.change(state.number, changes)
    state
  end

  ## Pipes

  defp accept(%{listener: nil} = state), do: state
  defp accept(%{shim_pid: nil} = state), do: state

  defp accept(state) do
    case Native.accept(state.listener, state.shim_pid, state.number) do
      {:ok, ends} ->
        _ = Native.fd_close(state.listener)
        %{state | listener: nil} |> start_input(ends.stdin) |> start_outputs(ends)

      :again ->
        state

      {:error, reason} when state.client != nil ->
        state |> tell({:streams, []}) |> fail({:stdio, reason})

      {:error, _reason} ->
        state
    end
  end

  ## The client of a command

  defp tell(state, message) do
    send(state.client.pid, {state.client.ref, message})
    state
  end

  # The shim's word is the proof; that it exits as well is nothing to wait for. A start that failed has its answer in
  # what start_for/2 returns.
  defp answer_client(%{client: %{answered?: false}, os_pid: pid} = state) when pid != nil do
    # The source of the input may be waiting for something that never comes.
    if state.input, do: Process.exit(state.input, :kill)

    state
    |> gone()
    |> tell({:ended, state.result, state.failure})
    |> put_in([:client, :answered?], true)
  end

  defp answer_client(state), do: state

  # Once: for a client at the shim's word, for everybody else when the shim is gone too.
  defp gone(%{gone?: true} = state), do: state
  defp gone(%{result: {:error, _survivors}} = state), do: state

  defp gone(%{result: {:ok, exit}} = state) do
    if state.os_pid, do: Telemetry.worker_stop(state.number, exit)
    %{update_row(state, tree: :gone) | gone?: true}
  end

  # Only when its output has ended too is a command over (a background process may hold it); what it left
  # behind is ended then.
  defp end_rest(%{client: %{output_done?: true}, exited: exited} = state) when exited != nil,
    do: begin_end(state, :ladder)

  defp end_rest(state), do: state

  defp input_ended(%{client: client} = state, {:shutdown, {:input, _, _, _} = failed})
       when client != nil,
       do: state |> tell(failed) |> begin_end(:ladder)

  defp input_ended(state, _reason), do: state

  defp start_input(state, nil), do: state

  defp start_input(%{client: client} = state, fd) when client != nil do
    state = %{state | input: Command.Feeder.start_link(fd, state.options.input)}
    if state.os_pid, do: feed(state)
    state
  end

  defp start_input(state, fd) do
    {:ok, pid} = Input.start_link(fd)
    %{state | input: pid}
  end

  # Not before the program runs: what the source of the input does is done for nothing otherwise.
  defp feed(%{client: client, input: feeder}) when client != nil and feeder != nil,
    do: Command.Feeder.feed(feeder)

  defp feed(_state), do: :ok

  defp start_outputs(%{client: client} = state, ends) when client != nil do
    streams = for stream <- [:stdout, :stderr], fd = ends[stream], do: {stream, fd}
    # A client that is gone needs no pipes.
    Enum.each(streams, fn {_stream, fd} -> Native.fd_give(fd, client.pid) end)
    tell(state, {:streams, streams})
  end

  defp start_outputs(state, ends) do
    options = %{
      label: state.label,
      ready: if(is_struct(state.options.ready, Regex), do: state.options.ready),
      window: state.options.output_window,
      limited?: state.ready?,
      traffic: state.traffic
    }

    outputs =
      for stream <- [:stdout, :stderr], fd = ends[stream], into: %{} do
        options = Map.put(options, :handler, handler(state.options, stream))
        {:ok, pid} = Output.start_link(fd, stream, options)
        {pid, stream}
      end

    %{state | outputs: outputs}
  end

  defp handler(%{on_stderr: handler}, :stderr) when handler != nil, do: handler
  defp handler(%{on_output: handler}, _stream), do: handler

  ## Ending

  defp begin_end(%{phase: phase} = state, _how) when phase in [:hunting, :draining, :done],
    do: state

  defp begin_end(%{ending: :kill} = state, _how), do: state
  defp begin_end(%{ending: same} = state, same), do: state

  defp begin_end(state, how) do
    phase = if state.phase == :running, do: :ending, else: state.phase
    signal_ending(%{state | ending: how, phase: phase})
  end

  # As if it had asked.
  defp owner_ended(state, how), do: begin_end(%{state | requested?: true}, how)

  # A guard or a failed check found it; in order all the same. What ends already keeps its own reason.
  defp doomed(%{phase: phase, ending: nil, failure: nil} = state, reason)
       when phase in [:launching, :running],
       do: begin_end(%{state | failure: reason}, :ladder)

  defp doomed(state, _reason), do: state

  # Before the shim's first report there is nothing to signal: the report will find :ending set.
  defp signal_ending(state), do: state |> hold() |> signal_held()

  defp signal_held(%{let_go: until} = state) when until != nil, do: state

  defp signal_held(%{shim_fd: nil} = state) do
    if never_held?(state) do
      unsignalled(state)
    else
      stuck_after(state.ending, @slack_ms)
      state
    end
  end

  defp signal_held(state) do
    told = Reaper.tell_shim(state.number, state.shim_fd, state.ending)
    stuck_after(state.ending, patience(state))
    # Its client may go between the shim's last word and its exit.
    state = if state.gone?, do: state, else: update_row(state, tree: :ending)
    if told == :ok, do: state, else: unsignalled(state)
  end

  # It has reported, and this machine is why it is not held.
  defp never_held?(state),
    do: state.shim_fd == nil and state.mark != nil and not HeldShim.possible?()

  # No signal reaches the shim here, by which it could be told and would report. What is left is the leash, and with it goes
  # the port that reports come by: nobody hears how the program ends, and `:kill` is the ladder.
  defp unsignalled(%{exited: nil} = state), do: let_go(state)

  # Its program has exited. Where that left nothing, the last report is on its way.
  defp unsignalled(state) do
    _timer = Process.send_after(self(), {:leash, :let_go}, @last_report_ms)
    state
  end

  defp let_go(state) do
    close_port(state)
    patience = patience(%{state | ending: :ladder})
    until = if patience == :infinity, do: :infinity, else: now() + patience + @let_go_ms
    look_for_shim(%{state | port: nil, let_go: until, phase: :ending})
  end

  # Its number is free when it has ended, whoever may have it by then: a sign that needs neither /proc nor pidfds.
  defp look_for_shim(%{let_go: until} = state) do
    ended? = not Native.number_taken?(state.shim_pid)

    if ended? or now() >= until do
      hunt = Hunt.start(Hunt.of_workers(state.run, [state.number]))
      %{state | phase: :hunting, hunt: hunt, shim_ended?: ended?}
    else
      _timer = Process.send_after(self(), {:leash, :look_for_shim}, @look_for_shim_ms)
      state
    end
  end

  defp patience(%{ending: :kill}), do: @slack_ms

  defp patience(state) do
    with ms when is_integer(ms) <- Ladder.duration(state.options.stop), do: ms + @slack_ms
  end

  defp stuck_after(_how, :infinity), do: :ok

  defp stuck_after(how, ms) do
    _timer = Process.send_after(self(), {:leash, {:stuck, how}}, ms)
    :ok
  end

  # A timer of a ladder that QUIT has overtaken.
  defp stuck(%{ending: :kill} = state, :ladder), do: state
  defp stuck(%{phase: phase} = state, _how) when phase not in [:launching, :ending], do: state
  # The clock of its ladder is another one.
  defp stuck(%{let_go: until} = state, _how) when until != nil, do: state

  defp stuck(%{shim_fd: nil} = state, _how) do
    # It never reported: let go of it, and look for what carries the tag.
    close_port(state)
    shim_gone(%{state | port: nil}, :shim_died)
  end

  defp stuck(state, :ladder), do: begin_end(state, :kill)

  defp stuck(state, :kill) do
    _ = Reaper.signal_shim(state.shim_fd, :sigkill)
    stuck_after(:sigkill, @slack_ms)
    state
  end

  defp stuck(state, :sigkill) do
    close_port(state)
    shim_gone(%{state | port: nil}, :shim_died)
  end

  defp close_port(%{port: nil}), do: :ok

  defp close_port(%{port: port}) do
    Port.close(port)
    :ok
  rescue
    ArgumentError -> :ok
  end

  # The shim is gone. Its last report is the kernel's word that the tree is; without it, the tags
  # have to be looked for.
  defp shim_gone(%{phase: phase} = state, _why) when phase in [:hunting, :draining, :done],
    do: state

  defp shim_gone(%{result: {:ok, _exit}} = state, _why), do: drain(state)

  defp shim_gone(state, why) do
    hunt = Hunt.start(Hunt.of_workers(state.run, [state.number]))
    %{state | phase: :hunting, hunt: hunt, failure: state.failure || why}
  end

  # Without /proc nobody was looked for. What a shim that was let go says by its end is all there is.
  defp hunted(state, {:shutdown, {:ok, %{incomplete_because: [:no_proc]}}})
       when state.let_go == nil or not state.shim_ended?,
       do: hunted(state, :no_proc)

  defp hunted(state, {:shutdown, {:ok, %{survivors: []}}}) do
    exit = %Exit{
      cause: if(state.failure == :port_closed or state.let_go, do: :leash, else: :shim_died),
      os_pid: state.os_pid
    }

    exit =
      case state.exited do
        {:status, status} -> %Exit{exit | status: status}
        {:signal, signal} -> %Exit{exit | signal: signal}
        :unknown -> exit
        nil when state.let_go != nil -> exit
        nil -> %Exit{exit | signal: :sigkill}
      end

    drain(%{state | result: {:ok, exit}})
  end

  defp hunted(state, {:shutdown, {:ok, %{survivors: survivors}}}) do
    drain(%{state | result: {:error, %{survivors: survivors}}, failure: {:survivors, survivors}})
  end

  defp hunted(state, failure) do
    Logger.error("Leash could not look for what worker #{state.label} left: #{inspect(failure)}")
    drain(%{state | result: {:error, %{survivors: []}}, failure: {:survivors, []}})
  end

  defp drain(state) do
    state = accept(state)
    gone? = match?({:ok, _}, state.result)
    state = if gone?, do: gone(state), else: state
    Process.send_after(self(), {:leash, :drained}, @drain_ms)
    Enum.each(Map.keys(state.outputs), &Output.finish/1)
    drained(%{state | phase: :draining})
  end

  defp drained(%{phase: :draining, outputs: outputs} = state) when map_size(outputs) == 0,
    do: %{state | phase: :done}

  defp drained(state), do: state

  ## The application

  # The Reaper restarts after a crash; if it stays away, so does the one who would answer for this
  # tree after us.
  defp reattach(state, {:ok, monitor}), do: %{state | reaper: monitor}
  defp reattach(state, :later), do: state

  defp reattach(state, :away) do
    if lasts?(state),
      do: leave(state, {:shutdown, :leash_stopped}),
      else: fail(state, {:shutdown, :leash_stopped})
  end
end
