defmodule Leash.Stdio.Collector do
  # Puts a worker's output into a Collectable (`on_output: {:into, collectable}`).
  #
  # A process of its own, because stdout and stderr may go to one Collectable, and a file that it
  # opens belongs to the process that opened it. The readers of the pipes wait for each part, so a
  # slow Collectable holds the program back. The process lives until the last reader has finished,
  # also if the Worker was killed: what was in the pipe is written, and the file is closed.
  @moduledoc false

  use GenServer
  use Leash.ShortStatus, [:readers, callback: [:option, :label]]

  alias Leash.Callback

  @doc """
  Starts a collector for so many readers, which join it.

  The caller is the Worker. Once it has ended, no reader comes any more.
  """
  @spec start(Collectable.t(), atom(), String.t(), [pid()], pos_integer()) :: GenServer.on_start()
  def start(collectable, option, label, callers, readers),
    do: GenServer.start(__MODULE__, {self(), collectable, option, label, callers, readers})

  @doc "The function that opens a collectable, as the log names it."
  @spec callable(Collectable.t()) :: Callback.callable()
  def callable(collectable), do: {Collectable.impl_for!(collectable), :into, [collectable]}

  @doc "Makes the caller a reader. The collectable is done when all readers have finished."
  @spec join(pid()) :: :ok
  def join(collector), do: GenServer.cast(collector, {:join, self()})

  @doc "Collects an element. Returns when the collectable has taken it."
  @spec take(pid(), binary()) :: :ok
  def take(collector, element), do: call(collector, {:take, element})

  @doc "Ends the part of this reader. For the last one, it returns when the collectable is done."
  @spec finish(pid()) :: :ok
  def finish(collector), do: call(collector, :finish)

  # A collector that was killed takes nothing any more, and the pipe goes on.
  defp call(collector, request) do
    GenServer.call(collector, request, :infinity)
  catch
    :exit, _gone -> :ok
  end

  @impl true
  def init({worker, collectable, option, label, callers, readers}) do
    # A collectable may open a file by a process that is linked to this one.
    Process.flag(:trap_exit, true)
    :ok = Callback.put_callers(callers)
    callback = Callback.new(option, label, callable(collectable))

    {:ok,
     %{
       worker: Process.monitor(worker),
       expected: readers,
       readers: %{},
       callback: callback,
       # What was collected, and the function that collects, as `Collectable.into/1` returns them.
       into: nil
     }, {:continue, :open}}
  end

  # Not in `init/1`: a collectable that hangs must not hold up the start.
  @impl true
  def handle_continue(:open, state) do
    case Callback.run(state.callback, []) do
      {:ok, into} -> {:noreply, %{state | into: into}}
      {:error, failure} -> {:noreply, logged(state, failure)}
    end
  end

  # Not a call: the collectable may be opening something, and the reader is being started.
  @impl true
  def handle_cast({:join, pid}, state) do
    readers = Map.put(state.readers, pid, Process.monitor(pid))
    {:noreply, %{state | expected: max(0, state.expected - 1), readers: readers}}
  end

  @impl true
  def handle_call({:take, element}, _from, state), do: {:reply, :ok, take_one(state, element)}

  def handle_call(:finish, {pid, _tag}, state) do
    case left(state, pid) do
      {:stop, state} -> {:stop, :normal, :ok, state}
      {:go_on, state} -> {:reply, :ok, state}
    end
  end

  @impl true
  def handle_info({:DOWN, worker, :process, _pid, _reason}, %{worker: worker} = state),
    do: down(%{state | expected: 0}, nil)

  def handle_info({:DOWN, _reader, :process, pid, _reason}, state), do: down(state, pid)
  def handle_info(_other, state), do: {:noreply, state}

  defp down(state, pid) do
    case left(state, pid) do
      {:stop, state} -> {:stop, :normal, state}
      {:go_on, state} -> {:noreply, state}
    end
  end

  defp left(state, pid) do
    {monitor, readers} = Map.pop(state.readers, pid)
    _ = monitor && Process.demonitor(monitor, [:flush])
    state = %{state | readers: readers}

    if state.expected == 0 and readers == %{},
      do: {:stop, done(state)},
      else: {:go_on, state}
  end

  defp take_one(%{into: nil} = state, _element), do: state

  # If the collectable fails, then this element is lost, and what was collected stays.
  defp take_one(%{into: {collected, collect}} = state, element) do
    case run(state, collect, [collected, {:cont, element}]) do
      {:ok, collected} -> %{state | into: {collected, collect}}
      {:error, failure} -> logged(state, failure)
    end
  end

  defp done(%{into: nil} = state), do: rest_logged(state)

  defp done(%{into: {collected, collect}} = state) do
    state =
      case run(state, collect, [collected, :done]) do
        {:ok, _result} -> state
        {:error, failure} -> logged(state, failure)
      end

    rest_logged(%{state | into: nil})
  end

  defp run(state, collect, arguments),
    do: Callback.run(%{state.callback | function: collect}, arguments)

  defp logged(state, failure), do: %{state | callback: Callback.log(state.callback, failure)}
  defp rest_logged(state), do: %{state | callback: Callback.log_rest(state.callback)}
end
