defmodule Leash.Worker.Stuck do
  # A tree that has not ended in its time: QUIT to the shim, then SIGKILL, then without it.
  @moduledoc false

  alias Leash.Reaper
  alias Leash.Shim.Escalation
  alias Leash.Worker.{Aftermath, Ending, Hold, LetGo, State}

  @doc "The time of that stage is over."
  @spec next(State.t(), Escalation.stage()) :: State.t()
  def next(%{phase: phase} = state, _stage) when phase not in [:launching, :running, :ending],
    do: state

  # The clock of its ladder is another one.
  def next(%{let_go: until} = state, _stage) when until != nil, do: state

  def next(state, stage) do
    state = Hold.open(state)

    cond do
      LetGo.needed?(state) -> Ending.begin(state, :kill)
      # It never reported: let go of it, and look for what carries the tag.
      state.shim_fd == nil -> without_shim(state)
      true -> climb(state, Escalation.next(stage))
    end
  end

  defp climb(state, {:tell, :kill}), do: Ending.begin(state, :kill)

  defp climb(state, {:tell, stage}) do
    _ = Reaper.signal_shim(state.shim_fd, stage)
    Ending.watch(state, stage)
  end

  defp climb(state, :look), do: without_shim(state)

  defp without_shim(state), do: state |> Hold.close_port() |> Aftermath.shim_gone(:shim_died)
end
