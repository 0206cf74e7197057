defmodule Leash.Reaper.Numbers do
  # Who has which number: a new one, that of a tree which is taken over, or none, because its group is being stopped.
  @moduledoc false

  alias Leash.{Detached, Group, Native, Workers}
  alias Leash.Reaper.State

  @numbers 32_766

  @type answer ::
          {:ok, pos_integer()}
          | {:error, :stopping | :too_many_workers | {:already_started, pid()}}

  @doc "Gives a Worker a number, now or when the tree of its name that is still ending is gone."
  @spec give(Workers.description(), GenServer.from(), State.t()) ::
          {:reply, answer(), State.t()} | {:noreply, State.t()}
  def give(description, {pid, _tag} = from, state) do
    case predecessor(description, state) do
      nil -> register(description, pid, state)
      number -> {:noreply, %{state | heirs: [{number, description, from} | state.heirs]}}
    end
  end

  # A supervisor starts the next as soon as a Worker is killed, which is before its tree is gone; and two at a time under
  # one name write one log, or want one port.
  defp predecessor(%{name: name}, state) when name != nil do
    ending? = fn row ->
      row.tree != :gone and row.outlives == nil and not Process.alive?(row.pid)
    end

    with %{number: number} <- Enum.find(Workers.named(name), ending?),
         do: if(number in in_hand(state), do: number)
  end

  defp predecessor(_nameless, _state), do: nil

  @doc "Gives those who waited for these numbers theirs. What could not be ended is in nobody's way for ever."
  @spec inherit([pos_integer()], State.t()) :: State.t()
  def inherit(numbers, state) do
    {heirs, waiting} = Enum.split_with(state.heirs, fn {number, _, _} -> number in numbers end)

    Enum.reduce(heirs, %{state | heirs: waiting}, fn {_number, description, {pid, _} = from},
                                                     state ->
      {:reply, answer, state} = register(description, pid, state)
      GenServer.reply(from, answer)
      state
    end)
  end

  defp register(description, pid, state) do
    case closed?(state, description.group) || free_number(state.last, @numbers) do
      true ->
        {:reply, {:error, :stopping}, state}

      nil ->
        {:reply, {:error, :too_many_workers}, state}

      number ->
        row = Workers.row(number, pid, description)
        Workers.put(row)
        {:reply, {:ok, number}, %{watch(row, state) | last: number}}
    end
  end

  defp closed?(state, group),
    do: Enum.any?(state.closers, fn {_, {_, it}} -> Group.includes?(it, group) end)

  @doc "Gives the process that takes a detached tree over a number; a tree of this very run keeps its own."
  @spec adopt(Workers.description(), pid(), State.t()) :: {:reply, answer(), State.t()}
  def adopt(%{outlives: tree} = description, pid, state) do
    case Enum.find(Workers.all(), &Detached.of?(&1, tree, state.run.id)) do
      nil -> register(description, pid, state)
      row -> take_over(row, description, pid, state)
    end
  end

  # Whose process this very VM had before.
  defp take_over(row, description, pid, state) do
    old = for {monitor, number} <- state.monitors, number == row.number, do: monitor
    monitors = Map.drop(state.monitors, old)

    cond do
      Process.alive?(row.pid) ->
        {:reply, {:error, {:already_started, row.pid}}, state}

      # Its end has begun, or is being looked at.
      closed?(state, description.group) or closed?(state, row.group) or row.tree != :alive or
          (old == [] and not MapSet.member?(state.left, row.number)) ->
        {:reply, {:error, :stopping}, state}

      row.outlives == :own ->
        for monitor <- old, do: Process.demonitor(monitor, [:flush])
        _ = row.shim_fd && Native.pidfd_demonitor(row.shim_fd)
        row = Map.merge(row, %{Map.delete(description, :outlives) | stop: row.stop})
        row = %{row | pid: pid}
        Workers.put(row)
        left = MapSet.delete(state.left, row.number)
        {:reply, {:ok, row.number}, watch(row, %{state | monitors: monitors, left: left})}

      true ->
        for monitor <- old, do: Process.demonitor(monitor, [:flush])
        Workers.delete(row.number)
        register(description, pid, %{state | monitors: monitors})
    end
  end

  @doc "Watches the Worker of a row."
  @spec watch(Workers.row(), State.t()) :: State.t()
  def watch(row, state) do
    monitor = Process.monitor(row.pid)

    %{
      state
      | monitors: Map.put(state.monitors, monitor, row.number),
        last: max(state.last, row.number)
    }
  end

  @doc "The numbers whose trees somebody answers for: a Worker, a shim that is waited for, a hunt."
  @spec in_hand(State.t()) :: MapSet.t(pos_integer())
  def in_hand(state) do
    hunted = with {_pid, _monitor, numbers} <- state.hunting, do: numbers

    [Map.values(state.monitors), Map.keys(state.ending), hunted || []]
    |> Enum.concat()
    |> MapSet.new()
    |> MapSet.union(state.to_verify)
    |> MapSet.union(state.later)
    |> MapSet.union(state.left)
  end

  # Numbers rise, so that one is not used again while somebody may still think of its last bearer.
  defp free_number(_last, 0), do: nil

  defp free_number(last, left) do
    number = rem(last, @numbers) + 1
    if Workers.taken?(number), do: free_number(number, left - 1), else: number
  end
end
