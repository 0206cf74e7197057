defmodule Leash.Worker.Stuck do
  # A shim that has not ended in its time: QUIT, then SIGKILL, then without it.
  @moduledoc false

  alias Leash.Reaper
  alias Leash.Worker.{Aftermath, Ending, Hold, State}

  @doc "The time of that way of ending is over."
  @spec next(State.t(), :ladder | :kill | :sigkill) :: State.t()
  # A timer of a ladder that QUIT has overtaken.
  def next(%{ending: :kill} = state, :ladder), do: state
  def next(%{phase: phase} = state, _how) when phase not in [:launching, :ending], do: state

  # The clock of its ladder is another one.
  def next(%{let_go: until} = state, _how) when until != nil, do: state

  # It never reported: let go of it, and look for what carries the tag.
  def next(%{shim_fd: nil} = state, _how), do: without_shim(state)
  def next(state, :ladder), do: Ending.begin(state, :kill)

  def next(state, :kill) do
    _ = Reaper.signal_shim(state.shim_fd, :sigkill)
    Ending.stuck_in_a_step(state, :sigkill)
  end

  def next(state, :sigkill), do: without_shim(state)

  defp without_shim(state), do: state |> Hold.close_port() |> Aftermath.shim_gone(:shim_died)
end
