defmodule Leash.Warden do
  # The run's warden is a process of the operating system. It starts the shims, ends what a killed
  # shim leaves, and outlives the shims and this VM (native/PROTOCOL.md, sections 9 and 10). This
  # process keeps one warden alive. Starts talk to the warden directly.
  #
  # If the connection to a warden closes, the warden does not end while anything of the run lives:
  # a dying VM closes all its connections, too. So it does no harm to replace a living warden. Its
  # shims go on.
  #
  #   starting ──ready, connected──▶ serving ──killed, or stopped for too long──▶ starting
  #      ▲ a pause if it ends at once    │
  #      └───────────────────────────────┘
  @moduledoc false

  use GenServer
  use Leash.ShortStatus, [:os_pid, :error]

  require Logger

  alias Leash.{Native, OSProcess, Run, Shim}

  # The start of the application waits so long for the warden. Most need 3 ms. If the warden is
  # not ready by then, the application starts all the same.
  @ready_ms 2_000
  # A warden that has not connected by then hangs, or was stopped.
  @unready_ms 5_000
  # The pauses between two tries if wardens do not get ready: doubled from the first to the last.
  @again_ms {100, 5_000}
  # From a pause of that length on, starts do not wait, because several tries have not helped.
  @hopeless_ms 400
  # A warden that is killed sooner than this after it was ready is not replaced at once.
  @lived_ms 1_000
  # A start waits so long in all, even if there is no warden.
  @start_ms 10_000
  # A start that has heard nothing for so long reports it, and goes on waiting.
  @slow_ms 500
  # A warden that was woken may take so long for the next start.
  @stuck_ms 2_000
  # The pauses of callers that find the socket full.
  @full_ms 1..4

  @control {__MODULE__, :control}

  @type status :: :ok | {:error, :not_running | :starting | :marks_unseen | term()}

  @typedoc "The first message of a shim, as `Leash.Native.channel_read/1` returns it."
  @type message :: {:ok, binary()} | {:spawned, binary(), Native.fd()}

  @typedoc """
  A shim that runs.

  The map holds its channel, our ends of its program's pipes, and the warden that started it.
  """
  @type started :: %{
          channel: Native.fd(),
          ends: %{stdin: end_(), stdout: end_(), stderr: end_()},
          first: message(),
          warden: Native.fd()
        }

  @typedoc "The data for the start of a shim. `cancel` is an alias of the caller."
  @type request :: %{
          run: Leash.RunId.t(),
          args: [binary()],
          environment: Leash.Environment.t(),
          ends: Native.ends(),
          cancel: reference() | nil
        }

  @typep end_ :: Native.fd() | nil
  @typep control :: {Native.fd(), :counters.counters_ref()}

  @spec start_link(Run.t()) :: GenServer.on_start()
  def start_link(run), do: GenServer.start_link(__MODULE__, run, name: __MODULE__)

  @doc """
  Returns whether the run has a warden that finds processes by their marks.

  If VM and shims are killed at once, such a warden finds what is left. The reasons are:

    * `:starting`, `:not_running`
    * `:marks_unseen` - the warden starts shims, but knows their trees by descent alone, because
      `/proc`, pidfds or the mark are missing
    * a POSIX name from the start of the program
    * `{stage, errno}` from the program itself
  """
  @spec status() :: status()
  def status, do: ask(:status, {:error, :not_running})

  @doc "Returns the warden's pid, or nil if there is none."
  @spec os_pid() :: pos_integer() | nil
  def os_pid, do: ask(:os_pid, nil)

  defp ask(question, default) do
    GenServer.call(__MODULE__, question)
  catch
    :exit, _stopped -> default
  end

  @doc """
  Starts a shim through the warden, in the VM's directory, with these arguments and environment.

  The first argument is the shim's path. The calling process owns the returned descriptors.
  `{cancel, :cancel}` makes it give up. The errors are:

    * `:not_running`
    * `:no_warden` - none could start it in these milliseconds, at most 10 seconds, or several
      tries to start a warden have failed
    * `:stopping` - cancelled
    * `:no_working_directory`
    * POSIX names such as `:emfile`
  """
  @spec start_shim(request(), timeout()) :: {:ok, started()} | {:error, term()}
  def start_shim(request, ms) do
    request
    |> Map.put(:slow_at, now() + @slow_ms)
    |> request(control(), now() + min(ms, @start_ms))
  end

  @spec control() :: control() | nil
  defp control, do: :persistent_term.get(@control, nil)

  defp request(request, nil, until), do: request_next(request, nil, until)

  defp request(request, {fd, progress} = control, until) do
    case Native.shim_start(fd, request.args, request.environment, request.ends) do
      {:ok, channel, {stdin, stdout, stderr}} ->
        ends = %{stdin: stdin, stdout: stdout, stderr: stderr}

        case first(channel, fd, until, request.cancel) do
          {:error, reason} ->
            Enum.each([channel, stdin, stdout, stderr], &Native.close/1)

            if reason == :lost,
              do: request_again(request, control, until, :lost),
              else: {:error, reason}

          message ->
            :counters.add(progress, 1, 1)
            {:ok, %{channel: channel, ends: ends, first: message, warden: fd}}
        end

      :again ->
        request_again(request, control, until, :full)

      {:error, gone} when gone in [:closed, :epipe, :econnreset, :enotconn] ->
        request_next(request, fd, until)

      {:error, _reason} = error ->
        error
    end
  end

  # The socket is full, or the warden had no descriptor for it. A descriptor notifies one process
  # of a change, and more may wait.
  defp request_again(request, {fd, _progress} = control, until, why) do
    cond do
      now() >= until ->
        {:error, :no_warden}

      control() == control ->
        if why == :full and now() >= request.slow_at, do: slow(fd)
        Process.sleep(Enum.random(@full_ms))
        request(request, control, until)

      true ->
        request_next(request, fd, until)
    end
  end

  defp request_next(request, fd, until) do
    case next(request.run, fd, until) do
      {:ok, control} -> request(request, control, until)
      {:error, _reason} = error -> error
    end
  end

  defp next(run, fd, until) do
    # Another run may be current by now.
    if match?({:ok, %Run{id: ^run}}, Run.fetch()),
      do: GenServer.call(__MODULE__, {:next, fd, until}, :infinity),
      else: {:error, :not_running}
  catch
    # The process is being restarted, or the application is stopping.
    :exit, _not_there ->
      if now() < until do
        Process.sleep(20)
        next(run, fd, until)
      else
        {:error, :no_warden}
      end
  end

  # Only the first message proves a start. If the channel ends without one, nothing was started.
  defp first(channel, fd, until, cancel) do
    case Native.channel_read(channel) do
      :again -> await(channel, fd, until, cancel)
      :eof -> {:error, :lost}
      other -> other
    end
  end

  defp await(channel, fd, until, cancel) do
    receive do
      {:leash_fd, ^channel, :ready} -> first(channel, fd, until, cancel)
      {^cancel, :cancel} -> {:error, :stopping}
    after
      @slow_ms -> waited(channel, fd, until, cancel)
    end
  end

  # A warden that was replaced while it was stopped keeps its requests until it is gone. What it
  # starts later finds its channel hung up.
  defp waited(channel, fd, until, cancel) do
    cond do
      not match?({^fd, _progress}, control()) ->
        {:error, :lost}

      now() >= until ->
        {:error, :no_warden}

      true ->
        slow(fd)
        await(channel, fd, until, cancel)
    end
  end

  defp slow(fd), do: GenServer.cast(__MODULE__, {:slow, fd})

  @doc """
  Returns the warden if it reports in time that nothing is left of its killed shims.

  The time is in milliseconds. Returns `nil` without a report.
  """
  @spec word(timeout()) :: Native.fd() | nil
  def word(ms) do
    case control() do
      {control, _progress} -> ask_word(control, now() + ms)
      nil -> nil
    end
  end

  defp ask_word(control, until) do
    case Native.warden_word(control) do
      {:ok, fd} ->
        said = await_word(fd, until)
        Native.close(fd)
        if said == {:ok, "W"}, do: control

      :again ->
        Process.sleep(Enum.random(@full_ms))
        if now() < until, do: ask_word(control, until)

      {:error, _reason} ->
        nil
    end
  end

  defp await_word(fd, until) do
    with :again <- Native.channel_read(fd) do
      receive do
        {:leash_fd, ^fd, :ready} -> await_word(fd, until)
      after
        max(0, until - now()) -> :late
      end
    end
  end

  ## The process

  @impl true
  def init(run) do
    # So that terminate/2 runs at a shutdown.
    Process.flag(:trap_exit, true)

    state = %{
      run: run,
      port: nil,
      listener: nil,
      os_pid: nil,
      # Signals go to it by this identity.
      process: nil,
      control: nil,
      error: :starting,
      began: nil,
      pause: elem(@again_ms, 0),
      # Starts that wait for a warden.
      waiting: [],
      # Set if the warden was woken because starts are slow: the number of starts by then, and
      # whether one was slow since.
      woken: nil
    }

    # Before the first worker can start.
    {:ok, state |> open() |> await_ready(now() + @ready_ms)}
  end

  defp open(state) do
    case Native.warden_listen() do
      {:ok, listener, name} ->
        port = Shim.open_warden(state.run, name)
        _timer = Process.send_after(self(), {:unready, port}, @unready_ms)
        %{state | port: port, listener: listener, error: :starting, began: now()}

      {:error, reason} ->
        failed(state, reason)
    end
  rescue
    error in ErlangError -> failed(state, error.original)
    SystemLimitError -> failed(state, :system_limit)
  end

  defp await_ready(%{port: nil} = state, _until), do: state

  defp await_ready(%{port: port, listener: listener} = state, until) do
    receive do
      {^port, _} = message -> message |> advance(state) |> await_ready(until)
      {:leash_fd, ^listener, :ready} = message -> message |> advance(state) |> await_ready(until)
    after
      max(0, until - now()) -> state
    end
  end

  @impl true
  def handle_call(:os_pid, _from, state), do: {:reply, state.os_pid, state}
  def handle_call(:status, _from, state), do: {:reply, status(state), state}

  def handle_call({:next, fd, until}, from, state) do
    case state.control do
      {other, _progress} = control when other != fd ->
        {:reply, {:ok, control}, state}

      nil when state.pause > @hopeless_ms ->
        {:reply, {:error, :no_warden}, state}

      # The end of the warden, which the caller has seen, arrives here in a moment.
      _same_or_none ->
        Process.send_after(self(), {:late, from}, max(0, until - now()))
        {:noreply, %{state | waiting: [from | state.waiting]}}
    end
  end

  defp status(%{control: nil, error: error}), do: {:error, error}
  defp status(%{error: nil}), do: :ok
  defp status(%{error: error}), do: {:error, error}

  @impl true
  def handle_cast({:slow, fd}, %{control: {fd, progress}, woken: nil} = state) do
    signal(state.process, :sigcont)
    _timer = Process.send_after(self(), {:stuck?, fd}, @stuck_ms)
    {:noreply, %{state | woken: {:counters.get(progress, 1), false}}}
  end

  def handle_cast({:slow, fd}, %{control: {fd, _progress}, woken: {count, _}} = state),
    do: {:noreply, %{state | woken: {count, true}}}

  def handle_cast({:slow, _other}, state), do: {:noreply, state}

  @impl true
  def handle_info(message, state), do: {:noreply, advance(message, state)}

  defp advance({port, {:data, frame}}, %{port: port} = state), do: report(frame, state)
  defp advance({port, {:exit_status, _status}}, %{port: port} = state), do: ended(state)
  defp advance({:EXIT, port, _closed}, %{port: port} = state), do: ended(state)
  defp advance({:leash_fd, fd, :ready}, %{control: {fd, _progress}} = state), do: ended(state)

  defp advance({:leash_fd, listener, :ready}, %{listener: listener} = state) when listener != nil,
    do: connected(state)

  defp advance({:late, from}, state) do
    if from in state.waiting, do: GenServer.reply(from, {:error, :no_warden})
    %{state | waiting: List.delete(state.waiting, from)}
  end

  defp advance({:stuck?, fd}, %{control: {fd, progress}, woken: {count, slow?}} = state) do
    if slow? and :counters.get(progress, 1) == count,
      do: replace(state),
      else: %{state | woken: nil}
  end

  defp advance({:unready, port}, %{port: port, control: nil} = state) do
    with {:os_pid, os_pid} <- Port.info(port, :os_pid),
         {:ok, process} <- OSProcess.identify(os_pid),
         do: signal(process, :sigkill)

    unusable(:unready, state)
  end

  defp advance(:again, %{port: nil, control: nil} = state), do: open(state)
  defp advance(_other, state), do: state

  # PROTOCOL.md, section 9: bit 3 of the flags.
  defp report(<<1, 1, os_pid::32, _mark, _errno::16, _::4, marks::1, _::3>>, state) do
    error = if marks == 0, do: :marks_unseen
    connected(%{state | os_pid: os_pid, error: error})
  end

  defp report(frame, state) do
    case Shim.report(frame) do
      {:start_failed, stage, errno} -> %{state | error: {stage, errno}}
      _other -> state
    end
  end

  # The warden connects before it reports that it is ready. So a connection from any other process
  # is a stranger's.
  defp connected(%{os_pid: nil} = state), do: state

  defp connected(state) do
    case Native.warden_accept(state.listener, state.os_pid) do
      {:ok, fd} -> connected(fd, state)
      :again -> state
      {:error, reason} -> unusable(reason, state)
    end
  end

  # The pid belongs to the warden as long as the warden's end of the connection is open.
  defp connected(fd, state) do
    process = with {:ok, process} <- OSProcess.identify(state.os_pid), do: process
    process = if is_struct(process), do: process

    case Native.channel_read(fd) do
      :again -> serving(fd, %{state | process: process})
      _ended -> unusable(:killed, state)
    end
  end

  # A warden that stays connected here would stay, and nothing would report its end.
  defp unusable(reason, state) do
    if state.port, do: Port.close(state.port)
    failed(forget(state), reason)
  end

  # From now on the end of the connection reports its end. Any code that goes through
  # `Port.list/0` could close a port.
  defp serving(fd, state) do
    Port.close(state.port)
    _ = Native.fd_close(state.listener)
    control = {fd, :counters.new(1, [])}
    :persistent_term.put(@control, control)
    Enum.each(state.waiting, &GenServer.reply(&1, {:ok, control}))
    state = %{state | port: nil, listener: nil, control: control, waiting: [], woken: nil}
    %{state | pause: elem(@again_ms, 0)}
  end

  defp ended(%{control: nil} = state) do
    state = forget(state)
    failed(state, if(state.error == :starting, do: :killed, else: state.error))
  end

  defp ended(state) do
    Logger.warning("Leash: the run's warden, #{state.os_pid}, was killed; another one is started")

    lived = now() - state.began
    state = %{forget(state) | error: :killed}
    if lived >= @lived_ms, do: open(state), else: again(state)
  end

  # Another process stops the warden again and again, or it hangs.
  defp replace(state) do
    Logger.warning(
      "Leash: the run's warden, #{state.os_pid}, starts nothing any more; another one is started"
    )

    signal(state.process, :sigkill)
    open(%{forget(state) | error: :killed})
  end

  defp forget(state) do
    _ = :persistent_term.erase(@control)
    _ = state.listener && Native.fd_close(state.listener)

    with {fd, _progress} <- state.control, do: Native.fd_close(fd)
    %{state | port: nil, listener: nil, os_pid: nil, process: nil, control: nil, woken: nil}
  end

  # If the warden could not be identified or cannot be signalled, it is replaced all the same.
  defp signal(nil, _signal), do: :ok

  defp signal(process, signal) do
    _gone_or_refused = OSProcess.signal(process, signal)
    :ok
  end

  defp failed(state, reason) do
    if state.pause == elem(@again_ms, 0) do
      Logger.warning(
        "Leash: no warden could be started (#{inspect(reason)}); it is tried again, and " <>
          "until then nothing can be started"
      )
    end

    state = again(%{state | port: nil, error: reason})
    if state.pause > @hopeless_ms, do: refuse(state), else: state
  end

  defp refuse(state) do
    Enum.each(state.waiting, &GenServer.reply(&1, {:error, :no_warden}))
    %{state | waiting: []}
  end

  defp again(state) do
    _timer = Process.send_after(self(), :again, state.pause)
    %{state | pause: min(state.pause * 2, elem(@again_ms, 1))}
  end

  @impl true
  def terminate(_reason, _state), do: :persistent_term.erase(@control)

  defp now, do: System.monotonic_time(:millisecond)
end
