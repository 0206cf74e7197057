defmodule Bench.Stop do
  # How long it takes to end many programs at once, all of them gone.
  @moduledoc false

  alias Bench.Stats
  alias Leash.OSProcess

  @many 1_000
  @rounds 3
  @stubborn 200
  @deadline 1_000

  def rows do
    Process.flag(:trap_exit, true)
    samples = Stats.interleave([stop_all: &stop_all/0, ports: &ports/0], @rounds)
    {ours, theirs} = {Stats.median(samples.stop_all), Stats.median(samples.ports)}
    stubborn = Stats.median(for _ <- 1..@rounds, do: stubborn())

    [
      %{
        what: "end of #{@many} workers that end on SIGTERM, `Leash.stop_all`",
        ours: "#{ms(ours)} ms",
        beside: "#{@many} bare ports, `Port.close` #{ms(theirs)} ms",
        ratio: Stats.round_to(ours / theirs, 2),
        aim: "< 2000 ms"
      },
      %{
        what:
          "end of #{@stubborn} workers that ignore SIGTERM, past the deadline of #{@deadline} ms",
        ours: "#{ms(stubborn - @deadline * 1_000)} ms",
        beside: "—",
        ratio: "—",
        aim: "≤ 500 ms"
      }
    ]
  end

  defp ms(microseconds), do: Stats.round_to(microseconds / 1_000, 0)

  defp stop_all do
    start(@many, command: "sleep", args: ["1000"])
    timed_stop(@many, [])
  end

  defp stubborn do
    line = "trap '' TERM; echo ready; exec sleep 1000"
    start(@stubborn, shell: line, ready: ~r/ready/, stop: [sigterm: 60_000])
    timed_stop(@stubborn, deadline: @deadline)
  end

  defp start(count, options) do
    options = options ++ [group: __MODULE__, on_output: fn _stream, _text -> :ok end]
    for _ <- 1..count, do: {:ok, _worker} = Leash.Worker.start_link(options)
  end

  defp timed_stop(count, options) do
    test = self()

    took = Stats.time(fn -> send(test, {:stopped, Leash.stop_all(__MODULE__, options)}) end)

    receive do
      {:stopped, {:ok, stopped}} -> ^count = length(stopped)
    end

    for _ <- 1..count do
      receive do
        {:EXIT, worker, :normal} when is_pid(worker) -> :ok
      end
    end

    took
  end

  # Programs that end when their stdin does, which is all that a port can do; the kernel says when they have.
  defp ports do
    cat = System.find_executable("cat")

    ports =
      for _ <- 1..@many do
        port = Port.open({:spawn_executable, cat}, [:binary])
        {:os_pid, pid} = Port.info(port, :os_pid)
        {:ok, process} = OSProcess.identify(pid)
        monitor = OSProcess.monitor(process)
        {port, monitor}
      end

    # All of them run.
    for {port, _monitor} <- ports, do: Port.command(port, "x")

    for {port, _monitor} <- ports do
      receive do
        {^port, {:data, "x"}} -> :ok
      end
    end

    took =
      Stats.time(fn ->
        for {port, _monitor} <- ports, do: Port.close(port)

        for {_port, monitor} <- ports do
          receive do
            message when elem(message, 1) == monitor -> :ok
          end
        end
      end)

    for {port, _monitor} <- ports do
      receive do
        {:EXIT, ^port, _reason} -> :ok
      end
    end

    took
  end
end
