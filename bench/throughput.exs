defmodule Bench.Throughput do
  # What arrives on stdout, per second, at a process that counts it.
  @moduledoc false

  alias Bench.Stats

  @rounds 7
  @bytes 1_000_000_000
  @program "head"
  @args ["-c", "#{@bytes}", "/dev/zero"]

  def rows do
    samples = Stats.interleave([port: &port/0, worker: &worker/0], @rounds)
    {ours, theirs} = {Stats.median(samples.worker), Stats.median(samples.port)}

    [
      %{
        what: "stdout of a `Leash.Worker`, handler a pid",
        ours: "#{round(ours)} MB/s",
        beside: "bare `Port` #{round(theirs)} MB/s",
        ratio: Stats.round_to(ours / theirs, 2),
        aim: "≥ 0.97"
      }
    ]
  end

  defp port do
    rate(fn ->
      port =
        Port.open({:spawn_executable, System.find_executable(@program)}, [
          :binary,
          :exit_status,
          args: @args
        ])

      count_port(port, 0)
    end)
  end

  defp count_port(port, bytes) do
    receive do
      {^port, {:data, data}} -> count_port(port, bytes + byte_size(data))
      {^port, {:exit_status, 0}} -> bytes
    end
  end

  defp worker do
    Process.flag(:trap_exit, true)

    rate(fn ->
      {:ok, worker} =
        Leash.Worker.start_link(
          command: @program,
          args: @args,
          stderr: :null,
          on_output: self()
        )

      count_worker(worker, 0)
    end)
  end

  defp count_worker(worker, bytes) do
    receive do
      {:leash_output, ^worker, :stdout, data} -> count_worker(worker, bytes + byte_size(data))
      {:EXIT, ^worker, _reason} -> bytes
    end
  end

  defp rate(function) do
    began = System.monotonic_time(:microsecond)
    @bytes = function.()
    @bytes / (System.monotonic_time(:microsecond) - began)
  end
end
