defmodule Leash.Worker.Life do
  # The life of the tree: one message, one step. Used while it starts, while it runs and while this process terminates alike.
  @moduledoc false

  alias Leash.{Posix, Reaper}
  alias Leash.Worker.{Aftermath, Client, Ending, Hold, LetGo, Pipes, Report, State, Stuck}

  @doc "Takes one message."
  @spec advance(State.t(), term()) :: State.t()
  def advance(%{port: port} = state, {port, {:data, frame}}), do: Report.take(state, frame)

  # The fork server exits with the errno when it cannot execute the shim itself (E2BIG: the shim's
  # arguments are the program's and some more). No shim ever ran then.
  def advance(%{port: port, mark: nil} = state, {port, {:exit_status, errno}})
      when errno in 1..124 do
    failure = state.failure || {:exec, Posix.name(errno)}

    %{state | phase: :done, failure: failure, result: {:error, :noproc}}
    |> State.update_row(tree: :gone)
  end

  def advance(%{port: port} = state, {port, {:exit_status, _status}}),
    do: Aftermath.shim_gone(state, :shim_died)

  def advance(%{port: port} = state, {:EXIT, port, _reason}),
    do: port_closed(%{state | port: nil})

  def advance(%{let_go: until, phase: :ending} = state, {:leash, which})
      when until != nil and which in [:look_for_shim, :shim_ended],
      do: LetGo.look(state)

  def advance(%{let_go: nil, result: nil, phase: phase} = state, {:leash, :let_go})
      when phase in [:launching, :running, :ending],
      do: LetGo.begin(state)

  def advance(%{port: nil} = state, {:leash, :shim_ended}),
    do: Aftermath.shim_gone(state, :port_closed)

  # With the port open, its exit status comes behind the last report and says the same.
  def advance(state, {:leash, :shim_ended}), do: %{state | shim_ended?: true}

  def advance(state, {:leash_fd, _fd, :ready}), do: Pipes.accept(state)

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

  def advance(state, {:leash, :hold}), do: Hold.open(state)

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

  # Somebody closed the port, so no report comes any more: the shim has taken it as the end, and its
  # pidfd says when it is through.
  defp port_closed(%{phase: phase} = state) when phase in [:launching, :running, :ending] do
    if State.lasts?(state),
      do: Hold.leave(state, :port_closed),
      else: state |> Hold.open() |> await_shim()
  end

  defp port_closed(state), do: state

  defp await_shim(state) do
    cond do
      LetGo.needed?(state) ->
        LetGo.begin(%{state | failure: state.failure || :port_closed})

      state.shim_fd == nil or state.shim_ended? ->
        Aftermath.shim_gone(state, :port_closed)

      true ->
        ending = state.ending || :ladder

        %{state | phase: :ending, ending: ending, failure: state.failure || :port_closed}
        |> Ending.watch(ending)
    end
  end

  # The Reaper restarts after a crash; if it stays away, so does the one who would answer for this
  # tree after us.
  defp reattach(state, {:ok, monitor}), do: %{state | reaper: monitor}
  defp reattach(state, :later), do: state

  defp reattach(state, :away) do
    if State.lasts?(state),
      do: Hold.leave(state, {:shutdown, :leash_stopped}),
      else: Ending.fail(state, {:shutdown, :leash_stopped})
  end
end
