defmodule Leash.Shim.Escalation do
  # How hard a tree is ended, and what comes when it has not ended in its time. The one policy of
  # a Worker, an adopted tree, and the Reaper:
  #
  #   ladder ──its length + 1 s──▶ kill (asked for, or QUIT) ──1 s──▶ sigkill (of the shim)
  #   ──1 s──▶ the warden's word, and a look by the tags
  #
  # It decides and does nothing, so that each of them is bounded by the same numbers.
  @moduledoc false

  # What a step may take beyond its own time: signals are delivered in microseconds, and a busy
  # machine schedules late.
  @slack_ms 1_000
  # The warden's word is waited for, and the hunt by tags has a deadline of its own; then the Worker says what it found, and the pipes
  # are drained.
  @proof_ms 10_000

  @typedoc "What a shim was told last."
  @type stage :: :ladder | :kill | :sigkill

  @doc """
  How hard a tree is ended for an exit reason of its owner or Worker. `on_crash` is the option of
  that name.
  """
  @spec how(term(), :ladder | :kill) :: :ladder | :kill
  def how(:normal, _on_crash), do: :ladder
  def how(:shutdown, _on_crash), do: :ladder
  def how({:shutdown, _}, _on_crash), do: :ladder
  def how(_crash, on_crash), do: on_crash

  @doc "Milliseconds that a stage may take; `duration` is the length of the ladder."
  @spec bound(stage(), timeout()) :: timeout()
  def bound(:ladder, :infinity), do: :infinity
  def bound(:ladder, duration), do: duration + @slack_ms
  def bound(_signalled, _duration), do: @slack_ms

  @doc """
  What comes after the time of a stage: the shim is told more, or its tags are looked for.
  """
  @spec next(stage()) :: {:tell, stage()} | :look
  def next(:ladder), do: {:tell, :kill}
  def next(:kill), do: {:tell, :sigkill}
  def next(:sigkill), do: :look

  @doc "Milliseconds from the beginning of an end to its result, whatever is in the way."
  @spec total(timeout()) :: timeout()
  def total(:infinity), do: :infinity
  def total(duration), do: bound(:ladder, duration) + 2 * @slack_ms + @proof_ms
end
