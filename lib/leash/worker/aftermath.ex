defmodule Leash.Worker.Aftermath do
  # From the end of the shim to the end of this process: proof that nothing is left, and what the pipes still hold.
  @moduledoc false

  alias Leash.{Exit, Hunt, Native, Telemetry}
  alias Leash.Worker.{Pipes, Result, State}

  require Logger

  # What the rest of an exit takes at most on a busy machine.
  @exit_ms 1_000

  # How long this process waits for handlers to take what the pipes still hold after the end; they
  # go on by themselves afterwards.
  @drain_ms 1_000

  @doc """
  The shim is gone.

  Its last report is the kernel's word that the tree is; without it, the warden's word is asked
  for, then the tags are looked for.
  """
  @spec shim_gone(State.t()) :: State.t()
  def shim_gone(%{phase: phase} = state) when phase in [:hunting, :draining, :done], do: state
  # It stays with what it has kept.
  def shim_gone(%{result: {:ok, %Exit{cause: :kept}}} = state), do: drain(state)
  def shim_gone(%{result: {:ok, _exit}} = state), do: await_end(state)

  def shim_gone(state) do
    hunt = Hunt.start(Hunt.of_workers(state.run, [state.number]), state.shim_fd || :unknown)
    %{state | phase: :hunting, hunt: hunt, failure: state.failure || :shim_died}
  end

  # It lets go of its channel in the middle of its exit, and after a stop no shim is to be found.
  # By a descriptor of its own: of one only one process at a time is told, and the Reaper may wait for that of the table.
  defp await_end(%{shim_fd: fd} = state) do
    with true <- fd != nil and Native.pidfd_ended?(fd) == false,
         {:ok, own} <- Native.fd_dup(fd),
         :ok <- Native.pidfd_monitor(own, {:leash, :shim_ended}) do
      _timer = Process.send_after(self(), {:leash, :shim_ended}, @exit_ms)
      %{state | phase: :ending}
    else
      _ended_or_unknown -> drain(state)
    end
  end

  @doc "The shim has ended, or taken too long for that."
  @spec shim_ended(State.t()) :: State.t()
  def shim_ended(%{phase: phase, channel: nil, result: {:ok, _exit}} = state)
      when phase not in [:draining, :done],
      do: drain(state)

  def shim_ended(state), do: state

  @doc "What the hunt for the tree's tags ended with."
  @spec hunted(State.t(), term()) :: State.t()
  def hunted(state, result)

  # Nothing was found, and not everything was seen: that proves no end, but the warden's word does.
  def hunted(state, {:shutdown, {:ok, %{survivors: []} = report}}) do
    if report.complete or (report.word == state.warden and descends?(state)),
      do: gone(state),
      else: hunted(state, {:incomplete, report.incomplete_because})
  end

  def hunted(state, {:shutdown, {:ok, %{survivors: survivors}}}),
    do: left(state, survivors)

  # It was tried several times. The Reaper goes on trying, and keeps the number until it succeeds.
  def hunted(state, failure) do
    reason = reason(failure)
    log_failure(state, reason)
    unended(state, %{survivors: [], unproven: reason}, {:unproven, reason})
  end

  # What was attached is not below its shim, and what outlives its VM is spared.
  defp descends?(state), do: state.attachment == nil and state.options.on_exit != :detach

  defp gone(state) do
    exit = %Exit{cause: :shim_died, os_pid: state.os_pid}

    exit =
      case state.exited do
        {:status, status} -> %Exit{exit | status: status}
        {:signal, signal} -> %Exit{exit | signal: signal}
        :unknown -> exit
        nil -> %Exit{exit | signal: :sigkill}
      end

    drain(%{state | hunt: nil, result: {:ok, exit}})
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
    state = Result.gone(state)
    Process.send_after(self(), {:leash, :drained}, @drain_ms)
    drained(%{Pipes.finish_outputs(state) | phase: :draining})
  end

  @doc "One of the pipes is empty; or not yet."
  @spec drained(State.t()) :: State.t()
  def drained(%{phase: :draining, outputs: outputs} = state) when map_size(outputs) == 0,
    do: %{state | phase: :done}

  def drained(state), do: state
end
