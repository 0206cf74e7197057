defmodule Leash.Reaper.Orphans do
  # Decides how hard a tree without a Worker is ended, and when its shim counts as stuck.
  @moduledoc false

  alias Leash.{Ladder, Native, Registry}
  alias Leash.Registry.ExitHistory
  alias Leash.Shim.Handle
  alias Leash.Reaper.{Registrations, State, Verification}
  alias Leash.Shim.Escalation

  # A shim whose exec is still under way carries no tag yet. It ends at once by itself, because
  # its leash is closed. But the proof has to wait until the shim could be seen.
  @unseen_shim_ms 1_000
  # How long a number may stay taken after its tree is gone.
  @look_again_ms 1_000
  # How long processes that a killed shim of a port left may live. Then the part of the time that
  # looking may take while programs end one after the other.
  @look_soon_ms 50
  @looking_share 10

  @doc "Handles the end of a Worker or PortWatcher with this reason."
  @spec worker_down(pos_integer(), term(), State.t()) :: State.t()
  def worker_down(number, {:shutdown, :shim_ended}, state) do
    # A shim without reports. Its end proves the end of the tree if it ended by itself, and not if
    # it was killed. The two cannot be told apart, so the tags are looked for.
    case Registry.fetch(number) do
      :error ->
        state

      {:ok, row} ->
        Verification.look_again(row, look_after(@look_soon_ms, state), state)
    end
  end

  def worker_down(number, reason, state) do
    case Registry.fetch(number) do
      :error ->
        state

      {:ok, %{tree: :gone} = row} ->
        # A command's caller has the shim's report, and is not asked for anything.
        if row.kind == :command, do: State.tell_stoppers(state, {:leash_gone, number})
        state = Registrations.ended([number], state)
        Verification.look_again(row, look_after(@look_again_ms, state), state)

      {:ok, %{outlives: nil} = row} ->
        # Its Worker could not report how it ended.
        ExitHistory.put(row.name, nil, reason)
        end_orphan(Handle.of_row(row, state.run), how(row, reason), state)

      {:ok, row} ->
        outlived(row, state)
    end
  end

  # If `/proc` hides processes or pids go into the millions, a look takes seconds.
  defp look_after(ms, state), do: max(ms, state.hunt_took * @looking_share)

  # A PortWatcher reports what it told the shim.
  defp how(_row, {:told, how}), do: how
  defp how(row, reason), do: Escalation.how(reason, row.on_crash)

  # The tree belongs to another run. Its number here means nothing to any process.
  defp outlived(%{outlives: tree, number: number}, state) when is_map(tree) do
    Registry.delete(number)
    state
  end

  # The shim has been told to end its tree. It is through when it ends.
  defp outlived(%{tree: :ending} = row, state),
    do: end_orphan(Handle.of_row(row, state.run), :ladder, state)

  defp outlived(row, state), do: leave(row, 1, state)

  @doc "Handles the end of the wait for an unseen shim whose tree goes on."
  @spec leave(pos_integer(), State.t()) :: State.t()
  def leave(number, state) do
    case MapSet.member?(state.left, number) && Registry.fetch(number) do
      {:ok, %{shim_fd: nil} = row} -> leave(row, 0, state)
      _held_or_taken_over -> state
    end
  end

  # The tree goes on and keeps its number until its shim ends. A shim that is not executed yet
  # sees its leash hung up, and starts nothing.
  defp leave(%{number: number} = row, tries, state) do
    left = %{state | left: MapSet.put(state.left, number)}

    case Handle.of_row(row, state.run) do
      %{shim_fd: nil} when tries > 0 ->
        Process.send_after(self(), {:leave, number}, @unseen_shim_ms)
        left

      %{shim_fd: nil} ->
        Verification.verify(number, state)

      %{shim_fd: fd} ->
        if Native.pidfd_monitor(fd, {:shim_ended, number}) == :ok,
          do: left,
          else: Verification.verify(number, state)
    end
  end

  # The shim may be about to start, or has ended.
  defp end_orphan(%{shim_fd: nil, number: number}, _how, state),
    do: wait(number, {:verify, number}, @unseen_shim_ms, state)

  defp end_orphan(row, how, state) do
    # The leash is closed, so the ladder has begun. The signal only hurries the shim or wakes it.
    _ = Handle.signal(row.shim_fd, if(how == :kill, do: :kill, else: :wake))

    case Native.pidfd_monitor(row.shim_fd, {:shim_ended, row.number}) do
      :ok -> wait(row.number, {:stuck, row.number, how}, patience(row, how), state)
      {:error, _ended} -> shim_ended(row.number, state)
    end
  end

  @doc "Returns how long a shim may take until it counts as stuck."
  @spec patience(Registry.row(), Escalation.stage()) :: timeout()
  def patience(row, stage), do: Escalation.bound(stage, Ladder.duration(row.stop))

  defp wait(number, _message, :infinity, state), do: put_in(state.ending[number], nil)

  defp wait(number, message, ms, state),
    do: put_in(state.ending[number], Process.send_after(self(), message, ms))

  @doc "Takes the next step after the time of this way of ending is over."
  @spec stuck(pos_integer(), Escalation.stage(), State.t()) :: State.t()
  def stuck(number, how, state) do
    {:ok, row} = Registry.fetch(number)

    case Escalation.next(how) do
      {:tell, stage} ->
        _ = Handle.signal(row.shim_fd, stage)
        wait(number, {:stuck, number, stage}, patience(row, stage), state)

      :look ->
        Verification.verify(number, state)
    end
  end

  @doc "Handles the end of the shim of a tree that was left or is being ended."
  @spec shim_ended(pos_integer(), State.t()) :: State.t()
  def shim_ended(number, state) do
    {timer, ending} = Map.pop(state.ending, number)
    _ = timer && Process.cancel_timer(timer)
    Verification.verify(number, %{state | ending: ending})
  end
end
