# Measures the functions on normal schedulers, and the time until the end of a process is known.
#
#     mix run bench/nif_latency.exs [calls]
#
# A NIF on a normal scheduler should return within 1 ms (erl_nif(3)). The aim here is 100 µs for
# the longest call. On a loaded machine the kernel's scheduler takes the CPU away in the middle of
# the longest call, so read the 99.9th percentile beside it.

defmodule NifLatency do
  alias Leash.{Native, OSProcess}
  alias Leash.Worker.{Launch, Options}

  def run(calls) do
    IO.puts("#{calls} calls each, µs                  median     99.9%       max")
    {:ok, socket, _name} = Native.warden_listen()
    {:ok, pidfd} = sleeper_fd()

    measure(calls, "euid", fn -> Native.euid() end)
    measure(calls, "run_id_generate", fn -> Native.run_id_generate() end)

    measure(calls, "warden_listen + fd_close", fn ->
      with({:ok, s, _} <- Native.warden_listen(), do: Native.fd_close(s))
    end)

    measure(calls, "warden_accept, nothing there", fn -> Native.warden_accept(socket, 1) end)
    measure(calls, "fd_give", fn -> Native.fd_give(socket, self()) end)

    measure(calls, "fd_dup + fd_close", fn ->
      with({:ok, fd} <- Native.fd_dup(pidfd), do: Native.fd_close(fd))
    end)

    measure(calls, "pidfd_ended?", fn -> Native.pidfd_ended?(pidfd) end)
    measure(calls, "pidfd_signal", fn -> Native.pidfd_signal(pidfd, 18) end)
    measure(calls, "pidfd_monitor", fn -> Native.pidfd_monitor(pidfd, :ended) end)
    measure(calls, "pidfd_demonitor", fn -> Native.pidfd_demonitor(pidfd) end)
    pipes(calls)
    deaths()
  end

  # A program that writes and reads as fast as it can.
  defp pipes(calls) do
    case System.find_executable("python3") do
      nil -> IO.puts("(no python3: reading and writing pipes not measured)")
      python -> pipes(calls, python)
    end
  end

  defp pipes(calls, python) do
    code = """
    import os, threading
    def drain():
        while os.read(0, 65536): pass
    threading.Thread(target=drain, daemon=True).start()
    data = b"x" * 65536
    while True: os.write(1, data)
    """

    options = [command: python, args: ["-c", code], stdin: :pipe, stderr: :null]
    {:ok, options} = Options.validate(options ++ [on_output: self()])
    # The program ends with this process, which holds its channel.
    {:ok, %{started: %{ends: ends}}} = Launch.run(options, :worker, nil)
    block = :binary.copy("x", 65_536)
    bytes = List.duplicate(?x, 3_000)
    parts = for n <- 1..3_000, do: "part #{n}\n"
    nested = Enum.reduce(parts, [], fn part, list -> [list, part] end)

    measure(calls, "fd_read, 64 KiB or nothing", fn -> Native.fd_read(ends.stdout, 65_536) end)
    measure(calls, "fd_write, 64 KiB or nothing", fn -> Native.fd_write(ends.stdin, block) end)
    measure(calls, "fd_write, list of 3,000 bytes", fn -> Native.fd_write(ends.stdin, bytes) end)

    measure(calls, "fd_write, list of 3,000 binaries", fn ->
      Native.fd_write(ends.stdin, parts)
    end)

    measure(calls, "fd_write, 3,000 lists deep", fn -> Native.fd_write(ends.stdin, nested) end)
    throughput(ends.stdout)
  end

  defp throughput(fd) do
    total = 1_000_000_000
    {microseconds, :ok} = :timer.tc(fn -> read_all(fd, total) end)
    IO.puts("reading 1 GB from a Python writer: #{round(total / microseconds)} MB/s")
  end

  defp read_all(_fd, left) when left <= 0, do: :ok

  defp read_all(fd, left) do
    case Native.fd_read(fd, 65_536) do
      {:ok, data} ->
        read_all(fd, left - byte_size(data))

      :again ->
        wait(fd)
        read_all(fd, left)
    end
  end

  defp wait(fd) do
    receive do: ({:leash_fd, ^fd, :ready} -> :ok)
  end

  defp measure(calls, name, call) do
    times = for _ <- 1..calls, do: time(call)
    flush()
    [median, nearly_all, longest] = quantiles(times, [0.5, 0.999, 1.0])
    IO.puts([String.pad_trailing(name, 34), columns([median, nearly_all, longest])])
  end

  defp columns(numbers), do: for(n <- numbers, do: String.pad_leading(format(n), 10))
  defp format(nanoseconds), do: :erlang.float_to_binary(nanoseconds / 1000, decimals: 2)

  defp time(call) do
    began = System.monotonic_time(:nanosecond)
    call.()
    System.monotonic_time(:nanosecond) - began
  end

  defp quantiles(times, fractions) do
    sorted = times |> Enum.sort() |> List.to_tuple()
    size = tuple_size(sorted)
    for f <- fractions, do: elem(sorted, min(size - 1, floor(f * size)))
  end

  # The time from kill(2) to the message, for the same deaths: the monitor of a pidfd and the
  # exit_status of the port.
  defp deaths do
    rows = for _ <- 1..200, do: death()
    IO.puts("\nkill to message, 200 deaths, µs       median       90%       max")

    for {name, index} <- [
          {"pidfd_monitor", 0},
          {"Leash.OSProcess.monitor", 1},
          {"port exit_status", 2}
        ] do
      times = Enum.map(rows, &elem(&1, index))
      IO.puts([String.pad_trailing(name, 34), columns(quantiles(times, [0.5, 0.9, 1.0]))])
    end
  end

  defp death do
    {port, os_pid} = sleeper()
    {:ok, process} = OSProcess.identify(os_pid)
    {:ok, fd} = Native.process_open(process.pid, process.start_ticks, process.pidfs_inode)
    :ok = Native.pidfd_monitor(fd, :pidfd)
    ref = OSProcess.monitor(process)
    began = System.monotonic_time(:nanosecond)
    :ok = Native.pidfd_signal(fd, 9)
    times = collect(%{}, port, ref, began)
    Native.fd_close(fd)
    {times.pidfd, times.monitor, times.port}
  end

  defp collect(times, _port, _ref, _began) when map_size(times) == 3, do: times

  defp collect(times, port, ref, began) do
    who =
      receive do
        :pidfd -> :pidfd
        {:DOWN, ^ref, :os_process, _, _} -> :monitor
        {^port, {:exit_status, _}} -> :port
      end

    times |> Map.put(who, System.monotonic_time(:nanosecond) - began) |> collect(port, ref, began)
  end

  defp sleeper_fd do
    {_port, os_pid} = sleeper()
    {:ok, process} = OSProcess.identify(os_pid)
    Native.process_open(process.pid, process.start_ticks, process.pidfs_inode)
  end

  defp sleeper do
    sleep = System.find_executable("sleep")
    port = Port.open({:spawn_executable, sleep}, [:exit_status, args: ["120"]])
    {:os_pid, os_pid} = Port.info(port, :os_pid)
    {port, os_pid}
  end

  defp flush do
    receive do
      {:leash_fd, _, _} -> flush()
    after
      0 -> :ok
    end
  end
end

# `bench/run nif list` passes the names of its parts, and no number.
calls =
  Enum.find_value(System.argv(), 20_000, fn argument ->
    with {number, ""} <- Integer.parse(argument), do: number, else: (_name -> nil)
  end)

# A heap that hardly needs collecting. Otherwise the longest call is a garbage collection.
options = [:monitor, min_heap_size: 20_000_000]
{pid, monitor} = :erlang.spawn_opt(fn -> NifLatency.run(calls) end, options)

receive do
  {:DOWN, ^monitor, :process, ^pid, :normal} -> :ok
  {:DOWN, ^monitor, :process, ^pid, reason} -> exit(reason)
end
