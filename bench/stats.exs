defmodule Bench.Stats do
  # Computes ratios from one run. All contestants take turns in each round, so that other load on
  # the machine falls on each of them alike.
  @moduledoc false

  @doc """
  Returns the number of rounds, or workers: few if `LEASH_BENCH_QUICK` says that this is a trial.
  """
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

  @doc "Returns the microseconds that a function took."
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
