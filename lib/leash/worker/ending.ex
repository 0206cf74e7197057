defmodule Leash.Worker.Ending do
  # The beginning of a tree's end: who asks, and how the shim is told. What comes of it arrives as its reports, and
  # past the time that the ladder may take `Leash.Worker.Stuck` is called.
  @moduledoc false

  alias Leash.Ladder
  alias Leash.Shim.Escalation
  alias Leash.Worker.{Channel, State}

  @doc "Ends the tree. A ladder that has begun can only become SIGKILL at once."
  @spec begin(State.t(), :ladder | :kill) :: State.t()
  def begin(%{phase: phase} = state, _how) when phase in [:hunting, :draining, :done],
    do: state

  def begin(%{ending: :kill} = state, _how), do: state
  def begin(%{ending: same} = state, same), do: state

  def begin(state, how) do
    phase = if state.phase == :running, do: :ending, else: state.phase
    tell(%{state | ending: how, phase: phase})
  end

  @doc "Ends the tree for a reason that this process exits with, or its start fails with."
  @spec fail(State.t(), term()) :: State.t()
  def fail(state, reason),
    do: begin(%{state | failure: state.failure || reason}, how(state, reason))

  @doc "How hard the tree is ended for an exit reason."
  @spec how(State.t(), term()) :: :ladder | :kill
  def how(state, reason), do: Escalation.how(reason, state.options.on_crash)

  @doc "As if the owner had asked."
  @spec owner_ended(State.t(), :ladder | :kill) :: State.t()
  def owner_ended(state, how), do: begin(%{state | requested?: true}, how)

  @doc "A guard or a failed check found it; in order all the same. What ends already keeps its own reason."
  @spec doomed(State.t(), term()) :: State.t()
  def doomed(%{phase: phase, ending: nil, failure: nil} = state, reason)
      when phase in [:launching, :running],
      do: begin(%{state | failure: reason}, :ladder)

  def doomed(state, _reason), do: state

  # Also before its first report: what was asked counts from the start.
  defp tell(state), do: state |> note() |> Channel.ask(state.ending) |> watch(state.ending)

  # Its client may go between the shim's last word and its exit. Of what was not seen yet the row says that it is starting.
  defp note(%{gone?: gone?, mark: mark} = state) when gone? or mark == nil, do: state
  defp note(state), do: State.update_row(state, tree: :ending)

  @doc """
  The program has exited by itself: what it left has the linger, and the ladder that the shim
  begins then.
  """
  @spec exited(State.t()) :: State.t()
  def exited(%{ending: nil, options: %{linger: linger}} = state) when is_integer(linger),
    do: watch(state, :ladder, later(linger, bound(state, :ladder)))

  def exited(state), do: state

  defp later(_linger, :infinity), do: :infinity
  defp later(linger, ms), do: linger + ms

  @doc """
  `Leash.Worker.Stuck` is called when the time of a stage is over. One watch is kept: that of what
  was told last.
  """
  @spec watch(State.t(), Escalation.stage()) :: State.t()
  def watch(state, stage), do: watch(state, stage, bound(state, stage))

  defp watch(state, _stage, :infinity), do: %{state | stuck: nil}

  defp watch(state, stage, ms) do
    token = make_ref()
    _timer = Process.send_after(self(), {:leash, {:stuck, token}}, ms)
    %{state | stuck: {token, stage}}
  end

  defp bound(state, stage), do: Escalation.bound(stage, Ladder.duration(state.options.stop))
end
