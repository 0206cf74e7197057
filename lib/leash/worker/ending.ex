defmodule Leash.Worker.Ending do
  # The beginning of a tree's end: who asks, and how the shim is told. What comes of it arrives as its reports, and
  # past the time that the ladder may take `Leash.Worker.Stuck` is called.
  @moduledoc false

  alias Leash.{Ladder, Reaper}
  alias Leash.Worker.{Hold, LetGo, State}

  # Beyond its ladder, until a shim is taken for stuck; then from step to step.
  @slack_ms 1_000

  @doc "Ends the tree. A ladder that has begun can only become SIGKILL at once."
  @spec begin(State.t(), :ladder | :kill) :: State.t()
  def begin(%{phase: phase} = state, _how) when phase in [:hunting, :draining, :done],
    do: state

  def begin(%{ending: :kill} = state, _how), do: state
  def begin(%{ending: same} = state, same), do: state

  def begin(state, how) do
    phase = if state.phase == :running, do: :ending, else: state.phase
    signal(%{state | ending: how, phase: phase})
  end

  @doc "Ends the tree for a reason that this process exits with, or its start fails with."
  @spec fail(State.t(), term()) :: State.t()
  def fail(state, reason),
    do: begin(%{state | failure: state.failure || reason}, Reaper.how(reason))

  @doc "As if the owner had asked."
  @spec owner_ended(State.t(), :ladder | :kill) :: State.t()
  def owner_ended(state, how), do: begin(%{state | requested?: true}, how)

  @doc "A guard or a failed check found it; in order all the same. What ends already keeps its own reason."
  @spec doomed(State.t(), term()) :: State.t()
  def doomed(%{phase: phase, ending: nil, failure: nil} = state, reason)
      when phase in [:launching, :running],
      do: begin(%{state | failure: reason}, :ladder)

  def doomed(state, _reason), do: state

  @doc "Tells the shim. Before its first report there is nothing to signal: the report will find `:ending` set."
  @spec signal(State.t()) :: State.t()
  def signal(state), do: state |> Hold.open() |> signal_held()

  defp signal_held(%{let_go: until} = state) when until != nil, do: state

  defp signal_held(%{shim_fd: nil} = state) do
    if LetGo.needed?(state),
      do: LetGo.instead_of_a_signal(state),
      else: stuck_in_a_step(state, state.ending)
  end

  defp signal_held(state) do
    told = Reaper.tell_shim(state.number, state.shim_fd, state.ending)
    state = stuck_in_its_time(state, state.ending)
    # Its client may go between the shim's last word and its exit.
    state = if state.gone?, do: state, else: State.update_row(state, tree: :ending)
    if told == :ok, do: state, else: LetGo.instead_of_a_signal(state)
  end

  @doc "`{:leash, {:stuck, how}}` comes when all of the ladder's time is over."
  @spec stuck_in_its_time(State.t(), :ladder | :kill) :: State.t()
  def stuck_in_its_time(%{ending: :kill} = state, how), do: stuck_in_a_step(state, how)

  def stuck_in_its_time(state, how) do
    case Ladder.duration(state.options.stop) do
      :infinity -> state
      ms -> stuck_in(state, how, ms + @slack_ms)
    end
  end

  @doc "`{:leash, {:stuck, how}}` comes when what needs no time has not come about."
  @spec stuck_in_a_step(State.t(), :ladder | :kill | :sigkill) :: State.t()
  def stuck_in_a_step(state, how), do: stuck_in(state, how, @slack_ms)

  defp stuck_in(state, how, ms) do
    _timer = Process.send_after(self(), {:leash, {:stuck, how}}, ms)
    state
  end
end
