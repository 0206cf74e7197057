defmodule Leash.Worker.Output do
  # Reads one of a worker's output streams and hands it on.
  #
  # A process of its own, so that a handler that blocks holds back the program (the kernel pipe
  # fills) and nothing else: neither the Worker nor the end of the tree ever waits for it.
  @moduledoc false

  use GenServer

  require Logger

  alias Leash.{Guard, Native}
  alias Leash.Worker.OutputWindow

  @read_bytes 65_536

  # Between bursts of this many reads the mailbox gets its turn.
  @reads_in_a_row 16

  # After the tree is gone the pipe still holds what was written last, and then ends. Where somebody
  # outside the tree holds the other end, it never ends: this long without a byte is taken for it.
  @quiet_ms 100
  @drain_ms 5_000

  # A line that does not end is handed on in pieces of this size.
  @longest_line 65_536

  @type stream :: :stdout | :stderr

  @typedoc """
  `handler`: as `:on_output` has it; `label`: the worker in the log; `ready`: what is looked for in lines of stdout;
  `window`: the most messages in the handler's mailbox; `limited?`: whether that counts from the start; `traffic`: what counts bytes for a guard.
  """
  @type options :: %{
          handler: :log | pid() | (stream(), binary() -> term()),
          label: String.t(),
          ready: Regex.t() | nil,
          window: pos_integer(),
          limited?: boolean(),
          traffic: :counters.counters_ref() | nil
        }

  @doc """
  Starts a reader linked to the calling Worker and makes it the owner of `fd`.

  Sends the Worker `{:output_ready, pid}` when a line matches `ready`, and ends `:normal` at the
  end of the stream.
  """
  @spec start_link(Native.fd(), stream(), options()) :: GenServer.on_start()
  def start_link(fd, stream, options) do
    with {:ok, pid} <- GenServer.start_link(__MODULE__, {self(), fd, stream, options}) do
      :ok = Native.fd_give(fd, pid)
      GenServer.cast(pid, :read)
      {:ok, pid}
    end
  end

  @doc "From now on the window counts: the worker is ready, so nobody waits for its output any more to get on."
  @spec limit(pid()) :: :ok
  def limit(output), do: GenServer.cast(output, :limit)

  @doc "The tree is gone: what the pipe still holds is read without waiting for the handler."
  @spec finish(pid()) :: :ok
  def finish(output), do: GenServer.cast(output, :finish)

  @impl true
  def init({worker, fd, stream, options}) do
    # Traps exits so that a Worker that is killed does not take along what is still in the pipe.
    Process.flag(:trap_exit, true)

    window = OutputWindow.new(options.handler, options.window)

    {:ok,
     %{
       worker: worker,
       fd: fd,
       stream: stream,
       handler: options.handler,
       window: if(options.limited?, do: OutputWindow.limit(window), else: window),
       # fires when a full mailbox is to be looked at again
       pause: nil,
       label: options.label,
       traffic: options.traffic,
       ready: if(stream == :stdout, do: options.ready),
       line: "",
       ready_line: ""
     }}
  end

  @impl true
  def handle_cast(:read, state), do: read(state, @reads_in_a_row)

  def handle_cast(:limit, state),
    do: {:noreply, %{state | window: OutputWindow.limit(state.window)}}

  def handle_cast(:finish, state),
    do: read(%{state | window: OutputWindow.finish(state.window)}, @reads_in_a_row)

  @impl true
  def handle_info({:leash_fd, _fd, :ready}, state), do: read(state, @reads_in_a_row)
  def handle_info(:look_again, state), do: read(%{state | pause: nil}, @reads_in_a_row)
  def handle_info(_other, state), do: {:noreply, state}

  # The Worker is gone, by whatever reason: what it left in the pipe still belongs to the handler.
  @impl true
  def terminate(_reason, state) do
    drain(state, System.monotonic_time(:millisecond) + @drain_ms)
  end

  defp read(state, 0) do
    GenServer.cast(self(), :read)
    {:noreply, state}
  end

  defp read(state, left) do
    case OutputWindow.check(state.window) do
      {:open, window} -> read_open(%{state | window: window}, left)
      {:full, ms, window} -> {:noreply, pause(%{state | window: window}, ms)}
    end
  end

  defp read_open(state, left) do
    case Native.fd_read(state.fd, @read_bytes) do
      {:ok, data} -> state |> deliver(data) |> read(left - 1)
      :again -> {:noreply, state}
      _eof_or_error -> {:stop, :normal, ended(state)}
    end
  end

  defp pause(%{pause: nil} = state, ms) do
    # Held back is not idle.
    Guard.saw_output(state.traffic, 1)
    %{state | pause: Process.send_after(self(), :look_again, ms)}
  end

  defp pause(state, _ms), do: state

  defp drain(%{fd: nil}, _deadline), do: :ok

  # The tree may be alive still (the Worker was killed), so the window goes on to count. Past the
  # deadline the handler gets what the pipe holds: nobody else will ever read it.
  defp drain(state, deadline) do
    if System.monotonic_time(:millisecond) >= deadline do
      rest(state, @reads_in_a_row)
    else
      case OutputWindow.check(state.window) do
        {:open, window} ->
          drain_open(%{state | window: window}, deadline)

        {:full, ms, window} ->
          Process.sleep(ms)
          drain(%{state | window: window}, deadline)
      end
    end
  end

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
    state = if state.line == "", do: state, else: log_line(state, state.line)
    _ = Native.fd_close(state.fd)
    %{state | fd: nil, line: ""}
  end

  defp deliver(state, data) do
    Guard.saw_output(state.traffic, byte_size(data))
    state |> look_for_ready(data) |> handle(data)
  end

  defp look_for_ready(%{ready: nil} = state, _data), do: state

  defp look_for_ready(state, data) do
    {lines, rest} = lines(state.ready_line <> data)

    # The last piece may be a prompt without a newline, which is as good a sign as a line.
    if Enum.any?([rest | lines], &Regex.match?(state.ready, &1)) do
      send(state.worker, {:output_ready, self()})
      %{state | ready: nil, ready_line: ""}
    else
      %{state | ready_line: rest}
    end
  end

  defp handle(%{handler: pid} = state, data) when is_pid(pid) do
    send(pid, {:leash_output, state.worker, state.stream, data})
    %{state | window: OutputWindow.sent(state.window)}
  end

  defp handle(%{handler: :log} = state, data) do
    {lines, rest} = lines(state.line <> data)
    Enum.each(lines, &log_line(state, &1))
    %{state | line: rest}
  end

  defp handle(%{handler: fun} = state, data) when is_function(fun, 2) do
    fun.(state.stream, data)
    state
  rescue
    error ->
      # The handler is somebody else's code: its mistake must not cost the worker its output pipe.
      Logger.error([
        "on_output of ",
        state.label,
        " raised: ",
        Exception.format(:error, error, __STACKTRACE__)
      ])

      state
  end

  defp lines(data) do
    {lines, [rest]} = data |> :binary.split("\n", [:global]) |> Enum.split(-1)

    if byte_size(rest) > @longest_line,
      do: {lines ++ [rest], ""},
      else: {lines, rest}
  end

  defp log_line(state, line) do
    level = if state.stream == :stderr, do: :warning, else: :info
    Logger.log(level, fn -> [state.label, ": ", printable(line)] end)
    state
  end

  # A Logger backend raises on bytes that are no UTF-8.
  defp printable(line), do: if(String.valid?(line), do: line, else: inspect(line))
end
