defmodule Leash.Pool.Stopper do
  # The last child of a pool, which its supervisor ends first. It ends all workers together, so
  # that the supervisor finds them gone.
  @moduledoc false

  use GenServer

  require Logger

  @doc "Returns its child specification."
  @spec child_spec(Leash.group(), timeout(), timeout()) :: Supervisor.child_spec()
  def child_spec(group, deadline, shutdown) do
    %{
      id: __MODULE__,
      start: {GenServer, :start_link, [__MODULE__, {group, deadline}]},
      shutdown: shutdown
    }
  end

  @impl true
  def init(state) do
    Process.flag(:trap_exit, true)
    {:ok, state}
  end

  @impl true
  def terminate(_reason, {group, deadline}) do
    with {:error, stopped} <- Leash.stop_all(group, deadline: deadline) do
      for %{label: label, result: {:error, error}} <- stopped,
          do: Logger.error("#{label} could not be ended: #{Leash.Error.format(error)}")
    end
  end
end
