defmodule Leash.Reaper.State do
  # The Reaper's state of the trees, beyond the table of workers.
  @moduledoc false

  alias Leash.{Group, Registry, Run}

  @type t :: %{
          run: Run.t(),
          monitors: %{optional(reference()) => pos_integer()},
          watched: %{optional(pos_integer()) => reference()},
          ending: %{optional(pos_integer()) => reference() | nil},
          hunting: {pid(), reference(), [pos_integer()]} | nil,
          to_verify: MapSet.t(pos_integer()),
          look_again: reference() | nil,
          later: MapSet.t(pos_integer()),
          hunt_began: integer(),
          hunt_took: integer(),
          failures: non_neg_integer(),
          group_locks: %{optional(reference()) => {pid(), Group.t() | :all}},
          left: MapSet.t(pos_integer()),
          waiting: [registration()]
        }

  @typedoc """
  A start that waits for ending trees. It wants a number, or the word that they are gone. `timer`
  ends the wait.
  """
  @type registration :: %{
          numbers: MapSet.t(pos_integer()),
          wants: {:number, Registry.description()} | :word,
          from: GenServer.from(),
          timer: reference() | nil
        }

  @doc "Returns the state of a run that has no trees yet."
  @spec new(Run.t()) :: t()
  def new(run) do
    %{
      run: run,
      # Monitor => number while the Worker lives, and the reverse.
      monitors: %{},
      watched: %{},
      # Numbers whose shim is awaited => its timer.
      ending: %{},
      # Numbers to be proven gone: by the hunt under way, and by the next.
      hunting: nil,
      to_verify: MapSet.new(),
      # The timer of the next look at what ended in order, and the numbers that wait for it.
      look_again: nil,
      later: MapSet.new(),
      # When the hunt under way began, and how long a pass of the last one took.
      hunt_began: 0,
      hunt_took: 0,
      # The number of hunts that failed in a row.
      failures: 0,
      # The processes that are stopping a group: monitor => {pid, group}.
      group_locks: %{},
      # Detached trees that live on without a Worker.
      left: MapSet.new(),
      # Starts whose claims an ending tree holds, the latest first.
      waiting: []
    }
  end

  @doc "Sends a message to the processes that are stopping groups."
  @spec tell_stoppers(t(), term()) :: :ok
  def tell_stoppers(state, message),
    do: Enum.each(state.group_locks, fn {_monitor, {pid, _group}} -> send(pid, message) end)
end
