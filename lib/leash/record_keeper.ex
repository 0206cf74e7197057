defmodule Leash.RecordKeeper do
  # Writes the run's record again if it was removed or replaced (tmp cleaners do that). If the run
  # directory could not be used at the start, it writes the first record. Without a record, only
  # the environment of living workers shows that this VM lives.
  @moduledoc false

  use GenServer

  alias Leash.Run

  # Until the record is back, a process that has dropped its environment has nothing that names
  # its owner, if VM, shim and warden end meanwhile. inotify(7) would report the loss at once. But
  # a user has 128 instances of it, which others need.
  @interval_ms 1_000

  @spec start_link(Run.t()) :: GenServer.on_start()
  def start_link(run), do: GenServer.start_link(__MODULE__, run, name: __MODULE__)

  @impl true
  def init(_run), do: {:ok, nil, @interval_ms}

  @impl true
  def handle_info(_any, state) do
    # If the directory is gone, full or not ours alone now, it may be back at the next look. The
    # run goes on meanwhile.
    _ = Run.keep()
    {:noreply, state, @interval_ms}
  end
end
