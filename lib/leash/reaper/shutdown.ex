defmodule Leash.Reaper.Shutdown do
  # The stop of the application, after every application that depends on it. Everything that is
  # left ends now, in parallel and under one deadline.
  @moduledoc false

  alias Leash.{Cleanup, Native, Registry, Run}
  alias Leash.Shim.Handle
  alias Leash.Reaper.{Orphans, Verification}
  alias Leash.Worker.Protocol

  # The time from QUIT to KILL of a shim, and from there to the look at what it left.
  @stuck_ms 1_000

  @doc "Ends everything. `all_gone?/0` returns whether that was proven."
  @spec run(Run.t()) :: :ok
  def run(run) do
    living = for row <- Registry.all(), row.tree != :gone, do: Handle.of_row(row, run)
    {lasting, rows} = Enum.split_with(living, &lasts?/1)
    fds = for %{shim_fd: fd, number: number} <- rows, fd != nil, do: {number, fd}

    longest = rows |> Enum.map(&Orphans.patience(&1, :ladder)) |> Enum.max(fn -> 0 end)
    bound = min(longest, run.config.stop_timeout)

    # A Worker that ends its tree itself exits with :shutdown, and not with how its program took
    # the signal.
    for %{kind: kind, pid: pid, number: number} <- rows,
        kind != :command,
        do: Protocol.fail_unhealthy(pid, number, :shutdown)

    Enum.each(rows, fn row ->
      if row.tree == :alive and row.shim_fd != nil,
        do: Handle.tell(row.number, row.shim_fd, :ladder)
    end)

    waiting = for {number, fd} <- fds, monitored?(number, fd), into: %{}, do: {number, fd}

    _stuck =
      waiting
      |> await_shims(bound)
      |> signal_all(:kill)
      |> await_shims(@stuck_ms)
      |> signal_all(:sigkill)
      |> await_shims(@stuck_ms)

    # Unseen shims, dead shims and their orphans: everything of this run that still has a tag.
    lasting_numbers = for %{number: number} <- lasting, do: number
    numbers = for(%{number: number} <- Registry.all(), do: number) -- lasting_numbers
    gone? = numbers == [] or verified?(run, numbers)
    # The record stays as long as a tree of the run does.
    gone? = gone? and not Enum.any?(lasting, &(&1.outlives == :own))
    :persistent_term.put({__MODULE__, :all_gone?}, gone?)
  end

  # Trees that outlive this run on purpose, and whose end has not begun.
  defp lasts?(%{outlives: nil}), do: false
  defp lasts?(%{outlives: :own, tree: :ending}), do: false
  defp lasts?(%{outlives: :own, shim_fd: nil}), do: false
  defp lasts?(%{outlives: :own, shim_fd: fd}), do: Native.pidfd_ended?(fd) == false
  defp lasts?(_of_another_run), do: true

  defp monitored?(number, fd), do: Native.pidfd_monitor(fd, {:shim_ended, number}) == :ok

  defp signal_all(waiting, how) do
    Enum.each(waiting, fn {_number, fd} -> Handle.signal(fd, how) end)
    waiting
  end

  defp await_shims(waiting, ms),
    do: await_until(waiting, System.monotonic_time(:millisecond) + ms)

  defp await_until(waiting, _deadline) when map_size(waiting) == 0, do: waiting

  defp await_until(waiting, deadline) do
    receive do
      {:shim_ended, number} -> waiting |> Map.delete(number) |> await_until(deadline)
    after
      max(0, deadline - System.monotonic_time(:millisecond)) -> waiting
    end
  end

  defp verified?(run, numbers) do
    case Cleanup.run(Cleanup.of_workers(run, numbers)) do
      {:ok, %{survivors: []} = report} ->
        Cleanup.own_seen?(report)

      {:ok, %{survivors: survivors}} ->
        Verification.log_survivors(survivors)
        false

      {:error, _reason} ->
        false
    end
  end

  @doc "Returns whether the last stop proved that nothing of the run is left. Call it once."
  @spec all_gone?() :: boolean()
  def all_gone? do
    gone? = :persistent_term.get({__MODULE__, :all_gone?}, false)
    _ = :persistent_term.erase({__MODULE__, :all_gone?})
    gone?
  end
end
