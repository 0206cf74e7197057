defmodule Leash.Worker.Start do
  # The start of a Worker process: it is through when the program is executed and, with `:ready`, ready.
  @moduledoc false

  alias Leash.{Callback, Ladder, Telemetry, Workers}
  alias Leash.Shim.Escalation
  alias Leash.Worker.{Await, Channel, Client, Health, Launch, Pipes, ReadyProbe, Result, State}

  @doc "Starts it all, and leaves nothing behind where that fails. What is returned is what `init/1` returns."
  @spec run(map(), Client.t() | nil) ::
          {:ok, State.t()} | {:ok, State.t(), {:continue, :over}} | {:stop, term()}
  def run(options, client) do
    Process.flag(:trap_exit, true)
    :ok = Callback.put_callers(options.callers)

    case Launch.run(options, client) do
      {:ok, state, first} -> state |> launched(first) |> started()
      {:error, reason} -> {:stop, reason}
    end
  end

  @doc """
  Waits for a Worker that is ending to be gone, as long as that may take; false where it is not
  ending, or still there.
  """
  @spec until_gone(pid()) :: boolean()
  def until_gone(pid) do
    case Workers.of_process(pid) do
      {:ok, row} ->
        (row.tree == :gone or Workers.ending?(row)) and
          down?(pid, Escalation.total(Ladder.duration(row.stop)))

      # Its end is on its way to the table, or it is none of ours.
      :error ->
        node(pid) == node() and not Process.alive?(pid)
    end
  end

  defp down?(pid, ms) do
    monitor = Process.monitor(pid)

    receive do
      {:DOWN, ^monitor, :process, _pid, _reason} -> true
    after
      ms ->
        Process.demonitor(monitor, [:flush])
        false
    end
  end

  defp launched(state, first) do
    state
    |> Pipes.open()
    |> Channel.take(first)
    |> Channel.read()
    |> Await.until(state.options.start_timeout, :start_timeout, &(&1.phase != :launching))
  end

  # The program was executed; it may have ended since.
  defp started(%{failure: nil, ending: nil, os_pid: pid} = state) when pid != nil do
    if state.phase == :running,
      do: ReadyProbe.start(state.options.ready, state.label, fn -> State.info(state) end)

    state
    |> Await.until(state.options.ready_timeout, :ready_timeout, & &1.ready?)
    |> ready()
  end

  # What came of it is an answer to its client, and no error of the start.
  defp started(%{client: client, os_pid: pid} = state) when client != nil and pid != nil,
    do: {:ok, state, {:continue, :over}}

  defp started(state), do: failed(state, Result.reason(state))

  defp ready(%{failure: nil, ending: nil, ready?: true} = state) do
    Telemetry.worker(:ready, state.number)

    if state.phase == :running,
      do: Health.start(state.options[:health], state.number, state.label)

    {:ok, state, {:continue, :over}}
  end

  defp ready(%{failure: nil, result: {:ok, exit}} = state), do: failed(state, {:exited, exit})
  defp ready(state), do: failed(state, Result.reason(state))

  defp failed(state, reason) do
    state |> Result.note(reason) |> Result.answer_stoppers()
    {:stop, reason}
  end
end
