defmodule Bench.Throughput do
  # Bytes per second through a worker's pipes, beside a bare port with the same program. A process
  # counts the bytes that arrive on stdout, and a program reads its stdin.
  @moduledoc false

  alias Bench.Stats

  @rounds 9
  @bytes 1_000_000_000
  @block 1_000_000

  # In both directions the program ends by itself after so many bytes, so that the end means the
  # same for all.
  @small_writes {"head", ["-c", "#{@bytes}", "/dev/zero"]}
  @large_writes {"dd", ~w(if=/dev/zero bs=256K iflag=count_bytes count=#{@bytes} status=none)}
  @reader {"dd", ~w(of=/dev/null bs=128K iflag=fullblock,count_bytes count=#{@bytes} status=none)}

  def rows do
    Process.flag(:trap_exit, true)

    [
      row("stdout of a `Leash.Worker`, handler a pid, writes of 8 kB",
        port: fn -> port(@small_writes) end,
        worker: fn -> worker(@small_writes) end
      ),
      row("the same, writes of 256 kB",
        port: fn -> port(@large_writes) end,
        worker: fn -> worker(@large_writes) end
      ),
      row("`Leash.Worker.write/3` of 1 MB each",
        port: fn -> port_in(@reader) end,
        worker: fn -> worker_in(@reader) end
      )
    ]
  end

  defp row(what, contestants) do
    samples = Stats.interleave(contestants, Stats.rounds(@rounds))
    {ours, theirs} = {Stats.median(samples.worker), Stats.median(samples.port)}

    %{
      what: what,
      ours: "#{round(ours)} MB/s",
      beside: "bare `Port` #{round(theirs)} MB/s",
      ratio: Stats.round_to(ours / theirs, 2),
      aim: "≥ 0.97"
    }
  end

  defp port(program) do
    rate(fn -> program |> open_port() |> count_port(0) end)
  end

  defp open_port({command, args}) do
    executable = System.find_executable(command)
    Port.open({:spawn_executable, executable}, [:binary, :exit_status, args: args])
  end

  defp count_port(port, bytes) do
    receive do
      {^port, {:data, data}} -> count_port(port, bytes + byte_size(data))
      {^port, {:exit_status, 0}} -> bytes
    end
  end

  defp worker(program) do
    rate(fn -> program |> start_worker([]) |> count_worker(0) end)
  end

  defp start_worker({command, args}, options) do
    options = [command: command, args: args, stderr: :null, on_output: self()] ++ options
    {:ok, worker} = Leash.Worker.start_link(options)
    worker
  end

  defp count_worker(worker, bytes) do
    receive do
      {:leash_output, ^worker, :stdout, data} -> count_worker(worker, bytes + byte_size(data))
      {:EXIT, ^worker, :normal} -> bytes
    end
  end

  defp port_in(program) do
    block = :binary.copy("x", @block)

    rate(fn ->
      port = open_port(program)
      for _ <- 1..div(@bytes, @block), do: Port.command(port, block)
      receive do: ({^port, {:exit_status, 0}} -> @bytes)
    end)
  end

  defp worker_in(program) do
    block = :binary.copy("x", @block)

    rate(fn ->
      worker = start_worker(program, stdin: :pipe)
      for _ <- 1..div(@bytes, @block), do: :ok = Leash.Worker.write(worker, block, :infinity)
      receive do: ({:EXIT, ^worker, :normal} -> @bytes)
    end)
  end

  defp rate(function) do
    began = System.monotonic_time(:microsecond)
    @bytes = function.()
    @bytes / (System.monotonic_time(:microsecond) - began)
  end
end
