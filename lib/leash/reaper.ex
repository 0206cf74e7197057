defmodule Leash.Reaper do
  # Hands out worker numbers, and ends every tree whose Worker process is gone.
  #
  # A living Worker ends its own tree. If the Worker dies, its leash closes and the shim begins
  # the ladder by itself. The Reaper then decides how hard the tree is ended: a crash means
  # SIGKILL at once. It wakes a stopped shim, and ends what a dead shim left. It frees the number
  # only when nothing is left.
  #
  #   register ──▶ alive ──Worker :DOWN──▶ ending ──shim's pidfd──▶ verifying ──none left──▶ free
  #                                          │ past its time: QUIT, then KILL of the shim ▲
  #                                          └────────────────────────────────────────────┘
  @moduledoc false

  use GenServer
  use Leash.ShortStatus, [:ending, :hunting, :to_verify, :left]

  alias Leash.{Group, Registry}
  alias Leash.Reaper.{Orphans, Registrations, Shutdown, State, Verification}

  # The longest wait of a caller for an answer.
  @answer_ms 500

  @spec start_link(keyword()) :: GenServer.on_start()
  def start_link(options), do: GenServer.start_link(__MODULE__, options, name: __MODULE__)

  @doc """
  Registers the calling process and gives it a number whose last tree is proven gone.

  A caller with claims waits until other trees release them. Without claims, only the table is
  used.
  """
  @spec register(Registry.description()) ::
          {:ok, pos_integer()} | {:error, :not_running | :stopping | :too_many_workers}
  def register(%{claims: []} = description) do
    case Registry.register(self(), description) do
      {:ok, number} ->
        GenServer.cast(__MODULE__, {:watch, number})
        {:ok, number}

      {:error, {:stopping, number}} ->
        GenServer.cast(__MODULE__, {:watch, number})
        release(number)
        {:error, :stopping}

      {:error, reason} ->
        {:error, reason}
    end
  end

  def register(description) do
    GenServer.call(__MODULE__, {:register, description}, :infinity)
  catch
    :exit, _not_there -> {:error, :not_running}
  end

  @doc """
  Returns when all trees of this run that are ending now are gone, or have used up their time.

  Returns `:none` if there are none.
  """
  @spec await_ending() :: :gone | :none
  def await_ending do
    GenServer.call(__MODULE__, :await_ending, :infinity)
  catch
    :exit, _not_there -> :none
  end

  @doc """
  Registers the calling process for a detached tree, which no other process of this VM may hold.

  A tree of this very run keeps its number, which its Worker left behind.
  """
  @spec adopt(Registry.description()) ::
          {:ok, pos_integer()}
          | {:error, :not_running | :stopping | :too_many_workers | {:already_started, pid()}}
  def adopt(description) do
    GenServer.call(__MODULE__, {:adopt, description}, :infinity)
  catch
    :exit, _not_there -> {:error, :not_running}
  end

  @doc """
  Ends the calling process's part in a worker: its tree is gone, or the Reaper ends it.

  The end of the process has the same effect.
  """
  @spec release(pos_integer()) :: :ok
  def release(number), do: GenServer.cast(__MODULE__, {:release, number})

  @doc """
  Closes a group for starts until the caller ends or calls `open/0`.

  Until then the caller gets `{:leash_free, number}` for each number whose tree is proven gone. It
  gets `{:leash_left, numbers, survivors}` if some could not be ended. Survivors of earlier hunts
  are looked for again.
  """
  @spec close(Group.t() | :all) :: :ok | {:error, :not_running}
  def close(group), do: ask({:close, group})

  # How often a missing Reaper is looked for.
  @look_again_ms 100

  @doc "Sends the caller the message when it is time to look again whether the Reaper is back."
  @spec look_again_in_a_while(term()) :: :ok
  def look_again_in_a_while(message) do
    _timer = Process.send_after(self(), message, @look_again_ms)
    :ok
  end

  @doc "Opens what the caller closed."
  @spec open() :: :ok | {:error, :not_running}
  def open, do: ask(:open)

  # A process that ends workers must not wait long for a process that does not answer.
  defp ask(request) do
    GenServer.call(__MODULE__, request, @answer_ms)
  catch
    :exit, _not_there -> {:error, :not_running}
  end

  @impl true
  def init(options) do
    Process.flag(:trap_exit, true)

    # After a crash of this process, the table lists the processes to watch.
    state = options |> Keyword.fetch!(:run) |> State.new()
    # The processes that close groups close them again.
    :ok = Registry.open_all()
    {:ok, Enum.reduce(Registry.all(), state, &watch/2)}
  end

  # The release of a command was lost together with the Reaper that it was sent to.
  defp watch(%{kind: :command, tree: :gone} = row, state),
    do: Orphans.worker_down(row.number, :normal, state)

  defp watch(row, state), do: Registrations.watch(row, state)

  @impl true
  def handle_call({:register, description}, from, state),
    do: Registrations.give(description, from, state)

  def handle_call(:await_ending, from, state), do: Registrations.await_ending(from, state)

  def handle_call({:adopt, description}, {pid, _tag}, state),
    do: Registrations.adopt(description, pid, state)

  def handle_call({:close, group}, {pid, _tag}, state) do
    monitor = Process.monitor(pid)
    Registry.close(monitor, group)
    state = %{state | group_locks: Map.put(state.group_locks, monitor, {pid, group})}

    # The processes of these rows are gone, and an earlier hunt could not end what they left. A
    # row whose process lives still has its request to be watched on the way.
    gone = for row <- Registry.living(group), not Process.alive?(row.pid), do: row.number
    given_up = MapSet.difference(MapSet.new(gone), Registrations.in_hand(state))
    to_verify = MapSet.union(state.to_verify, given_up)
    # The numbers that wait for their next look are looked for now.
    {:reply, :ok, Verification.look_at_later(%{state | to_verify: to_verify})}
  end

  def handle_call(:open, {pid, _tag}, state) do
    {own, others} =
      Enum.split_with(state.group_locks, fn {_monitor, {closer, _}} -> closer == pid end)

    for {monitor, _} <- own do
      Process.demonitor(monitor, [:flush])
      Registry.open(monitor)
    end

    {:reply, :ok, %{state | group_locks: Map.new(others)}}
  end

  @impl true
  def handle_cast({:watch, number}, state) do
    case Registry.fetch(number) do
      {:ok, row} when not is_map_key(state.watched, number) ->
        {:noreply, Registrations.watch(row, state)}

      _gone_or_watched ->
        {:noreply, state}
    end
  end

  def handle_cast({:release, number}, state) when is_map_key(state.watched, number),
    do: {:noreply, Orphans.worker_down(number, :normal, Registrations.unwatch(number, state))}

  def handle_cast({:release, _number}, state), do: {:noreply, state}

  @impl true
  def handle_info({:DOWN, monitor, :process, _pid, reason}, %{hunting: {_, monitor, _}} = state),
    do: {:noreply, Verification.hunted(reason, state)}

  def handle_info({:DOWN, monitor, :process, _pid, reason}, state) do
    case Map.pop(state.monitors, monitor) do
      {nil, _monitors} ->
        Registry.open(monitor)
        {:noreply, %{state | group_locks: Map.delete(state.group_locks, monitor)}}

      {number, monitors} ->
        state = %{state | monitors: monitors, watched: Map.delete(state.watched, number)}
        {:noreply, Orphans.worker_down(number, reason, state)}
    end
  end

  def handle_info({:shim_ended, number}, state) do
    # The tree was adopted; the adopting process reports its end.
    if is_map_key(state.watched, number),
      do: {:noreply, state},
      else: {:noreply, Orphans.shim_ended(number, state)}
  end

  def handle_info({:leave, number}, state), do: {:noreply, Orphans.leave(number, state)}

  def handle_info({:stuck, number, how}, state) when is_map_key(state.ending, number),
    do: {:noreply, Orphans.stuck(number, how, state)}

  def handle_info({:timeout, timer, :late}, state),
    do: {:noreply, Registrations.late(timer, state)}

  def handle_info(:look_again, state), do: {:noreply, Verification.look_at_later(state)}
  def handle_info({:verify, number}, state), do: {:noreply, Verification.verify(number, state)}
  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state) do
    Registry.close(:shutdown, :all)
    Shutdown.run(state.run)
  end
end
