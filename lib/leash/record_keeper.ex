defmodule Leash.RecordKeeper do
  # Writes the run's record again if it was removed or replaced (tmp cleaners do that). If the run
  # directory could not be used at the start, it writes the first record. Without a record, only
  # the environment of living workers shows that this VM lives.
  #
  # It also writes the names of new workers. A start does not wait for that, and a name that a
  # crash takes along costs an operator a word.
  @moduledoc false

  use GenServer

  alias Leash.{Registry, Run}

  # Until the record is back, a process that has dropped its environment has nothing that names
  # its owner, if VM, shim and warden end meanwhile. inotify(7) would report the loss at once. But
  # a user has 128 instances of it, which others need.
  @interval_ms 1_000

  @spec start_link(Run.t()) :: GenServer.on_start()
  def start_link(run), do: GenServer.start_link(__MODULE__, run, name: __MODULE__)

  @impl true
  def init(_run), do: {:ok, MapSet.new(), @interval_ms}

  @impl true
  def handle_info(_any, written) do
    # If the directory is gone, full or not ours alone now, it may be back at the next look. The
    # run goes on meanwhile.
    _ = Run.keep()
    {:noreply, note_names(written), @interval_ms}
  end

  defp note_names(written) do
    for {number, name, group} = named <- Registry.named(),
        MapSet.member?(written, named) or Run.note_name(number, name, group) == :ok,
        into: MapSet.new(),
        do: named
  end
end
