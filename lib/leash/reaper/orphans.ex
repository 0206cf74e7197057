defmodule Leash.Reaper.Orphans do
  # A tree whose Worker is gone: how hard it is ended, and when its shim is taken for stuck.
  @moduledoc false

  alias Leash.{Ladder, Native, Registry}
  alias Leash.Registry.ExitHistory
  alias Leash.Shim.Handle
  alias Leash.Reaper.{Registrations, State, Verification}
  alias Leash.Shim.Escalation

  # A shim whose exec is still under way carries no tag yet; it ends at once by itself, since its
  # leash is closed, but the proof has to wait until it could be seen.
  @unseen_shim_ms 1_000
  # How long a number may stay taken after its tree is gone.
  @look_again_ms 1_000
  # How long what a shim of a port left may live, when it was killed; and what part of the time looking may take
  # while programs end one after the other.
  @look_soon_ms 50
  @looking_share 10

  @doc "A Worker or keeper is gone, for this reason."
  @spec worker_down(pos_integer(), term(), State.t()) :: State.t()
  def worker_down(number, {:shutdown, :shim_ended}, state) do
    # A shim without reports: its end is the proof where it ended by itself, and where it was killed it is not.
    # Nobody can tell these apart, so the tags are looked for.
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
        # A command's caller has the shim's word, and is asked for nothing.
        if row.kind == :command, do: State.tell_stoppers(state, {:leash_gone, number})
        state = Registrations.ended([number], state)
        Verification.look_again(row, look_after(@look_again_ms, state), state)

      {:ok, %{outlives: nil} = row} ->
        # Its Worker could not say how it ended.
        ExitHistory.put(row.name, nil, reason)
        end_orphan(Handle.of_row(row, state.run), how(row, reason), state)

      {:ok, row} ->
        outlived(row, state)
    end
  end

  # Where `/proc` hides and numbers go into the millions, a look takes seconds.
  defp look_after(ms, state), do: max(ms, state.hunt_took * @looking_share)

  # A keeper says what it told the shim.
  defp how(_row, {:told, how}), do: how
  defp how(row, reason), do: Escalation.how(reason, row.on_crash)

  # Of another run: its number here means nothing to anybody.
  defp outlived(%{outlives: tree, number: number}, state) when is_map(tree) do
    Registry.delete(number)
    state
  end

  # It was told before, and is through when its shim is.
  defp outlived(%{tree: :ending} = row, state),
    do: end_orphan(Handle.of_row(row, state.run), :ladder, state)

  defp outlived(row, state), do: leave(row, 1, state)

  @doc "The time of a shim that was not seen yet is over, whose tree is to go on."
  @spec leave(pos_integer(), State.t()) :: State.t()
  def leave(number, state) do
    case MapSet.member?(state.left, number) && Registry.fetch(number) do
      {:ok, %{shim_fd: nil} = row} -> leave(row, 0, state)
      _held_or_taken_over -> state
    end
  end

  # It goes on, and so does its number, until its shim ends. A shim that is not executed yet sees its leash hung up, and
  # starts nothing.
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

  # It may be about to start, or has ended.
  defp end_orphan(%{shim_fd: nil, number: number}, _how, state),
    do: wait(number, {:verify, number}, @unseen_shim_ms, state)

  defp end_orphan(row, how, state) do
    # The leash is let go, so the ladder has begun; it has to be told only to hurry, or to wake up.
    _ = Handle.signal(row.shim_fd, if(how == :kill, do: :kill, else: :wake))

    case Native.pidfd_monitor(row.shim_fd, {:shim_ended, row.number}) do
      :ok -> wait(row.number, {:stuck, row.number, how}, patience(row, how), state)
      {:error, _ended} -> shim_ended(row.number, state)
    end
  end

  @doc "How long a shim may take until it is taken for stuck."
  @spec patience(Registry.row(), Escalation.stage()) :: timeout()
  def patience(row, stage), do: Escalation.bound(stage, Ladder.duration(row.stop))

  defp wait(number, _message, :infinity, state), do: put_in(state.ending[number], nil)

  defp wait(number, message, ms, state),
    do: put_in(state.ending[number], Process.send_after(self(), message, ms))

  @doc "The time of that way of ending is over."
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

  @doc "The shim of a tree that was left, or is being ended, is gone."
  @spec shim_ended(pos_integer(), State.t()) :: State.t()
  def shim_ended(number, state) do
    {timer, ending} = Map.pop(state.ending, number)
    _ = timer && Process.cancel_timer(timer)
    Verification.verify(number, %{state | ending: ending})
  end
end
