defmodule Leash.Worker.Aftermath do
  # From the end of the shim to the end of this process: proof that nothing is left, and what the pipes still hold.
  @moduledoc false

  alias Leash.{Exit, Hunt, Telemetry}
  alias Leash.Worker.{Pipes, Result, State}

  require Logger

  # How long this process waits for handlers to take what the pipes still hold after the end; they
  # go on by themselves afterwards.
  @drain_ms 1_000

  @doc """
  The shim is gone.

  Its last report is the kernel's word that the tree is; without it, the tags have to be looked for.
  """
  @spec shim_gone(State.t(), :shim_died | :port_closed) :: State.t()
  def shim_gone(%{phase: phase} = state, _why) when phase in [:hunting, :draining, :done],
    do: state

  def shim_gone(%{result: {:ok, _exit}} = state, _why), do: drain(state)

  def shim_gone(state, why) do
    hunt = Hunt.start(Hunt.of_workers(state.run, [state.number]))
    %{state | phase: :hunting, hunt: hunt, failure: state.failure || why}
  end

  @doc "What the hunt for the tree's tags ended with."
  @spec hunted(State.t(), term()) :: State.t()
  def hunted(state, result)

  # Nothing was found, and not everything was seen: that proves no end. What a shim that was let go says by its end is all
  # there is.
  def hunted(state, {:shutdown, {:ok, %{survivors: [], complete: false} = report}})
      when state.let_go == nil or not state.shim_ended?,
      do: hunted(state, {:incomplete, report.incomplete_because})

  def hunted(state, {:shutdown, {:ok, %{survivors: []}}}) do
    exit = %Exit{
      cause: if(state.failure == :port_closed or state.let_go, do: :leash, else: :shim_died),
      os_pid: state.os_pid
    }

    exit =
      case state.exited do
        {:status, status} -> %Exit{exit | status: status}
        {:signal, signal} -> %Exit{exit | signal: signal}
        :unknown -> exit
        nil when state.let_go != nil -> exit
        nil -> %Exit{exit | signal: :sigkill}
      end

    drain(%{state | hunt: nil, result: {:ok, exit}})
  end

  def hunted(state, {:shutdown, {:ok, %{survivors: survivors}}}),
    do: left(state, survivors)

  # It was tried several times. The Reaper goes on trying, and keeps the number until it succeeds.
  def hunted(state, failure) do
    reason = reason(failure)
    log_failure(state, reason)
    unended(state, %{survivors: [], unproven: reason}, {:unproven, reason})
  end

  defp reason({:shutdown, {:error, reason}}), do: reason
  defp reason({:incomplete, _because} = reason), do: reason
  defp reason(crash), do: {:crashed, crash}

  defp log_failure(state, reason) do
    Logger.error("Leash could not look for what worker #{state.label} left: #{inspect(reason)}")
  end

  defp left(state, survivors) do
    Telemetry.survivors(state.number, survivors)
    unended(state, %{survivors: survivors}, {:survivors, survivors})
  end

  defp unended(state, result, failure),
    do: drain(%{state | hunt: nil, result: {:error, result}, failure: failure})

  defp drain(state) do
    state = state |> Pipes.accept() |> Result.gone()
    Process.send_after(self(), {:leash, :drained}, @drain_ms)
    drained(%{Pipes.finish_outputs(state) | phase: :draining})
  end

  @doc "One of the pipes is empty; or not yet."
  @spec drained(State.t()) :: State.t()
  def drained(%{phase: :draining, outputs: outputs} = state) when map_size(outputs) == 0,
    do: %{state | phase: :done}

  def drained(state), do: state
end
