defmodule Bench.Monitor do
  # The time from SIGKILL to the message of the death, for a process that the VM started. It
  # compares a port with `Leash.OSProcess.monitor`. Each death has one listener.
  @moduledoc false

  alias Bench.{Alone, Row, Stats}
  alias Leash.{Native, OSProcess}

  @rounds 300

  def rows do
    contestants = [
      monitor: fn -> death([], &OSProcess.monitor/1) end,
      port: fn -> death([:exit_status], fn _process -> nil end) end,
      pidfd: fn -> death([], fn _process -> :pidfd end) end
    ]

    contestants = for {name, death} <- contestants, do: {name, fn -> Alone.run!(death) end}
    Stats.interleave(contestants, 10)
    samples = Stats.interleave(contestants, Stats.rounds(@rounds))
    p90 = Stats.percentile(samples.monitor, 90) / Stats.percentile(samples.port, 90)

    [
      %Row{
        key: :monitor,
        what: "exit to message, `Leash.OSProcess.monitor`",
        unit: "µs",
        ours: Stats.median(samples.monitor),
        beside: [
          {"port `exit_status`", Stats.median(samples.port)},
          {"pidfd in the VM's poll set", Stats.median(samples.pidfd)}
        ],
        aims: [{:ratio, 1.0}],
        note: "ratio of the p90: #{Stats.round_to(p90, 2)}"
      }
    ]
  end

  defp death(options, listen) do
    sleep = System.find_executable("sleep")
    port = Port.open({:spawn_executable, sleep}, [{:args, ["120"]} | options])
    {:os_pid, pid} = Port.info(port, :os_pid)
    {:ok, process} = OSProcess.identify(pid)
    {:ok, fd} = Native.process_open(process.pid, process.start_ticks, process.pidfs_inode)
    listener = listen.(process)
    if listener == :pidfd, do: :ok = Native.pidfd_monitor(fd, :pidfd)

    took =
      Stats.time(fn ->
        :ok = Native.pidfd_signal(fd, 9)

        receive do
          :pidfd -> :ok
          {:DOWN, ^listener, :os_process, _process, :exited} -> :ok
          {^port, {:exit_status, _status}} -> :ok
        end
      end)

    Native.fd_close(fd)
    Alone.close(port)
    took
  end
end
