defmodule Bench.Stats do
  # Ratios from one run: rounds of all contestants in turn, so that whatever else the machine does falls on
  # each of them alike.
  @moduledoc false

  @doc "How many rounds, or workers: few where `LEASH_BENCH_QUICK` says that the bench itself is tried."
  def rounds(number) do
    if System.get_env("LEASH_BENCH_QUICK", "") == "", do: number, else: max(div(number, 50), 1)
  end

  @doc "Runs every function once a round, in another order each time, and returns its samples."
  def interleave(contestants, rounds) do
    for(
      _round <- 1..rounds,
      {name, function} <- Enum.shuffle(contestants),
      do: {name, function.()}
    )
    |> Enum.group_by(&elem(&1, 0), &elem(&1, 1))
  end

  @doc "Microseconds that a function took."
  def time(function) do
    began = System.monotonic_time(:nanosecond)
    function.()
    (System.monotonic_time(:nanosecond) - began) / 1_000
  end

  def median(samples), do: percentile(samples, 50)

  def percentile(samples, percent) do
    sorted = Enum.sort(samples)
    Enum.at(sorted, min(div(length(sorted) * percent, 100), length(sorted) - 1))
  end

  def round_to(value, digits), do: :erlang.float_to_binary(value / 1, decimals: digits)
end
