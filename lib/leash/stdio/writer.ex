defmodule Leash.Stdio.Writer do
  # Writes to a worker's stdin, in the order of the calls.
  #
  # It is a process of its own. So a program that does not read blocks only the processes that
  # write to it. It blocks neither the Worker nor the end of the tree.
  @moduledoc false

  use GenServer
  use Leash.ShortStatus, [:worker, :waiting?]

  alias Leash.Native
  alias Leash.Stdio.Terminal

  @doc """
  Starts a writer that ends with the calling Worker, and makes it the owner of `fd`.

  `terminal?` says whether that is a terminal, into which the data are typed.
  """
  @spec start_link(Native.fd(), boolean()) :: GenServer.on_start()
  def start_link(fd, terminal?) do
    with {:ok, pid} <- GenServer.start_link(__MODULE__, {self(), fd, terminal?}) do
      :ok = Native.fd_give(fd, pid)
      {:ok, pid}
    end
  end

  @doc """
  Queues a write. `from` gets the answer when the kernel has taken all of it.

  The answer is `:ok`, `{:error, :epipe}`, `{:error, :closed}` or, after `timeout` milliseconds,
  `{:error, :timeout}`. In the last case, a part may be written.
  """
  @spec write(pid(), binary(), timeout(), GenServer.from()) :: :ok
  def write(input, data, timeout, from), do: GenServer.cast(input, {:write, data, timeout, from})

  @doc """
  Closes stdin after what is queued, so that the program sees the end of its input.

  If it is a terminal, then the end is typed, and more can be typed later.

  If `from` is `nil`, there is no answer.
  """
  @spec close(pid(), GenServer.from() | nil) :: :ok
  def close(input, from), do: GenServer.cast(input, {:close, from})

  @doc "Ends the writer of a tree that is gone, whose Worker goes on. Queued writes get `:epipe`."
  @spec finish(pid()) :: :ok
  def finish(input), do: GenServer.cast(input, :finish)

  @impl true
  def init({worker, fd, terminal?}) do
    # A link ends this process only if its partner ended abnormally. The monitor also sees a
    # Worker that ends :normal.
    Process.monitor(worker)
    state = %{worker: worker, fd: fd, queue: :queue.new(), waiting?: false}
    {:ok, Map.merge(state, %{terminal?: terminal?, last: nil})}
  end

  @impl true
  def handle_cast({:write, data, timeout, from}, state) do
    timer = if timeout != :infinity, do: Process.send_after(self(), {:timeout, from}, timeout)
    enqueue({:write, data, from, timer}, state)
  end

  def handle_cast({:close, from}, state), do: enqueue({:close, from}, state)

  def handle_cast(:finish, state) do
    _ = state.fd && Native.fd_close(state.fd)

    for job <- :queue.to_list(state.queue) do
      case job do
        {:write, _rest, from, _timer} -> from && GenServer.reply(from, {:error, :epipe})
        {:close, from} -> from && GenServer.reply(from, :ok)
      end
    end

    {:stop, :normal, %{state | fd: nil}}
  end

  @impl true
  def handle_info({:leash_fd, _fd, :writable}, state),
    do: {:noreply, work(%{state | waiting?: false})}

  def handle_info({:timeout, from}, state) do
    # After a caller gave up, the rest of its data must not be written before the next call's
    # data.
    queue =
      :queue.filter(
        fn
          {:write, _rest, ^from, _timer} ->
            GenServer.reply(from, {:error, :timeout})
            false

          _other ->
            true
        end,
        state.queue
      )

    {:noreply, work(%{state | queue: queue})}
  end

  def handle_info({:DOWN, _monitor, :process, worker, _reason}, %{worker: worker} = state),
    do: {:stop, :normal, state}

  def handle_info(_other, state), do: {:noreply, state}

  defp enqueue(job, state), do: {:noreply, work(%{state | queue: :queue.in(job, state.queue)})}

  defp work(%{waiting?: true} = state), do: state

  defp work(state) do
    case :queue.out(state.queue) do
      {:empty, _queue} -> state
      {{:value, job}, queue} -> job(job, %{state | queue: queue})
    end
  end

  defp job({:close, from}, %{terminal?: true} = state),
    do: job({:write, Terminal.eof(state.fd, state.last), from, nil}, state)

  defp job({:close, from}, state) do
    _ = state.fd && Native.fd_close(state.fd)
    if from, do: GenServer.reply(from, :ok)
    work(%{state | fd: nil})
  end

  defp job({:write, _data, _from, _timer} = write, %{fd: nil} = state),
    do: done(write, {:error, :closed}, state)

  defp job({:write, data, from, timer} = write, state) do
    case Native.fd_write(state.fd, data) do
      {:ok, written} when written == byte_size(data) ->
        done(write, :ok, typed(state, data, written))

      {:ok, written} ->
        job({:write, rest(data, written), from, timer}, typed(state, data, written))

      {:again, written} ->
        wait({:write, rest(data, written), from, timer}, typed(state, data, written))

      {:error, reason} ->
        done(write, {:error, reason}, state)
    end
  end

  defp typed(%{terminal?: false} = state, _data, _written), do: state

  defp typed(state, data, written),
    do: %{state | last: Terminal.last(state.last, binary_part(data, 0, written))}

  defp rest(data, written), do: binary_part(data, written, byte_size(data) - written)

  defp wait(write, state),
    do: %{state | queue: :queue.in_r(write, state.queue), waiting?: true}

  defp done({:write, _data, from, timer}, answer, state) do
    _ = timer && Process.cancel_timer(timer)
    if from, do: GenServer.reply(from, answer)
    work(state)
  end
end
