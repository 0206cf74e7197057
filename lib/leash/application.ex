defmodule Leash.Application do
  # One run, from a free id and the sweep of earlier runs to the proof that nothing is left.
  @moduledoc false

  use Application

  require Logger

  alias Leash.{Config, Degraded, Error, Native, Platform, Priv, Reaper, Run, Supervisor, Sweep}
  alias Leash.Shim.Handle

  @impl true
  def start(_type, _arguments),
    do: if(Platform.supported?(), do: start_run(), else: start_without_run())

  defp start_run do
    # The record comes first, so that other runs see a living run from now on. The sweep comes
    # before the Reaper, without which no worker can start.
    with :ok <- load_library(),
         {:ok, config} <- load_config(),
         {:ok, run} <- open_run(config) do
      warn_of_lost_record(run)
      warn_of_narrow_place(Handle.find_out())
      Sweep.remember(sweep(config))

      with {:ok, pid} <- Supervisor.start_link(run), do: {:ok, pid, run}
    end
  end

  # The host application starts all the same, so that the rest of it can be worked on.
  defp start_without_run do
    with {:ok, config} <- load_config() do
      :ok = Run.none(config.unsupported_os)
      started = without_run(config.unsupported_os)
      with {:ok, pid} <- started, do: {:ok, pid, nil}
    end
  end

  defp without_run(:degrade), do: Degraded.start_link()

  defp without_run(:error),
    do: Elixir.Supervisor.start_link([], strategy: :one_for_one, name: Supervisor)

  # The code server logs the reason as text, for example a file system that is mounted noexec.
  defp load_library do
    with :ok <- Priv.check() do
      case Code.ensure_loaded(Native) do
        {:module, Native} -> :ok
        {:error, reason} -> exception(%Error{reason: {:native_library, reason}})
      end
    end
  end

  defp load_config, do: with({:error, error} <- Config.load(), do: exception(error))

  defp open_run(config),
    do: with({:error, reason} <- Run.open(config), do: exception(%Error{reason: reason}))

  # As an exception with a stacktrace, the reason is a sentence in the log.
  defp exception(error), do: {:error, {error, [{__MODULE__, :start, 2, []}]}}

  @impl true
  def stop(nil), do: Run.close(false)
  def stop(_run), do: Run.close(Reaper.Shutdown.all_gone?())

  defp warn_of_lost_record(%Run{lock: {:ok, _lock}}), do: :ok

  defp warn_of_lost_record(%Run{lock: {:error, reason}, config: config}) do
    Logger.warning(
      "Leash runs without a record, because #{config.run_dir} cannot be used " <>
        "(#{inspect(reason)}): " <>
        "after a crash only the environment of what is left says whose it was; " <>
        Error.format(reason)
    )
  end

  defp warn_of_narrow_place(%{proc: true, pidfd: true}), do: :ok

  defp warn_of_narrow_place(%{proc: proc?}) do
    why = if proc?, do: "pidfds are refused", else: "there is no /proc of this pid namespace"

    Logger.warning(
      "Leash cannot hold processes here, because #{why}: " <>
        "what a killed Worker or owner leaves is ended by its ladder, ports by letting go " <>
        "of them, and what a crash of VM and shims leaves is not ended"
    )
  end

  defp sweep(%{sweep: false}), do: nil

  defp sweep(config) do
    case Sweep.run(config.sweep) do
      {:ok, report} ->
        Sweep.log(report)
        if :records in report.incomplete_because, do: warn_of_unread_records(config)
        report

      # A start must not fail because other processes cannot be inspected.
      {:error, reason} ->
        Logger.warning("Leash could not sweep at start: #{inspect(reason)}")
        nil
    end
  end

  defp warn_of_unread_records(config) do
    Logger.warning(
      "Leash could not read the records of other runs in #{config.run_dir}: what they left " <>
        "is not ended by this start"
    )
  end
end
