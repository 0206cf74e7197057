defmodule Bench.Pauses do
  # How long the VM keeps others waiting while something runs: on each scheduler a process of normal priority
  # wants to be woken every millisecond and notes how late that was. It waits for a NIF that does not return, for
  # processes in front of it, and for a CPU that the kernel gave to somebody else; so what counts is the
  # difference to the same work by other means, and what the VM itself reports as one stretch without a break.
  @moduledoc false

  alias Bench.Stats

  @doc "Runs a function and returns `{late, stretches}`: µs of each tick, and ms of each stretch of 1 ms and more."
  def during(function) do
    monitor = spawn_link(fn -> note_stretches([]) end)
    :erlang.system_monitor(monitor, [{:long_schedule, 1}])

    tickers =
      for scheduler <- 1..System.schedulers_online() do
        # `scheduler` is not documented; the ticker checks that it is obeyed.
        :erlang.spawn_opt(fn -> tick(scheduler, next(), []) end, [
          :link,
          scheduler: scheduler,
          min_heap_size: 100_000
        ])
      end

    function.()
    late = Enum.flat_map(tickers, &ask/1)
    :erlang.system_monitor(:undefined)
    {late, ask(monitor)}
  end

  @doc "Several rounds as one."
  def merge(rounds) do
    {Enum.flat_map(rounds, &elem(&1, 0)), Enum.flat_map(rounds, &elem(&1, 1))}
  end

  @doc "How much later than others at a percentile; 100 is the longest."
  def ratio({ours, _}, {theirs, _}, percent) do
    Stats.round_to(Stats.percentile(ours, percent) / max(Stats.percentile(theirs, percent), 1), 2)
  end

  @doc "Median, 99th percentile and maximum, and the stretches without a break."
  def text({late, stretches}) do
    "#{ms(late, 50)} / #{ms(late, 99)} / #{ms(late, 100)} ms" <>
      case stretches do
        [] -> ""
        _some -> ", #{length(stretches)} stretches up to #{Enum.max(stretches)} ms"
      end
  end

  defp ms(late, percent), do: Stats.round_to(Stats.percentile(late, percent) / 1_000, 2)

  defp next, do: System.monotonic_time(:millisecond) + 2

  defp tick(scheduler, at, late) do
    timer = :erlang.start_timer(at, self(), :tick, abs: true)

    receive do
      {:timeout, ^timer, :tick} ->
        now = System.monotonic_time(:microsecond)
        ^scheduler = :erlang.system_info(:scheduler_id)
        tick(scheduler, next(), [now - at * 1_000 | late])

      {:stop, from} ->
        send(from, {self(), late})
    end
  end

  defp note_stretches(stretches) do
    receive do
      {:monitor, _who, :long_schedule, info} -> note_stretches([info[:timeout] | stretches])
      {:stop, from} -> send(from, {self(), stretches})
    end
  end

  defp ask(pid) do
    send(pid, {:stop, self()})

    receive do
      {^pid, answer} -> answer
    end
  end
end
