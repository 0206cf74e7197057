defmodule Leash.Reaper.Verification do
  # Proves with a hunt for its tags that nothing of a number is left. Then the number is free.
  @moduledoc false

  alias Leash.{Cgroup, Cleanup, Native, Registry, Run, Telemetry}
  alias Leash.Reaper.{Registrations, State}

  require Logger

  # The time from a failed hunt to the next. It doubles each time up to the second value.
  @again_ms 1_000
  @again_most_ms 60_000
  @failures_most 6

  @doc "Begins the proof that a number is gone."
  @spec verify(pos_integer(), State.t()) :: State.t()
  def verify(number, state) do
    hunt(%{
      state
      | to_verify: MapSet.put(state.to_verify, number),
        ending: Map.delete(state.ending, number),
        left: MapSet.delete(state.left, number)
    })
  end

  @doc """
  Looks for the numbers to verify.

  One hunt at a time covers all numbers that came up meanwhile. So a thousand Workers that are
  killed at once cost a few passes over `/proc` and not a thousand.
  """
  @spec hunt(State.t()) :: State.t()
  def hunt(%{hunting: nil} = state) do
    if MapSet.size(state.to_verify) == 0 do
      state
    else
      numbers = MapSet.to_list(state.to_verify)
      {pid, monitor} = Cleanup.start(Cleanup.of_workers(state.run, numbers))
      %{state | hunting: {pid, monitor, numbers}, to_verify: MapSet.new(), hunt_began: now()}
    end
  end

  def hunt(state), do: state

  @doc "Handles the end of the hunt under way."
  @spec hunted(term(), State.t()) :: State.t()
  def hunted(reason, %{hunting: {_pid, _monitor, numbers}} = state) do
    hunted(reason, numbers, %{state | hunting: nil})
  end

  defp hunted({:shutdown, {:ok, report}}, numbers, state) do
    # A look is one pass. A hunt that waits for what cannot be ended makes many.
    took = div(now() - state.hunt_began, max(report.passes, 1))
    state = %{state | hunt_took: took}
    survivors = MapSet.new(report.survivors, & &1.worker)
    {left, others} = Enum.split_with(numbers, &(&1 in survivors or nil in survivors))
    {freed, unseen} = Enum.split_with(others, &proven?(&1, report))
    unproven = if report.complete, do: left, else: Enum.reject(numbers, &ended_in_order?/1)

    if report.survivors != [] and state.failures < @failures_most,
      do: log_survivors(report.survivors)

    if unproven != [],
      do: State.tell_stoppers(state, {:leash_left, unproven, report.survivors})

    # An unfinished tree keeps its number: no other mark may ever equal it.
    state = Enum.reduce(freed, state, &free/2)
    # If that fails, the record is only longer.
    _ = Run.forget(freed)
    # Survivors may end later: they thaw, or the machine is less busy.
    state = again(left ++ unseen, why(report), state)
    numbers |> Registrations.ended(state) |> hunt()
  end

  defp hunted(failure, numbers, state) do
    state = again(numbers, failure, state)
    numbers |> Registrations.ended(state) |> hunt()
  end

  defp why(%{survivors: []} = report), do: {:incomplete, report.incomplete_because}
  defp why(report), do: {:survivors, Enum.map(report.survivors, & &1.pid)}

  # A number that was not looked for, or not seen, is neither gone nor lost. It is looked for
  # until a hunt sees enough.
  defp again([], _why, state), do: %{state | failures: 0}

  defp again(numbers, why, state) do
    ms = min(@again_ms * Integer.pow(2, state.failures), @again_most_ms)

    # From the longest pause on, each further line would say the same.
    if ms < @again_most_ms do
      Logger.error(
        "Leash could not verify that workers #{inspect(numbers)} are gone, and tries again in " <>
          "#{ms} ms, later once a minute: #{inspect(why)}"
      )
    end

    later = MapSet.union(state.later, MapSet.new(numbers))
    state = %{state | later: later, failures: min(state.failures + 1, @failures_most)}
    if due_within?(state.look_again, ms), do: state, else: look_after(ms, state)
  end

  # Without `/proc`, no hunt ever sees more than the shim proved.
  defp proven?(number, report) do
    Cleanup.own_seen?(report) or
      (:no_proc in report.incomplete_because and ended_in_order?(number))
  end

  @doc """
  Looks once more for a tree that ended in order, after at most so many milliseconds.

  The shim's proof covers processes that can be reparented to it. A process that moved into
  another pid namespace has its own reaper there, and only its tag identifies it. One look covers
  all trees that ended within a second.
  """
  @spec look_again(Registry.row(), non_neg_integer(), State.t()) :: State.t()
  def look_again(row, ms, state) do
    close_fd(row)
    Registry.change(row.number, shim_fd: nil)
    state = %{state | later: MapSet.put(state.later, row.number)}
    if due_within?(state.look_again, ms), do: state, else: look_after(ms, state)
  end

  defp due_within?(nil, _ms), do: false
  defp due_within?(timer, ms), do: (Process.read_timer(timer) || 0) <= ms

  defp look_after(ms, state) do
    _ = state.look_again && Process.cancel_timer(state.look_again)
    %{state | look_again: Process.send_after(self(), :look_again, ms)}
  end

  @doc "Begins that look."
  @spec look_at_later(State.t()) :: State.t()
  def look_at_later(state) do
    _ = state.look_again && Process.cancel_timer(state.look_again)
    to_verify = MapSet.union(state.to_verify, state.later)

    hunt(
      Registrations.watch_all(%{
        state
        | look_again: nil,
          later: MapSet.new(),
          to_verify: to_verify
      })
    )
  end

  defp now, do: System.monotonic_time(:millisecond)

  defp free(number, state) do
    with {:ok, row} <- Registry.fetch(number) do
      close_fd(row)
      if unseen_end?(row), do: Telemetry.worker_stop(number, nil)
      # The kernel may hold it up. Mostly the group has been removed before.
      if row.cgroup, do: spawn(Cgroup, :clear, [state.run, number, row.cgroup])
    end

    Registry.delete(number)
    State.tell_stoppers(state, {:leash_free, number})
    state
  end

  # The shim's own report or the warden's word proves it.
  defp ended_in_order?(number), do: match?({:ok, %{tree: :gone}}, Registry.fetch(number))

  # The tree ran, and its Worker did not live to report its end.
  defp unseen_end?(row), do: row.tree != :gone and (row.os_pid != nil or row.kind == :port)

  defp close_fd(%{shim_fd: nil}), do: :ok
  defp close_fd(%{shim_fd: fd}), do: Native.fd_close(fd)

  @doc "Logs the processes that could not be ended."
  @spec log_survivors([map()]) :: :ok
  def log_survivors(survivors) do
    Logger.error([
      "Leash could not end: ",
      Enum.map_join(survivors, ", ", &"#{&1.pid} (#{&1.command}): #{inspect(&1.why)}")
    ])
  end
end
