defmodule Leash.RecordKeeper do
  # Writes the run's record again when it was removed or replaced (tmp cleaners do that), and writes the first one where the
  # run directory could not be used at the start: without a record, only the environment of living workers says that this
  # VM lives.
  @moduledoc false

  use GenServer

  alias Leash.Run

  # Until it is back, a process that has dropped its environment has nothing that names its owner, should VM, shim and
  # warden end meanwhile. inotify(7) would tell of it at once, but a user has 128 instances of it, which others need.
  @interval_ms 1_000

  @spec start_link(Run.t()) :: GenServer.on_start()
  def start_link(run), do: GenServer.start_link(__MODULE__, run, name: __MODULE__)

  @impl true
  def init(_run), do: {:ok, nil, @interval_ms}

  @impl true
  def handle_info(_any, state) do
    # A directory that is gone, full or not ours alone now may be back at the next look; the run goes on meanwhile.
    _ = Run.keep()
    {:noreply, state, @interval_ms}
  end
end
