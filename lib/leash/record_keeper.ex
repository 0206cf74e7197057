defmodule Leash.RecordKeeper do
  # Writes the run's record again when somebody removed or replaced it (tmp cleaners do): without a
  # record, only the environment of living workers still says that this VM lives.
  @moduledoc false

  use GenServer

  alias Leash.{Native, Run}

  # Until it is back, a process that has dropped its environment has nothing that names its owner, should VM, shim and
  # warden end meanwhile. inotify(7) would tell of it at once, but a user has 128 instances of it, which others need.
  @interval_ms 1_000

  @spec start_link(Run.t()) :: GenServer.on_start()
  def start_link(run), do: GenServer.start_link(__MODULE__, run, name: __MODULE__)

  @impl true
  def init(%Run{lock: {:ok, lock}}), do: {:ok, lock, @interval_ms}
  def init(%Run{lock: {:error, _reason}}), do: :ignore

  @impl true
  def handle_info(:timeout, lock) do
    # A directory that is gone or full now may be back at the next look; the run goes on meanwhile.
    _ = Native.run_ensure(lock)
    {:noreply, lock, @interval_ms}
  end

  def handle_info(_other, lock), do: {:noreply, lock, @interval_ms}
end
