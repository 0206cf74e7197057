defmodule Leash.Stdio.Reader do
  # Reads one of a worker's output streams and hands it on.
  #
  # A process of its own, so that a handler that blocks holds back only the program (the kernel
  # pipe fills). Neither the Worker nor the end of the tree ever waits for the handler. A handler
  # that fails costs a line in the log, and never the pipe.
  @moduledoc false

  use GenServer
  use Leash.ShortStatus, [:label, :stream, :worker]

  require Logger

  alias Leash.{Callback, Guard, Native}

  alias Leash.Stdio.{
    Collector,
    FileOptions,
    FlowControl,
    Lines,
    LogLines,
    OutputFile,
    ReadyLine,
    Tail
  }

  alias Leash.Worker.Protocol

  @read_bytes 65_536

  # Between bursts of this many reads, the process handles its mailbox.
  @reads_in_a_row 16

  # After the end of the tree the pipe still holds what was written last, and then ends. If a
  # process outside the tree holds the other end, the pipe never ends. Then this long without a
  # byte counts as its end.
  @quiet_ms 100

  # The time between two looks at a terminal that no process has open.
  @reopen_ms 50

  @drain_ms 5_000

  @type stream :: :stdout | :stderr

  @typedoc """
  The options of a reader.

    * `handler` - the handler, as `option` has it
    * `label` - the name of the worker in the log
    * `name`, `group` - those of the worker, for the metadata of the log
    * `callers` - the callers of a function as handler
    * `ready` - the regex for lines of stdout
    * `window` - the most messages in the handler's mailbox
    * `lines` - the option `lines:`
    * `limited?` - whether the window counts from the start
    * `traffic` - the counter of bytes for a guard
    * `terminal?` - whether it is a terminal, which a process of the tree may open anew
  """
  @type options :: %{
          handler:
            :log
            | {:log, map()}
            | {:file, FileOptions.t()}
            | pid()
            | {:collector, pid()}
            | (stream(), binary() -> term()),
          option: :on_output | :on_stderr | stream(),
          label: String.t(),
          name: GenServer.name() | nil,
          group: Leash.Group.t() | nil,
          callers: [pid()],
          ready: Regex.t() | nil,
          window: pos_integer(),
          lines: boolean() | keyword(),
          limited?: boolean(),
          traffic: :counters.counters_ref() | nil,
          terminal?: boolean()
        }

  @doc """
  Starts a reader linked to the calling Worker and makes it the owner of `fd`.

  It reads from `begin/2` on, or from the end of the tree or of the Worker.

  Sends the Worker `{:output_ready, pid}` when a line matches `ready`. Ends `:normal` at the end
  of the stream.
  """
  @spec start_link(Native.fd(), stream(), options()) :: GenServer.on_start()
  def start_link(fd, stream, options) do
    with {:ok, pid} <- GenServer.start(__MODULE__, {self(), fd, stream, options}) do
      :ok = Native.fd_give(fd, pid)
      {:ok, pid}
    end
  end

  @doc "Begins to read. The lines of the log have the program's pid."
  @spec begin(pid(), pos_integer() | nil) :: :ok
  def begin(output, os_pid), do: GenServer.cast(output, {:begin, os_pid})

  @doc "Opens the file of the output anew."
  @spec reopen(pid()) :: :ok | {:error, :file.posix()}
  def reopen(output) do
    GenServer.call(output, :reopen, :infinity)
  catch
    # At its end there is nothing to open.
    :exit, _ended -> :ok
  end

  @doc "Makes the window count: the worker is ready, so its start needs no more output."
  @spec limit(pid()) :: :ok
  def limit(output), do: GenServer.cast(output, :limit)

  @doc "Reads the rest of an ended tree's output, without waiting for the handler."
  @spec finish(pid()) :: :ok
  def finish(output), do: GenServer.cast(output, :finish)

  @impl true
  def init({worker, fd, stream, options}) do
    # Traps exits, so that what is still in the pipe is not lost with a killed Worker.
    Process.flag(:trap_exit, true)
    :ok = Callback.put_callers(options.callers)
    # The Worker is not the parent: the end of a parent would be a crash of this process, too.
    Process.link(worker)

    window = FlowControl.new(options.handler, options.window)

    {:ok,
     %{
       worker: worker,
       fd: fd,
       stream: stream,
       handler: handler(options),
       lines: lines(options),
       # Lines that were read and wait for the handler.
       waiting: [],
       window: if(options.limited?, do: FlowControl.limit(window), else: window),
       # Fires when a full mailbox must be looked at again.
       pause: nil,
       label: options.label,
       log: log_options(options, stream),
       tail: if(stream == :stderr, do: ""),
       traffic: options.traffic,
       reopens?: options.terminal?,
       # Fires when a state of a progress bar must be logged.
       progress: nil,
       ready: if(stream == :stdout and options.ready != nil, do: ReadyLine.new(options.ready))
     }}
  end

  defp handler(%{handler: :log, label: label}), do: LogLines.new(byte_size(label))
  defp handler(%{handler: {:log, _}} = options), do: LogLines.new(byte_size(prefix(options)))
  defp handler(%{handler: pid}) when is_pid(pid), do: pid

  defp handler(%{handler: {:file, file}, option: stream, label: label}),
    do: OutputFile.open(file, "#{stream} of #{label}")

  defp handler(%{handler: {:collector, pid} = collector}) do
    :ok = Collector.join(pid)
    collector
  end

  defp handler(%{handler: function, option: option, label: label}),
    do: Callback.new(option, label, function)

  # The level, the text before each line, and the metadata.
  defp log_options(options, stream) do
    given = with {:log, given} <- options.handler, do: given, else: (_other -> %{})
    own = [leash_name: options.name, leash_group: options.group, os_pid: nil, stream: stream]

    %{
      level: level(stream, options.option, given),
      prefix: prefix(options),
      metadata: Keyword.merge(given[:metadata] || [], own)
    }
  end

  defp level(:stdout, _option, given), do: given[:level] || :info
  defp level(:stderr, :on_stderr, given), do: given[:stderr] || given[:level] || :warning
  defp level(:stderr, _option, given), do: given[:stderr] || :warning

  defp prefix(%{handler: {:log, %{prefix: prefix}}}) when prefix != nil, do: prefix
  defp prefix(%{label: label}), do: label <> ": "

  # The log has a cutter of its own, and a file has the bytes.
  defp lines(%{handler: :log}), do: nil
  defp lines(%{handler: {log_or_file, _options}}) when log_or_file in [:log, :file], do: nil
  defp lines(%{lines: false}), do: nil
  defp lines(%{lines: option}), do: Lines.new(option)

  @impl true
  def handle_cast({:begin, os_pid}, state) do
    metadata = Keyword.put(state.log.metadata, :os_pid, os_pid)
    read(put_in(state.log.metadata, metadata), @reads_in_a_row)
  end

  def handle_cast(:read, state), do: read(state, @reads_in_a_row)

  def handle_cast(:limit, state),
    do: {:noreply, %{state | window: FlowControl.limit(state.window)}}

  def handle_cast(:finish, state) do
    state = %{state | window: FlowControl.finish(state.window), reopens?: false}
    read(state, @reads_in_a_row)
  end

  @impl true
  def handle_call(:reopen, _from, state) do
    {result, file} = OutputFile.reopen(state.handler)
    {:reply, result, %{state | handler: file}}
  end

  @impl true
  def handle_info({:leash_fd, _fd, :ready}, state), do: read(state, @reads_in_a_row)
  def handle_info(:look_again, state), do: read(%{state | pause: nil}, @reads_in_a_row)

  def handle_info(:progress, state),
    do: {:noreply, log(%{state | progress: nil}, &LogLines.due(&1, now()))}

  def handle_info({:EXIT, pid, _reason}, %{worker: pid} = state), do: {:stop, :normal, state}
  def handle_info(_other, state), do: {:noreply, state}

  # The Worker is gone, for any reason. What it left in the pipe still belongs to the handler.
  @impl true
  def terminate(_reason, state) do
    drain(state, now() + @drain_ms)
  end

  defp read(state, 0) do
    GenServer.cast(self(), :read)
    {:noreply, state}
  end

  defp read(state, left) do
    case FlowControl.check(state.window) do
      {:open, window} -> read_open(%{state | window: window}, left)
      {:full, ms, window} -> {:noreply, pause(%{state | window: window}, ms)}
    end
  end

  defp read_open(%{waiting: [_ | _]} = state, left), do: state |> next_line() |> read(left - 1)

  defp read_open(state, left) do
    case Native.fd_read(state.fd, @read_bytes) do
      {:ok, data} -> state |> deliver(data) |> read(left - 1)
      :again -> {:noreply, state}
      # The program may have closed its streams, and open its controlling terminal later.
      :eof when state.reopens? -> {:noreply, look_again(state, @reopen_ms)}
      _eof_or_error -> {:stop, :normal, ended(state)}
    end
  end

  defp pause(%{pause: nil} = state, ms) do
    # A program that is held back is not idle.
    Guard.saw_output(state.traffic, 1)
    look_again(state, ms)
  end

  defp pause(state, _ms), do: state

  defp look_again(state, ms),
    do: %{state | pause: state.pause || Process.send_after(self(), :look_again, ms)}

  defp drain(%{fd: nil}, _deadline), do: :ok

  # The tree may still be alive (the Worker was killed), so the window still counts. After the
  # deadline the handler gets what the pipe holds, because no other process will read it.
  defp drain(state, deadline) do
    if now() >= deadline do
      rest(state, @reads_in_a_row)
    else
      case FlowControl.check(state.window) do
        {:open, window} ->
          drain_open(%{state | window: window}, deadline)

        {:full, ms, window} ->
          Process.sleep(ms)
          drain(%{state | window: window}, deadline)
      end
    end
  end

  defp drain_open(%{waiting: [_ | _]} = state, deadline),
    do: state |> next_line() |> drain(deadline)

  defp drain_open(state, deadline) do
    case Native.fd_read(state.fd, @read_bytes) do
      {:ok, data} ->
        state |> deliver(data) |> drain(deadline)

      :again ->
        receive do
          {:leash_fd, _fd, :ready} -> drain(state, deadline)
        after
          @quiet_ms -> ended(state)
        end

      _eof_or_error ->
        ended(state)
    end
  end

  defp rest(state, 0), do: ended(state)

  defp rest(state, left) do
    case Native.fd_read(state.fd, @read_bytes) do
      {:ok, data} -> state |> deliver(data) |> rest(left - 1)
      _nothing_more -> ended(state)
    end
  end

  defp ended(state) do
    _ = Native.fd_close(state.fd)
    last = if state.lines, do: Lines.finish(state.lines), else: []
    # Before the exit of this process, which the Worker waits for.
    if state.tail not in [nil, ""], do: Protocol.stderr(state.worker, Tail.lines(state.tail))
    over(Enum.reduce(state.waiting ++ last, %{state | fd: nil, waiting: []}, &handle(&2, &1)))
  end

  defp over(%{handler: %LogLines{}} = state), do: log(state, &LogLines.finish(&1, now()))

  defp over(%{handler: {:collector, pid}} = state) do
    :ok = Collector.finish(pid)
    state
  end

  defp over(%{handler: %OutputFile{} = file} = state),
    do: %{state | handler: OutputFile.close(file)}

  defp over(%{handler: %Callback{} = callback} = state),
    do: %{state | handler: Callback.log_rest(callback)}

  defp over(state), do: state

  defp deliver(state, data) do
    Guard.saw_output(state.traffic, byte_size(data))
    state |> remember(data) |> look_for_ready(data) |> cut(data)
  end

  defp cut(%{lines: nil} = state, data), do: handle(state, data)

  defp cut(state, data) do
    {ended, lines} = Lines.push(state.lines, data)
    %{state | lines: lines, waiting: state.waiting ++ ended}
  end

  defp next_line(%{waiting: [line | waiting]} = state),
    do: handle(%{state | waiting: waiting}, line)

  defp remember(%{tail: nil} = state, _data), do: state
  defp remember(state, data), do: %{state | tail: Tail.push(state.tail, data)}

  defp look_for_ready(%{ready: nil} = state, _data), do: state

  defp look_for_ready(state, data) do
    case ReadyLine.push(state.ready, data) do
      :match ->
        Protocol.ready(state.worker)
        %{state | ready: nil}

      ready ->
        %{state | ready: ready}
    end
  end

  defp handle(%{handler: pid} = state, data) when is_pid(pid) do
    send(pid, {:leash_output, state.worker, state.stream, data})
    %{state | window: FlowControl.sent(state.window)}
  end

  defp handle(%{handler: {:collector, pid}} = state, data) do
    :ok = Collector.take(pid, data)
    state
  end

  defp handle(%{handler: %OutputFile{} = file} = state, data),
    do: %{state | handler: OutputFile.write(file, data)}

  defp handle(%{handler: %LogLines{}} = state, data),
    do: log(state, &LogLines.push(&1, data, now()))

  defp handle(%{handler: %Callback{} = callback} = state, data) do
    case Callback.run(callback, [state.stream, data]) do
      {:ok, _anything} -> state
      {:error, failure} -> %{state | handler: Callback.log(callback, failure)}
    end
  end

  defp log(state, step) do
    {texts, lines} = step.(state.handler)
    %{level: level, prefix: prefix, metadata: metadata} = state.log
    Enum.each(texts, &Logger.log(level, fn -> [prefix | &1] end, metadata))
    arm_progress(%{state | handler: lines})
  end

  defp arm_progress(%{progress: nil, handler: lines} = state) do
    case LogLines.due_in(lines, now()) do
      nil -> state
      ms -> %{state | progress: Process.send_after(self(), :progress, ms)}
    end
  end

  defp arm_progress(state), do: state

  defp now, do: System.monotonic_time(:millisecond)
end
