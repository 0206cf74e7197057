defmodule Leash.Shim.Escalation do
  # Decides how hard a tree is ended, and what comes next if it has not ended in its time. A
  # Worker, an adopted tree and the Reaper share this one policy:
  #
  #   ladder ──its length + 1 s──▶ kill (asked for, or QUIT) ──1 s──▶ sigkill (of the shim)
  #   ──1 s──▶ the warden's word, and a look by the tags
  #
  # The module only decides, so that the same numbers bound all three.
  @moduledoc false

  # The time of a step beyond its own: signals are delivered in microseconds, but a busy machine
  # schedules late.
  @slack_ms 1_000
  # The wait for the warden's word, and the hunt by tags with a deadline of its own. Then the
  # Worker reports what it found, and the pipes are drained.
  @proof_ms 10_000

  @typedoc "The last request to a shim."
  @type stage :: :ladder | :kill | :sigkill

  @doc """
  Returns how hard a tree is ended for an exit reason of its owner or Worker.

  `on_crash` is the option of that name.
  """
  @spec how(term(), :ladder | :kill) :: :ladder | :kill
  def how(:normal, _on_crash), do: :ladder
  def how(:shutdown, _on_crash), do: :ladder
  def how({:shutdown, _}, _on_crash), do: :ladder
  def how(_crash, on_crash), do: on_crash

  @doc "Returns the milliseconds that a stage may take. `duration` is the length of the ladder."
  @spec bound(stage(), timeout()) :: timeout()
  def bound(:ladder, :infinity), do: :infinity
  def bound(:ladder, duration), do: duration + @slack_ms
  def bound(_signalled, _duration), do: @slack_ms

  @doc """
  Returns what comes after the time of a stage: a request to the shim, or a look for the tags.
  """
  @spec next(stage()) :: {:tell, stage()} | :look
  def next(:ladder), do: {:tell, :kill}
  def next(:kill), do: {:tell, :sigkill}
  def next(:sigkill), do: :look

  @doc "Returns the milliseconds from the beginning of an end to its result, in the worst case."
  @spec total(timeout()) :: timeout()
  def total(:infinity), do: :infinity
  def total(duration), do: bound(:ladder, duration) + 2 * @slack_ms + @proof_ms
end
