defmodule Leash.Worker.Life do
  # The life of the tree: one message, one step. Used while it starts, while it runs and while this process terminates alike.
  @moduledoc false

  alias Leash.Reaper
  alias Leash.Worker.{Aftermath, Channel, Client, Ending, Pipes, State, Stuck}

  @doc "Takes one message."
  @spec advance(State.t(), term()) :: State.t()
  def advance(%{channel: channel} = state, {:leash_fd, channel, :ready}), do: Channel.read(state)

  def advance(state, {:leash, :shim_ended}), do: Aftermath.shim_ended(state)

  def advance(state, {:output_ready, _pid}), do: %{Pipes.limit_outputs(state) | ready?: true}

  def advance(%{outputs: outputs} = state, {:EXIT, pid, _reason}) when is_map_key(outputs, pid),
    do: Aftermath.drained(%{state | outputs: Map.delete(outputs, pid)})

  def advance(%{input: input} = state, {:EXIT, input, reason}),
    do: Pipes.input_ended(state, reason)

  def advance(%{client: %{monitor: monitor}} = state, {:DOWN, monitor, :process, _, reason}),
    do: Ending.fail(state, reason)

  def advance(%{attachment: %{watch: watch}} = state, {:DOWN, watch, :process, _, reason}),
    do: Ending.owner_ended(state, Ending.how(state, reason))

  def advance(state, {:leash, :owner_ended}), do: Ending.owner_ended(state, :ladder)

  def advance(%{client: client} = state, {:leash, :output_done}) when client != nil,
    do: Client.output_done(state)

  def advance(state, {:leash, {:end, how}}), do: Ending.begin(state, how)

  def advance(state, {:leash, {:stop, from, how}}) do
    requested? = state.phase == :running or state.requested?
    Ending.begin(%{state | stoppers: [from | state.stoppers], requested?: requested?}, how)
  end

  def advance(%{exited: nil} = state, {:leash, {:doomed, reason}}),
    do: Ending.doomed(state, reason)

  def advance(%{hunt: {_pid, monitor}} = state, {:DOWN, monitor, :process, _, reason}),
    do: Aftermath.hunted(state, reason)

  def advance(%{reaper: monitor} = state, {:DOWN, monitor, :process, _, _reason}),
    do: reattach(state, Reaper.reattach())

  def advance(state, {:leash, {:reattach, tries}}), do: reattach(state, Reaper.reattach(tries))

  def advance(%{stuck: {token, stage}} = state, {:leash, {:stuck, token}}),
    do: Stuck.next(%{state | stuck: nil}, stage)

  def advance(%{phase: :draining} = state, {:leash, :drained}),
    do: %{Pipes.leave_outputs(state) | phase: :done}

  def advance(state, _other), do: state

  # The Reaper restarts after a crash; if it stays away, so does the one who would answer for this
  # tree after us.
  defp reattach(state, {:ok, monitor}), do: %{state | reaper: monitor}
  defp reattach(state, :later), do: state

  defp reattach(state, :away) do
    if State.lasts?(state),
      do: Channel.leave(state, {:shutdown, :leash_stopped}),
      else: Ending.fail(state, {:shutdown, :leash_stopped})
  end
end
