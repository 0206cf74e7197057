defmodule Bench.Scan do
  # One look at every process for its mark, beside `pgrep -f`, which reads every command line.
  @moduledoc false

  alias Bench.Stats

  @sizes [1_000, 5_000]
  @rounds 5

  def rows, do: Enum.map(@sizes, &with_herd(&1, fn -> row(&1) end))

  defp row(size) do
    samples = Stats.interleave([ours: &scan/0, pgrep: &pgrep/0], @rounds)
    {ours, theirs} = {Stats.median(samples.ours), Stats.median(samples.pgrep)}

    %{
      what: "mark scan, #{size} processes and the machine's own",
      ours: "#{Stats.round_to(ours / 1_000, 2)} ms",
      beside: "`pgrep -f` #{Stats.round_to(theirs / 1_000, 1)} ms",
      ratio: "#{Stats.round_to(theirs / ours, 1)} × faster",
      aim: "≥ 25 ×"
    }
  end

  # The core's own example, which does nothing else; its start is not counted, that of pgrep is what one pays.
  defp scan do
    {text, 0} = System.cmd(System.fetch_env!("LEASH_BENCH_SCAN"), [])
    [_all, microseconds] = Regex.run(~r/^marks_us (\d+)$/m, text)
    String.to_integer(microseconds)
  end

  defp pgrep do
    pgrep =
      System.find_executable("pgrep") || raise "pgrep is not installed: apt-get install procps"

    Stats.time(fn ->
      port =
        Port.open({:spawn_executable, pgrep}, [
          :binary,
          :exit_status,
          args: ["-f", "--", "--run-id=n0thing"]
        ])

      # 1: nothing found.
      receive do
        {^port, {:exit_status, 1}} -> :ok
      end
    end)
  end

  defp with_herd(size, function) do
    port =
      Port.open({:spawn_executable, System.fetch_env!("LEASH_BENCH_HERD")}, [
        :binary,
        :exit_status,
        args: ["#{size}"]
      ])

    receive do
      {^port, {:data, "up" <> _rest}} -> :ok
      {^port, {:exit_status, status}} -> raise "no herd of #{size}: status #{status}"
    end

    try do
      function.()
    after
      # Its stdin ends, and with it the herd; the next one must not meet its remains.
      Port.close(port)
      Process.sleep(2_000)
    end
  end
end
