defmodule Bench.Many do
  # Starts very many workers at once, each for a process of its own, and stops them at once. Both
  # times end when the kernel reports that all are there, or that the last is gone
  # (bench/muster.c). The libraries' own reports do not count.
  @moduledoc false

  alias Bench.{Alone, Muster, Peers, Row, Stats}

  @many 1_000
  @rounds 5

  def rows do
    many = Stats.rounds(@many)
    contestants = [leash: leash(), port: port()] ++ peers()
    measure = fn {name, it} -> {name, fn -> Alone.sample(fn -> sample(it, many) end) end} end
    samples = contestants |> Enum.map(measure) |> Stats.interleave(Stats.rounds(@rounds))

    for {index, key, what, aims} <- [
          {0, :many_start, "#{many} workers started at once, until all run", [{:ratio, 1.0}]},
          {1, :many_stop, "the #{many} stopped at once, until all are gone", [:below_all]}
        ] do
      cells =
        for {name, _it} <- peers(), into: %{} do
          {name, samples[name] |> Enum.map(&at(&1, index)) |> Alone.cell(1_000)}
        end

      %Row{
        key: key,
        what: what,
        unit: "ms",
        ours: ms(samples.leash, index),
        beside: [{"bare `Port`s, of programs that end with their stdin", ms(samples.port, index)}],
        aims: aims,
        peers: cells
      }
    end
  end

  defp ms(samples, index), do: Stats.median(Enum.map(samples, &elem(&1, index))) / 1_000
  defp at({:failed, _reason} = failed, _index), do: failed
  defp at(sample, index), do: elem(sample, index)

  defp peers, do: for({name, _label, %{daemon: _} = it} <- Peers.columns(), do: {name, it})

  defp leash do
    %{
      how: "",
      daemon: fn {program, args} ->
        {:ok, worker} =
          Leash.Worker.start_link(
            command: program,
            args: args,
            group: __MODULE__,
            on_output: fn _stream, _text -> :ok end
          )

        worker
      end,
      stop: nil
    }
  end

  # A port can do no more to a program than close its stdin.
  defp port do
    %{
      how: "stdin",
      daemon: fn {program, args} ->
        Port.open({:spawn_executable, program}, [:binary, :hide, args: args])
      end,
      stop: &Port.close/1
    }
  end

  defp sample(it, many) do
    muster = Muster.open(many)
    program = Muster.member(muster, Map.get(it, :how, ""))
    owners = for _ <- 1..many, do: spawn_link(fn -> own(it, program) end)

    started =
      Stats.time(fn ->
        Enum.each(owners, &send(&1, :start))
        Muster.up(muster)
      end)

    monitors = Enum.map(owners, &Process.monitor/1)

    stopped =
      Stats.time(fn ->
        if it.stop,
          do: Enum.each(owners, &send(&1, :stop)),
          else: {:ok, _stopped} = Leash.stop_all(__MODULE__, deadline: 60_000)

        Muster.gone(muster)
      end)

    Enum.each(owners, &send(&1, :done))
    for monitor <- monitors, do: receive(do: ({:DOWN, ^monitor, _, _, _} -> :ok))
    {started, stopped}
  end

  defp own(it, program) do
    Process.flag(:trap_exit, true)
    receive do: (:start -> :ok)
    handle = it.daemon.(program)
    leftover = it[:leftover] && it.leftover.(handle)

    receive do
      :stop ->
        it.stop.(handle)
        receive do: (:done -> :ok)

      :done ->
        :ok
    end

    if leftover, do: Process.exit(leftover, :kill)
  end
end
