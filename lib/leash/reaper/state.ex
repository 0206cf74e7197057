defmodule Leash.Reaper.State do
  # What the Reaper knows of the trees, beyond the table of workers.
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
  A start that waits for trees that are ending: to be given a number, or to be told that they are
  gone; and when it has waited long enough.
  """
  @type registration :: %{
          numbers: MapSet.t(pos_integer()),
          wants: {:number, Registry.description()} | :word,
          from: GenServer.from(),
          timer: reference() | nil
        }

  @doc "Of a run that has no trees yet."
  @spec new(Run.t()) :: t()
  def new(run) do
    %{
      run: run,
      # monitor => number, while the Worker lives, and the other way round
      monitors: %{},
      watched: %{},
      # numbers whose shim is being waited for => its timer
      ending: %{},
      # numbers to be proven gone, by the hunt under way and by the next
      hunting: nil,
      to_verify: MapSet.new(),
      # the timer of the next look at what ended in order, and the numbers that wait for it
      look_again: nil,
      later: MapSet.new(),
      # when the hunt under way began, and how long a pass of the last one took
      hunt_began: 0,
      hunt_took: 0,
      # how many hunts have failed in a row
      failures: 0,
      # who stops a group at the moment: monitor => {pid, group}
      group_locks: %{},
      # detached trees that live on without a Worker
      left: MapSet.new(),
      # starts that want what a tree has that is still ending, the latest first
      waiting: []
    }
  end

  @doc "Tells those who are stopping groups."
  @spec tell_stoppers(t(), term()) :: :ok
  def tell_stoppers(state, message),
    do: Enum.each(state.group_locks, fn {_monitor, {pid, _group}} -> send(pid, message) end)
end
