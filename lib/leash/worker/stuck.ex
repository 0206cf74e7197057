defmodule Leash.Worker.Stuck do
  # A tree that has not ended in its time: SIGKILL asked for on the channel, then SIGKILL to the shim,
  # then without it.
  @moduledoc false

  alias Leash.Shim.Escalation
  alias Leash.Worker.{Aftermath, Channel, Ending, State}

  @doc "The time of that stage is over."
  @spec next(State.t(), Escalation.stage()) :: State.t()
  def next(%{phase: phase} = state, _stage) when phase not in [:launching, :running, :ending],
    do: state

  def next(state, stage) do
    case Escalation.next(stage) do
      {:tell, :kill} -> Ending.begin(state, :kill)
      {:tell, stage} -> state |> Channel.signal(stage) |> Ending.watch(stage)
      :look -> state |> Channel.close() |> Aftermath.shim_gone()
    end
  end
end
