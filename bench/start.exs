defmodule Bench.Start do
  # The time from the start of /bin/true to the news of its exit.
  @moduledoc false

  alias Bench.{Alone, Peers, Row, Stats}

  @rounds 300

  def rows do
    peers =
      for {name, _label, %{start: start}} <- Peers.columns(),
          do: {name, fn -> Alone.sample(fn -> Stats.time(fn -> start.("/bin/true") end) end) end}

    ours =
      for {name, function} <- [
            port: &port/0,
            cmd: fn -> {"", 0} = Leash.cmd("/bin/true", []) end,
            system_cmd: fn -> {"", 0} = System.cmd("/bin/true", []) end,
            open_port: &open_port/0,
            worker: &worker/0,
            shim: &shim/0
          ],
          do: {name, fn -> Alone.run!(fn -> Stats.time(function) end) end}

    Stats.interleave(ours ++ peers, 20)
    samples = Stats.interleave(ours ++ peers, Stats.rounds(@rounds))

    cells =
      for {name, _function} <- peers, into: %{}, do: {name, Alone.cell(samples[name], 1_000)}

    [
      row(:start_open_port, "`Leash.open_port`", :open_port, samples, aims: [{:ratio, 1.15}]),
      row(:start_cmd, "`Leash.cmd`", :cmd, samples, peers: cells, aims: [{:ratio, 1.0}]),
      row(:start_worker, "`Leash.Worker`", :worker, samples, aims: [{:ratio, 1.05}]),
      row(:start_shim, "the shim in a bare port", :shim, samples, [])
    ]
  end

  defp row(key, label, name, samples, fields) do
    {ours, port} = {samples[name], samples.port}
    p10 = Stats.percentile(ours, 10) / Stats.percentile(port, 10)

    beside =
      [{"bare `Port`", ms(port)}] ++
        if(name == :cmd, do: [{"`System.cmd`", ms(samples.system_cmd)}], else: [])

    struct!(
      %Row{
        key: key,
        what: "start to exit of `/bin/true`, #{label}",
        unit: "ms",
        ours: ms(ours),
        beside: beside,
        note: "ratio of the p10: #{Stats.round_to(p10, 2)}"
      },
      fields
    )
  end

  defp ms(samples), do: Stats.median(samples) / 1_000

  defp port, do: wait(open("/bin/true", []))
  defp open_port, do: wait(Leash.open_port("/bin/true", [], [:binary, :exit_status, :hide]))

  # The options that the VM passes. Descriptor 1 takes the reports, which arrive as data.
  defp shim do
    {:ok, run} = Leash.Run.fetch()

    args =
      ~w(--run-id=#{run.id} --worker=32000 --leash=0 --report=1 --stdin=null --stdout=null --stderr=null) ++
        ["--owner=#{run.owner.pid}:#{run.owner.start_ticks}", "--", "/bin/true"]

    wait(open(Leash.Shim.path(), args))
  end

  defp worker do
    Process.flag(:trap_exit, true)
    {:ok, worker} = Leash.Worker.start_link(command: "/bin/true", stdout: :null, stderr: :null)
    receive do: ({:EXIT, ^worker, _reason} -> :ok)
  end

  defp open(program, args) do
    Port.open({:spawn_executable, program}, [:binary, :exit_status, :hide, args: args])
  end

  defp wait(port) do
    receive do
      {^port, {:exit_status, 0}} -> :ok
      {^port, {:exit_status, status}} -> raise "status #{status}"
      {^port, {:data, _reports}} -> wait(port)
    end
  end
end
