defmodule Bench.Start do
  # From the start of /bin/true to the news of its exit.
  @moduledoc false

  alias Bench.Stats

  @rounds 300

  def rows do
    contestants = [port: &port/0, shim: &shim/0, worker: &worker/0]
    Stats.interleave(contestants, 20)
    samples = Stats.interleave(contestants, @rounds)

    for {name, label, aim} <- [
          {:shim, "`/bin/true` through the shim", "≤ 1.20"},
          {:worker, "`/bin/true` as a `Leash.Worker`", "—"}
        ] do
      {ours, theirs} = {samples[name], samples.port}

      %{
        what: "start to exit, #{label}",
        ours: "#{ms(Stats.median(ours))} ms (p10 #{ms(Stats.percentile(ours, 10))})",
        beside:
          "bare `Port` #{ms(Stats.median(theirs))} ms (p10 #{ms(Stats.percentile(theirs, 10))})",
        ratio: "#{ratio(ours, theirs, 50)} (p10 #{ratio(ours, theirs, 10)})",
        aim: aim
      }
    end
  end

  defp ratio(ours, theirs, percent) do
    Stats.round_to(Stats.percentile(ours, percent) / Stats.percentile(theirs, percent), 2)
  end

  defp ms(microseconds), do: Stats.round_to(microseconds / 1_000, 3)

  defp port, do: Stats.time(fn -> wait(open("/bin/true", [])) end)

  # The options that the VM passes; fd 1 takes the reports, which arrive as data.
  defp shim do
    {:ok, run} = Leash.Run.fetch()

    args =
      ~w(--run-id=#{run.id} --worker=32000 --leash=0 --report=1 --stdin=null --stdout=null --stderr=null) ++
        ["--owner=#{run.owner.pid}:#{run.owner.start_ticks}", "--", "/bin/true"]

    Stats.time(fn -> wait(open(Leash.Shim.path(), args)) end)
  end

  defp worker do
    Process.flag(:trap_exit, true)

    Stats.time(fn ->
      {:ok, worker} = Leash.Worker.start_link(command: "/bin/true", stdout: :null, stderr: :null)

      receive do
        {:EXIT, ^worker, _reason} -> :ok
      end
    end)
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
