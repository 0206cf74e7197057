defmodule Leash.Degraded.Worker do
  # The process of a `Leash.Worker` on a plain port. It answers the same calls.
  @moduledoc false

  use GenServer

  require Logger

  alias Leash.{Callback, Error, Exit}
  alias Leash.Degraded.{Keeper, Program}
  alias Leash.Probe.{Readiness, WaitFor}
  alias Leash.Stdio.{Collector, Lines, LogLines, ReadyLine}

  @doc "Starts a worker linked to the caller, with the options of `Leash.Worker.Options`."
  @spec start_link(map()) :: GenServer.on_start()
  def start_link(options) do
    name = if options.name == nil, do: [], else: [name: options.name]
    GenServer.start_link(__MODULE__, options, name)
  end

  @impl true
  def init(options) do
    Process.flag(:trap_exit, true)

    with :ok <- waited(options),
         {:ok, program} <- Program.start(:worker, options) do
      state = new(options, program)
      await_ready(state, now() + min(options.ready_timeout, 0xFFFFFFF))
    else
      {:error, reason} -> {:stop, reason}
    end
  end

  defp waited(%{wait_for: [_ | _] = targets} = options) do
    parent = with [pid | _] when is_pid(pid) <- Process.get(:"$ancestors"), do: pid
    WaitFor.run(targets, options.wait_timeout, Program.label(options), parent)
  end

  defp waited(_options), do: :ok

  defp new(options, program) do
    label = Program.label(options)
    ready = if is_struct(options.ready, Regex), do: ReadyLine.new(options.ready)

    %{
      options: %{options | env: []},
      label: label,
      program: program,
      handler: handler(options.on_output, label),
      # The log has a cutter of its own.
      lines: if(cut?(options), do: Lines.new(options.lines)),
      log: log(options.on_output, label),
      ready: ready,
      started_at: DateTime.utc_now(),
      exited: nil,
      # When and how the end began, and for which callers.
      began: nil,
      cause: nil,
      stoppers: [],
      reason: nil
    }
  end

  defp log({:log, given}, label),
    do: %{
      level: given.level || :info,
      prefix: given.prefix || label <> ": ",
      metadata: given.metadata
    }

  defp log(_other, label), do: %{level: :info, prefix: label <> ": ", metadata: []}

  defp cut?(%{on_output: :log}), do: false
  defp cut?(%{on_output: {:log, _options}}), do: false
  defp cut?(options), do: options.lines != false

  defp handler(:log, label), do: LogLines.new(byte_size(label))
  defp handler({:log, _} = log, label), do: LogLines.new(byte_size(log(log, label).prefix))

  # It is done when this process has ended, at the latest.
  defp handler({:into, collectable}, label) do
    {:ok, pid} = Collector.start(collectable, :on_output, label, Callback.callers(), 1)
    :ok = Collector.join(pid)
    {:collector, pid}
  end

  defp handler(pid, _label) when is_pid(pid), do: pid
  defp handler(function, label), do: Callback.new(:on_output, label, function)

  defp await_ready(%{options: %{ready: nil}} = state, _deadline), do: {:ok, state}

  defp await_ready(state, deadline) do
    Readiness.start(state.options.ready, state.label, fn -> info(state) end)
    await_word(state, deadline)
  end

  defp await_word(state, deadline) do
    %{port: port, keeper: keeper, os_pid: os_pid} = state.program

    receive do
      {:output_ready, _pid} ->
        {:ok, %{state | ready: nil}}

      {^port, {:data, data}} ->
        state |> output(data) |> await_word(deadline)

      {^port, {:exit_status, status}} ->
        gone(keeper)
        {:stop, {:exited, %Exit{status: status, cause: :exited, os_pid: os_pid}}}

      {:EXIT, pid, reason} when pid != port and reason != :normal ->
        gone(keeper)
        {:stop, reason}
    after
      max(0, deadline - now()) ->
        gone(keeper)
        {:stop, :ready_timeout}
    end
  end

  # A failed start leaves nothing behind.
  defp gone(keeper) do
    :ok = Keeper.finish(keeper, :ladder)

    receive do
      {:leash_kept, ^keeper, _outcome} -> :ok
    end
  end

  @impl true
  def handle_call(:info, _from, state), do: {:reply, info(state), state}
  def handle_call({:stop, how}, from, state), do: {:noreply, stop(state, from, how)}

  def handle_call(:await, from, state),
    do: {:noreply, %{state | stoppers: [from | state.stoppers]}}

  # There is no shim to send a signal, and no room for a second program.
  def handle_call({:signal, _number, _to}, _from, state),
    do: {:reply, {:error, :unsupported_os}, state}

  def handle_call(:restart, _from, state), do: {:reply, {:error, :unsupported_os}, state}

  def handle_call({:write, data, _timeout}, _from, %{options: %{stdin: :pipe}} = state) do
    sent? = state.exited == nil and Port.command(state.program.port, data)
    {:reply, if(sent?, do: :ok, else: {:error, :epipe}), state}
  rescue
    ArgumentError -> {:reply, {:error, :epipe}, state}
  end

  # A port closes stdin only together with stdout.
  def handle_call(:close_stdin, _from, %{options: %{stdin: :pipe}} = state),
    do: {:reply, {:error, :unsupported_os}, state}

  def handle_call({:resize, _rows, _cols}, _from, state), do: {:reply, {:error, :no_pty}, state}
  def handle_call(:reopen, _from, state), do: {:reply, {:error, :unsupported_os}, state}
  def handle_call(_write_or_close, _from, state), do: {:reply, {:error, :not_piped}, state}

  defp stop(state, from, how) do
    Keeper.finish(state.program.keeper, how)
    state = if from, do: %{state | stoppers: [from | state.stoppers]}, else: state
    cause = if how == :kill, do: :kill, else: :stop
    %{state | began: state.began || now(), cause: state.cause || cause}
  end

  @impl true
  def handle_info({port, {:data, data}}, %{program: %{port: port}} = state),
    do: {:noreply, output(state, data)}

  def handle_info({port, {:exit_status, status}}, %{program: %{port: port}} = state) do
    _ = state.began || Process.send_after(self(), :linger, state.options.linger)

    {:noreply, %{state | exited: status}}
  end

  def handle_info(:linger, state) do
    Keeper.finish(state.program.keeper, :ladder)
    {:noreply, %{state | began: state.began || now(), cause: state.cause || :exited}}
  end

  # The port's last words may still be on their way.
  def handle_info({:leash_kept, keeper, outcome}, %{program: %{keeper: keeper}} = state) do
    state = state |> last_words() |> end_output()
    result = result(state, outcome)
    Enum.each(state.stoppers, &GenServer.reply(&1, result))
    {:stop, reason(state, result), %{state | reason: :over}}
  end

  def handle_info({:DOWN, monitor, _, _, _}, %{program: %{monitor: monitor}} = state),
    do: {:stop, {:shutdown, :leash_stopped}, %{state | reason: :over}}

  def handle_info({:EXIT, _pid, :normal}, state), do: {:noreply, state}
  def handle_info({:EXIT, _pid, reason}, state), do: {:stop, reason, state}
  def handle_info(_other, state), do: {:noreply, state}

  @last_words_ms 200

  defp last_words(%{exited: nil, program: %{port: port}} = state) do
    receive do
      {^port, {:data, data}} -> state |> output(data) |> last_words()
      {^port, {:exit_status, status}} -> %{state | exited: status}
    after
      @last_words_ms -> state
    end
  end

  defp last_words(state), do: state

  defp result(_state, :left), do: {:error, %Error{reason: :survivors}}

  defp result(state, :gone) do
    {:ok,
     %Exit{
       status: state.exited,
       signal: if(state.exited == nil, do: :sigkill),
       cause: state.cause || :stop,
       os_pid: state.program.os_pid,
       duration: if(state.began, do: now() - state.began, else: 0)
     }}
  end

  defp reason(%{cause: :exited, options: %{exit_reason: nil}}, {:ok, exit}),
    do: Exit.reason(exit)

  defp reason(%{cause: :exited, options: %{exit_reason: function}} = state, {:ok, exit}) do
    case Callback.run(Callback.new(:exit_reason, state.label, function), [exit]) do
      {:ok, reason} -> reason
      {:error, _failure} -> Exit.reason(exit)
    end
  end

  defp reason(_stopped, {:ok, _exit}), do: :normal
  defp reason(_state, {:error, %{survivors: survivors}}), do: {:survivors, survivors}

  # The supervisor of this process waits until the tree is gone.
  @impl true
  def terminate(_reason, %{reason: :over}), do: :ok

  def terminate(reason, state) do
    %{keeper: keeper, monitor: monitor} = state.program
    Keeper.finish(keeper, how(reason, state.options))

    receive do
      {:DOWN, ^monitor, :process, _pid, _reason} -> :ok
    end
  end

  defp how(reason, _options) when reason in [:normal, :shutdown], do: :ladder
  defp how({:shutdown, _why}, _options), do: :ladder
  defp how(_crash, options), do: options.on_crash

  ## Output

  defp output(state, data), do: state |> look_for_ready(data) |> cut(data)

  defp cut(%{lines: nil} = state, data), do: deliver(state, data)

  defp cut(state, data) do
    {ended, lines} = Lines.push(state.lines, data)
    Enum.reduce(ended, %{state | lines: lines}, &deliver(&2, &1))
  end

  defp end_output(state) do
    last = if state.lines, do: Lines.finish(state.lines), else: []
    state = Enum.reduce(last, state, &deliver(&2, &1))

    case state.handler do
      {:collector, pid} -> Collector.finish(pid)
      %LogLines{} = lines -> lines |> LogLines.finish(now()) |> elem(0) |> log_texts(state)
      _pid_or_function -> :ok
    end

    state
  end

  defp look_for_ready(%{ready: nil} = state, _data), do: state

  defp look_for_ready(state, data) do
    case ReadyLine.push(state.ready, data) do
      :match ->
        send(self(), {:output_ready, self()})
        %{state | ready: nil}

      ready ->
        %{state | ready: ready}
    end
  end

  defp deliver(%{handler: pid} = state, data) when is_pid(pid) do
    send(pid, {:leash_output, self(), :stdout, data})
    state
  end

  defp deliver(%{handler: %LogLines{} = lines} = state, data) do
    {texts, lines} = LogLines.push(lines, data, now())
    :ok = log_texts(texts, state)
    %{state | handler: lines}
  end

  defp deliver(%{handler: {:collector, pid}} = state, data) do
    :ok = Collector.take(pid, data)
    state
  end

  defp deliver(%{handler: callback} = state, data) do
    case Callback.run(callback, [:stdout, data]) do
      {:ok, _anything} -> state
      {:error, failure} -> %{state | handler: Callback.log(callback, failure)}
    end
  end

  defp log_texts(texts, %{log: %{level: level, prefix: prefix, metadata: metadata}}),
    do: Enum.each(texts, &Logger.log(level, [prefix | &1], metadata))

  defp info(state) do
    %{
      run_id: nil,
      worker: Keeper.row(state.program.keeper)[:number],
      group: state.options.group,
      os_pid: state.program.os_pid,
      shim_pid: nil,
      command: state.options.command,
      args: state.options.args,
      restart: nil,
      state: if(state.began == nil and state.exited == nil, do: :running, else: :ending),
      started_at: state.started_at,
      mark: :off,
      adopted?: false,
      cgroup: nil
    }
  end

  defp now, do: System.monotonic_time(:millisecond)
end
