defmodule Bench.Scan do
  # One look at every process for its mark, beside the system calls that it needs and `pgrep -f`,
  # which reads every command line. It also measures how long other processes wait in a VM that
  # sweeps.
  @moduledoc false

  alias Bench.{Alone, Herd, Pauses, Row, Stats}

  @sizes [1_000, 5_000, 20_000]
  @rounds 5
  @pauses 9

  def rows, do: Enum.flat_map(@sizes, &Herd.with_herd(size(&1), fn -> rows(&1) end))

  # The herd of a trial is smaller than the row says.
  defp size(size), do: if(Stats.rounds(50) == 50, do: size, else: div(size, 20))

  defp rows(size) do
    samples = Stats.interleave([ours: &scan/0, pgrep: &pgrep/0], Stats.rounds(@rounds))
    median = fn field -> Stats.median(Enum.map(samples.ours, & &1[field])) / 1_000 end

    [
      %Row{
        key: :"scan_#{size}",
        what: "mark scan, #{size} processes and the machine's own",
        unit: "ms",
        ours: median.("marks_us"),
        beside: [
          {"getdents + prlimit", median.("floor_us")},
          {"`pgrep -f`", Stats.median(samples.pgrep) / 1_000}
        ],
        aims: [{:ratio, 1.15}, {:faster_than, "`pgrep -f`", 25}]
      },
      %Row{
        key: :"scan_all_#{size}",
        what: "a look of the start-up sweep, which reads argv and environ too, #{size} processes",
        unit: "ms",
        ours: median.("all_us")
      }
    ] ++ if(size == List.last(@sizes), do: [pause(size)], else: [])
  end

  # Runs the core's own example, which only scans. The start of the example does not count, but
  # that of pgrep does, because each use pays for it.
  defp scan do
    {text, 0} = System.cmd(System.fetch_env!("LEASH_BENCH_SCAN"), [])

    for [_all, name, value] <- Regex.scan(~r/^(\w+_us) (\d+)$/m, text),
        into: %{},
        do: {name, String.to_integer(value)}
  end

  defp pgrep do
    pgrep =
      System.find_executable("pgrep") || raise "pgrep is not installed: apt-get install procps"

    Stats.time(fn ->
      # Status 1 means that pgrep found nothing.
      {"", 1} = System.cmd(pgrep, ["-f", "--", "--run-id=n0thing"])
    end)
  end

  # The longest wait of another process, in the median of the rounds. The kernel takes a CPU away
  # now and then from an idle VM, too.
  defp pause(size) do
    sweep = fn ->
      {:ok, _report} = Leash.sweep(mode: :report)
      :ok
    end

    took = max(round(Stats.time(sweep) / 1_000), 1)

    samples =
      [sweep: sweep, idle: fn -> Process.sleep(took) end]
      |> Enum.map(fn {name, function} ->
        {name, fn -> Alone.run!(fn -> Enum.max(Pauses.during(function).late) end) end}
      end)
      |> Stats.interleave(Stats.rounds(@pauses))

    %Row{
      key: :pause,
      what: "longest wait of others during a sweep at #{size} processes",
      unit: "ms",
      ours: Stats.median(samples.sweep) / 1_000,
      beside: [{"idle VM for as long", Stats.median(samples.idle) / 1_000}],
      note: "the sweep takes #{took} ms",
      aims: [{:more, 1}]
    }
  end
end
