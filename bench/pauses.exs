defmodule Bench.Pauses do
  # Measures from both sides whether something keeps other processes waiting.
  #
  # `late`: On each scheduler, a process of normal priority wants to be woken every other
  # millisecond. It notes how late that was. It waits for processes in front of it. It also waits
  # for a CPU that the kernel gave to another program, such as the one whose output is read.
  # Compare it with the same work by other means.
  #
  # `stretches`: The time that the processes at work ran without a break, by the VM's trace. They
  # are the caller, the processes that it starts, and their ports. A NIF that does not return is a
  # long stretch, and so is a loop of calls that do not count as work. The kernel may take the CPU
  # away in the middle of a stretch. If the 99th percentile is short, the VM is not the cause of
  # the longest one.
  @moduledoc false

  alias Bench.Stats

  @doc "Runs a function and returns `%{late: µs of each tick, stretches: µs of each}`."
  def during(function) do
    tickers =
      for scheduler <- 1..System.schedulers_online() do
        # `scheduler` is not documented. The ticker checks that the VM obeys it.
        :erlang.spawn_opt(fn -> tick(scheduler, next(), []) end, [
          :link,
          scheduler: scheduler,
          min_heap_size: 100_000
        ])
      end

    stretches = traced(function)
    %{late: Enum.flat_map(tickers, &ask/1), stretches: stretches}
  end

  defp traced(function) do
    tracer = spawn_link(fn -> note(%{}, []) end)
    how = [:monotonic_timestamp, tracer: tracer]
    :erlang.trace(self(), true, [:running, :set_on_spawn | how])
    :erlang.trace(:new_ports, true, [:running_ports | how])
    function.()
    :erlang.trace(:new_ports, false, [:all])
    :erlang.trace(self(), false, [:all])
    reference = :erlang.trace_delivered(:all)

    receive do
      {:trace_delivered, :all, ^reference} -> ask(tracer)
    end
  end

  @doc "Joins several rounds into one."
  def merge(rounds) do
    for key <- [:late, :stretches], into: %{}, do: {key, Enum.flat_map(rounds, & &1[key])}
  end

  @doc "Returns how much longer than others it takes at a percentile; 100 is the longest."
  def ratio(ours, theirs, percent) do
    Stats.round_to(Stats.percentile(ours, percent) / max(Stats.percentile(theirs, percent), 1), 2)
  end

  @doc "Returns median, 99th percentile and maximum."
  def text(times), do: "#{ms(times, 50)} / #{ms(times, 99)} / #{ms(times, 100)} ms"

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

  defp note(running, stretches) do
    receive do
      {:trace_ts, who, :in, _where, at} ->
        note(Map.put(running, who, at), stretches)

      {:trace_ts, who, :out, _where, at} when is_map_key(running, who) ->
        {began, running} = Map.pop(running, who)
        note(running, [(at - began) / 1_000 | stretches])

      {:stop, from} ->
        send(from, {self(), stretches})

      _other ->
        note(running, stretches)
    end
  end

  defp ask(pid) do
    send(pid, {:stop, self()})

    receive do
      {^pid, answer} -> answer
    end
  end
end
