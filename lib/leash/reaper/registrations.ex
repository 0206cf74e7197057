defmodule Leash.Reaper.Registrations do
  # Assigns numbers: a new one, that of a tree which is taken over, or none, because its group is
  # being stopped.
  @moduledoc false

  alias Leash.{Detached, Group, Ladder, Native, Registry}
  alias Leash.Reaper.State
  alias Leash.Shim.Escalation

  @type answer ::
          {:ok, pos_integer()}
          | {:error, :not_running | :stopping | :too_many_workers | {:already_started, pid()}}

  @doc """
  Gives a Worker a number, now or when the ending trees that hold its claims are gone.
  """
  @spec give(Registry.description(), GenServer.from(), State.t()) ::
          {:reply, answer(), State.t()} | {:noreply, State.t()}
  def give(description, {pid, _tag} = from, state) do
    case description |> Map.get(:claims, []) |> Registry.claimants() |> in_the_way(state) do
      [] -> register(description, pid, state)
      rows -> {:noreply, wait(rows, {:number, description}, from, state)}
    end
  end

  @doc """
  Answers `:gone` when all trees that are ending now are gone, `:none` if there are none.
  """
  @spec await_ending(GenServer.from(), State.t()) ::
          {:reply, :none, State.t()} | {:noreply, State.t()}
  def await_ending(from, state) do
    case in_the_way(Registry.all(), state) do
      [] -> {:reply, :none, state}
      rows -> {:noreply, wait(rows, :word, from, state)}
    end
  end

  # A supervisor starts the next Worker as soon as a Worker or its owner is gone, which is before
  # the tree is gone. Two at a time would write one log, or want one port. A tree that could not
  # be ended blocks no start for ever.
  defp in_the_way(rows, state) do
    with [_ | _] = rows <- Enum.filter(rows, &Registry.ending?/1) do
      in_hand = in_hand(state)
      Enum.filter(rows, &(&1.number in in_hand))
    end
  end

  defp wait(rows, wants, from, state) do
    registration = %{
      numbers: MapSet.new(rows, & &1.number),
      wants: wants,
      from: from,
      timer: rows |> Enum.map(&Escalation.total(Ladder.duration(&1.stop))) |> Enum.max() |> set()
    }

    %{state | waiting: [registration | state.waiting]}
  end

  defp set(:infinity), do: nil
  defp set(ms), do: :erlang.start_timer(ms, self(), :late)

  @doc """
  Answers the starts that waited only for these trees, which are gone or could not be ended.
  """
  @spec ended([pos_integer()], State.t()) :: State.t()
  def ended(_numbers, %{waiting: []} = state), do: state

  def ended(numbers, state) do
    gone = MapSet.new(numbers)

    waiting =
      for registration <- state.waiting,
          do: %{registration | numbers: MapSet.difference(registration.numbers, gone)}

    {free, waiting} = Enum.split_with(waiting, &(MapSet.size(&1.numbers) == 0))
    Enum.reduce(free, %{state | waiting: waiting}, &answer/2)
  end

  @doc "Answers a start whose waiting time is over."
  @spec late(reference(), State.t()) :: State.t()
  def late(timer, state) do
    {late, waiting} = Enum.split_with(state.waiting, &(&1.timer == timer))
    Enum.reduce(late, %{state | waiting: waiting}, &answer/2)
  end

  defp answer(registration, state) do
    _ = registration.timer && :erlang.cancel_timer(registration.timer)
    {pid, _tag} = registration.from

    {:reply, answer, state} =
      case registration.wants do
        {:number, description} -> register(description, pid, state)
        :word -> {:reply, :gone, state}
      end

    GenServer.reply(registration.from, answer)
    state
  end

  defp register(description, pid, state) do
    case Registry.register(pid, description) do
      {:ok, number} ->
        {:ok, row} = Registry.fetch(number)
        {:reply, {:ok, number}, watch(row, state)}

      {:error, {:stopping, number}} ->
        Registry.delete(number)
        {:reply, {:error, :stopping}, state}

      {:error, reason} ->
        {:reply, {:error, reason}, state}
    end
  end

  defp closed?(state, group),
    do: Enum.any?(state.group_locks, fn {_, {_, it}} -> Group.includes?(it, group) end)

  @doc """
  Gives a number to the process that takes a detached tree over.

  A tree of this very run keeps its own number.
  """
  @spec adopt(Registry.description(), pid(), State.t()) :: {:reply, answer(), State.t()}
  def adopt(%{outlives: tree} = description, pid, state) do
    case Enum.find(Registry.all(), &Detached.of?(&1, tree, state.run.id)) do
      nil -> register(description, pid, state)
      row -> take_over(row, description, pid, state)
    end
  end

  # The tree belonged to a process of this very VM before.
  defp take_over(row, description, pid, state) do
    cond do
      Process.alive?(row.pid) ->
        {:reply, {:error, {:already_started, row.pid}}, state}

      # The end of the tree has begun, or is being looked at.
      closed?(state, description.group) or closed?(state, row.group) or row.tree != :alive or
          not (is_map_key(state.watched, row.number) or
                   MapSet.member?(state.left, row.number)) ->
        {:reply, {:error, :stopping}, state}

      row.outlives == :own ->
        _ = row.shim_fd && Native.pidfd_demonitor(row.shim_fd)
        row = Map.merge(row, %{Map.delete(description, :outlives) | stop: row.stop})
        row = %{row | pid: pid}
        Registry.put(row)
        left = MapSet.delete(state.left, row.number)
        state = unwatch(row.number, %{state | left: left})
        {:reply, {:ok, row.number}, watch(row, state)}

      true ->
        Registry.delete(row.number)
        register(description, pid, unwatch(row.number, state))
    end
  end

  @doc "Watches the Worker of a row."
  @spec watch(Registry.row(), State.t()) :: State.t()
  def watch(row, state) do
    monitor = Process.monitor(row.pid)

    %{
      state
      | monitors: Map.put(state.monitors, monitor, row.number),
        watched: Map.put(state.watched, row.number, monitor)
    }
  end

  @doc """
  Watches processes that registered and were killed before they could ask to be watched.
  """
  @spec watch_all(State.t()) :: State.t()
  def watch_all(state) do
    in_hand = in_hand(state)

    for row <- Registry.all(),
        row.number not in in_hand,
        not Process.alive?(row.pid),
        reduce: state do
      state -> watch(row, state)
    end
  end

  @doc "Stops watching the Worker of a number."
  @spec unwatch(pos_integer(), State.t()) :: State.t()
  def unwatch(number, state) do
    case Map.pop(state.watched, number) do
      {nil, _watched} ->
        state

      {monitor, watched} ->
        Process.demonitor(monitor, [:flush])
        %{state | watched: watched, monitors: Map.delete(state.monitors, monitor)}
    end
  end

  @doc """
  Returns the numbers whose trees are in hand.

  A Worker, a shim that is waited for, or a hunt has them in hand.
  """
  @spec in_hand(State.t()) :: MapSet.t(pos_integer())
  def in_hand(state) do
    hunted = with {_pid, _monitor, numbers} <- state.hunting, do: numbers

    [Map.keys(state.watched), Map.keys(state.ending), hunted || []]
    |> Enum.concat()
    |> MapSet.new()
    |> MapSet.union(state.to_verify)
    |> MapSet.union(state.later)
    |> MapSet.union(state.left)
  end
end
