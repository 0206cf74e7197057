defmodule Leash.Guard.Watch do
  # The state that a guard keeps of one worker, and its check at each look. Times are monotonic
  # milliseconds.
  @moduledoc false

  alias Leash.{Guard, Usage}

  @enforce_keys [:spec, :began, :due, :active_at]
  defstruct [:spec, :began, :due, :active_at, seen: nil, breached: []]

  @type t :: %__MODULE__{
          spec: Guard.spec(),
          began: integer(),
          due: integer(),
          active_at: integer(),
          # CPU time and bytes of output at the last look.
          seen: {non_neg_integer(), non_neg_integer()} | nil,
          # Limits that were exceeded at the last look, and have been reported.
          breached: [Guard.limit()]
        }

  # The order in which several exceeded limits are reported.
  @limits [:processes, :rss, :lifetime, :idle]

  @doc "Returns a watch over a worker that began at this time."
  @spec new(Guard.spec(), integer(), integer()) :: t()
  def new(spec, began, now),
    do: %__MODULE__{spec: spec, began: began, due: due(spec, now), active_at: now}

  @doc "Returns the watch after a look, for the next one."
  @spec again(t(), integer()) :: t()
  def again(%__MODULE__{} = watch, now), do: %{watch | due: due(watch.spec, now)}

  # All watches with the same interval are due at the same time, so that one look covers them all.
  defp due(%{every: every}, now), do: (Integer.floor_div(now, every) + 1) * every

  @doc "Returns whether the check needs a look at `/proc`."
  @spec needs_look?(t()) :: boolean()
  def needs_look?(%{spec: %{limits: limits}}),
    do: Enum.any?([:processes, :rss, :idle], &is_map_key(limits, &1))

  @doc """
  Compares with the limits. If `sums` is nil, the look failed, and only time counts.

  A breach is new until the value is within its limit again.
  """
  @spec check(t(), Usage.sums() | nil, integer()) :: {[Guard.breach()], t()}
  def check(%__MODULE__{} = watch, sums, now) do
    watch = active(watch, sums, now)

    over =
      for limit <- @limits,
          max = watch.spec.limits[limit],
          value = value(limit, watch, sums, now),
          over?(limit, value, max),
          do: %{limit: limit, max: max, value: value}

    # A limit that could not be checked stays as it was.
    unknown = if sums, do: [], else: watch.breached -- [:lifetime]
    new = Enum.reject(over, &(&1.limit in watch.breached))
    {new, %{watch | breached: Enum.map(over, & &1.limit) ++ unknown}}
  end

  defp active(watch, nil, _now), do: watch

  defp active(%{spec: spec} = watch, sums, now) do
    seen = {sums.cpu, output(spec.traffic)}
    active_at = if seen == watch.seen, do: watch.active_at, else: now
    %{watch | seen: seen, active_at: active_at}
  end

  defp output(nil), do: 0
  defp output(traffic), do: :counters.get(traffic, 1)

  defp value(:lifetime, watch, _sums, now), do: now - watch.began
  defp value(_limit, _watch, nil, _now), do: nil
  defp value(:idle, watch, _sums, now), do: now - watch.active_at
  defp value(limit, _watch, sums, _now), do: Map.fetch!(sums, limit)

  defp over?(limit, value, max) when limit in [:lifetime, :idle], do: value >= max
  defp over?(_limit, value, max), do: value > max
end
