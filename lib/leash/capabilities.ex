defmodule Leash.Capabilities do
  # What this machine supports, and what of that this run has.
  @moduledoc false

  alias Leash.{Cgroup, Config, Control, Native, Run, Warden}
  alias Leash.Identity.Capability

  @doc "See `Leash.capabilities/0`."
  @spec all() :: map()
  def all do
    {config, record} = place()

    config.run_dir
    |> Native.capabilities()
    |> seen()
    |> Map.merge(%{
      record: record,
      control: Control.status(),
      warden: Warden.status(),
      cgroup: Cgroup.place(config.cgroup)
    })
  end

  defp seen(%{} = capabilities),
    do: Map.update!(capabilities, :own_capabilities, &Capability.names/1)

  # No native side, see `Leash.Platform`.
  defp seen({:error, :unsupported_os}), do: %{proc: false, pidfd: false}

  defp place do
    case Run.fetch() do
      {:ok, %Run{lock: {:ok, _lock}, config: config}} -> {config, :ok}
      {:ok, %Run{lock: {:error, reason}, config: config}} -> {config, {:error, reason}}
      {:error, reason} -> {configured(), {:error, reason}}
    end
  end

  defp configured do
    case Config.load() do
      {:ok, config} -> config
      # The start of the application reports what is wrong with it.
      {:error, _wrong} -> %{run_dir: "", cgroup: nil}
    end
  end
end
