defmodule Bench.List do
  # The cost of looking at many workers, for tools that list and draw them. A guard looks once a
  # second.
  #
  # The look itself runs on a dirty scheduler, where it is the caller's longest stretch without a
  # break. The measure for other processes is how late they are woken meanwhile.
  @moduledoc false

  alias Bench.{Pauses, Stats}

  @sizes [100, 1_000]
  # The number for each worker, without its shim.
  @processes 5
  @rounds 15

  def rows do
    Enum.flat_map(@sizes, fn size ->
      workers = start(size)

      try do
        rows(size)
      after
        {:ok, _stopped} = Leash.stop_all(__MODULE__, deadline: 10_000)

        for {pid, monitor} <- workers,
            do: receive(do: ({:DOWN, ^monitor, :process, ^pid, _} -> :ok))
      end
    end)
  end

  defp rows(size) do
    calls = [
      list: fn -> Leash.list() end,
      tree: fn -> Leash.tree() end,
      table: fn -> Leash.list(usage: false) end,
      guard: fn -> Leash.Usage.sums(Leash.Registry.living(:all)) end
    ]

    samples =
      calls
      |> Enum.map(fn {name, call} -> {name, fn -> Stats.time(call) end} end)
      |> Stats.interleave(Stats.rounds(@rounds))

    pauses = Pauses.during(fn -> for _ <- 1..@rounds, {_name, call} <- calls, do: call.() end)
    idle = Pauses.during(fn -> Process.sleep(1_000) end)

    rows =
      for {name, what} <- [
            list: "`Leash.list()`",
            tree: "`Leash.tree()`",
            table: "`Leash.list(usage: false)`",
            guard: "a look of the guard"
          ] do
        %{
          what: "#{what}, #{size} workers, #{processes(size)} processes",
          ours: "#{ms(Stats.median(samples[name]))} ms",
          beside: "longest #{ms(Enum.max(samples[name]))} ms",
          ratio: "—",
          aim: if(size == 1_000 and name != :guard, do: "< 50 ms", else: "—")
        }
      end

    rows ++
      [
        %{
          what: "others' ticks late meanwhile (median / 99% / max), #{size} workers",
          ours: Pauses.text(pauses.late),
          beside: "with nothing to do #{Pauses.text(idle.late)}",
          ratio: "—",
          aim: "—"
        },
        %{
          what:
            "stretches of the caller, the look on a dirty scheduler included, #{size} workers",
          ours: Pauses.text(pauses.stretches),
          beside: "—",
          ratio: "—",
          aim: "—"
        }
      ]
  end

  defp processes(size), do: Leash.list() |> Enum.map(& &1.processes) |> Enum.sum() |> check(size)
  defp check(sum, size) when sum == size * @processes, do: sum

  defp start(size) do
    line = String.duplicate("sleep 300 & ", @processes - 1) <> "echo up; wait"

    options = [
      shell: line,
      ready: ~r/up/,
      group: __MODULE__,
      on_output: fn _, _ -> :ok end,
      stop: []
    ]

    1..size
    |> Task.async_stream(
      fn _ ->
        {:ok, worker} = Leash.Worker.start_link(options)
        # The worker has to outlive this task.
        Process.unlink(worker)
        worker
      end,
      max_concurrency: 4,
      timeout: 60_000
    )
    |> Enum.map(fn {:ok, worker} -> {worker, Process.monitor(worker)} end)
  end

  defp ms(microseconds), do: Stats.round_to(microseconds / 1_000, 1)
end
