defmodule Leash.Application do
  # One run: from a free id and the sweep of earlier runs to the proof that nothing is left.
  @moduledoc false

  use Application

  require Logger

  alias Leash.{Config, Reaper, Run, Supervisor, Sweep}

  @impl true
  def start(_type, _arguments) do
    # The record comes first, so that others see a living run from now on; the sweep comes before
    # the Reaper, without which no worker can start.
    with {:ok, config} <- Config.load(),
         {:ok, run} <- Run.open(config) do
      warn_of_lost_record(run)
      sweep(config)

      with {:ok, pid} <- Supervisor.start_link(run), do: {:ok, pid, run}
    end
  end

  @impl true
  def stop(run), do: Run.close(run, Reaper.Shutdown.all_gone?())

  defp warn_of_lost_record(%Run{lock: {:ok, _lock}}), do: :ok

  defp warn_of_lost_record(%Run{lock: {:error, reason}, config: config}) do
    Logger.warning(
      "Leash runs without a record, because #{config.run_dir} cannot be used (#{inspect(reason)}): " <>
        "after a crash only the environment of what is left says whose it was"
    )
  end

  defp sweep(%{sweep: false}), do: :ok

  defp sweep(config) do
    case Sweep.run(config.sweep) do
      {:ok, report} -> Sweep.log(report)
      # A start must not fail because somebody else's processes cannot be looked at.
      {:error, reason} -> Logger.warning("Leash could not sweep at start: #{inspect(reason)}")
    end
  end
end
