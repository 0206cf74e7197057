defmodule Bench.Stop do
  # The time to end one program, until its pidfd reports the end and the library has answered.
  @moduledoc false

  alias Bench.{Alone, Muster, Peers, Row, Stats}
  alias Leash.Native

  @rounds 100
  @stubborn_rounds 5
  @grace 200
  # In µs. A program that takes longer was not ended, but ended by itself (bench/muster.c).
  @forgotten 11_000_000

  def rows, do: [cooperative(), stubborn()]

  defp cooperative do
    contestants =
      [leash: leash(), signal: signal(), relay: relay(), command: command()] ++ peers()

    samples = interleave(contestants, "", Stats.rounds(@rounds))

    %Row{
      key: :stop_cooperative,
      what: "stop of a worker that ends on SIGTERM",
      unit: "ms",
      ours: ms(samples.leash),
      beside: [
        {"pidfd_send_signal(2) and pidfd wait", ms(samples.signal)},
        {"the same through one process between, in C, until that has ended", ms(samples.relay)},
        {"`kill` and pidfd wait", ms(samples.command)}
      ],
      aims: [{:ratio, 2.0}],
      peers: for({name, _it} <- peers(), into: %{}, do: {name, Alone.cell(samples[name], 1_000)})
    }
  end

  # The time without the grace.
  defp stubborn do
    ours = for number <- 1..4, do: {{:leash, number}, leash()}
    samples = interleave(ours ++ peers(), "stubborn", Stats.rounds(@stubborn_rounds))
    ours = for {{:leash, _number}, list} <- samples, sample <- list, do: sample

    past = fn sample, grace ->
      if is_number(sample) and sample < @forgotten,
        do: sample - grace * 1_000,
        else: {:failed, sample}
    end

    late = Enum.map(ours, &past.(&1, @grace))

    %Row{
      key: :stop_stubborn,
      what: "stop of a worker that ignores SIGTERM, past its grace",
      unit: "ms",
      ours: ms(late),
      note: "longest #{Row.digits(Enum.max(late) / 1_000)}",
      aims: [{:at_most, 5}],
      peers:
        for {name, %{grace: grace}} <- peers(), into: %{} do
          {name, samples[name] |> Enum.map(&past.(&1, grace)) |> Alone.cell(1_000)}
        end
    }
  end

  defp ms(samples), do: Stats.median(samples) / 1_000

  defp interleave(contestants, how, rounds) do
    contestants
    |> Enum.map(fn {name, it} -> {name, fn -> Alone.sample(fn -> sample(it, how) end) end} end)
    |> Stats.interleave(rounds)
  end

  defp sample(it, how) do
    Process.flag(:trap_exit, true)
    muster = Muster.open(1)
    handle = it.daemon.(Muster.member(muster, how))
    [pid] = Muster.up(muster)
    leftover = it[:leftover] && it.leftover.(handle)
    {:ok, process} = Leash.OSProcess.identify(pid)
    {:ok, fd} = Native.process_open(process.pid, process.start_ticks, process.pidfs_inode)
    :ok = Native.pidfd_monitor(fd, :ended)

    took =
      Stats.time(fn ->
        it.stop.(handle, fd)
        receive do: (:ended -> :ok)
      end)

    Muster.gone(muster)
    Native.fd_close(fd)
    if leftover, do: Process.exit(leftover, :kill)
    if is_port(handle), do: Alone.close(handle)
    took
  end

  defp peers do
    for {name, _label, %{daemon: _, stop: stop} = it} <- Peers.columns(),
        do: {name, %{it | stop: fn handle, _fd -> stop.(handle) end}}
  end

  defp leash do
    %{
      daemon: fn {program, args} ->
        output = fn _stream, _text -> :ok end
        options = [command: program, args: args, stop: [sigterm: @grace], on_output: output]
        {:ok, worker} = Leash.Worker.start_link(options)
        worker
      end,
      stop: fn worker, _fd -> {:ok, _exit} = Leash.Worker.stop(worker) end
    }
  end

  # The least that can be done from inside the VM, and the program that people use.
  defp signal, do: %{daemon: &bare/1, stop: fn _port, fd -> :ok = Native.pidfd_signal(fd, 15) end}

  # The least that a library can do that supervises by a process of its own.
  defp relay do
    %{
      daemon: fn {program, ["member", fifo, ""]} ->
        {:os_pid, pid} = {program, ["relay", fifo]} |> bare() |> Port.info(:os_pid)
        {:ok, process} = Leash.OSProcess.identify(pid)
        {:ok, fd} = Native.process_open(process.pid, process.start_ticks, process.pidfs_inode)
        :ok = Native.pidfd_monitor(fd, :relay_ended)
        fd
      end,
      stop: fn relay, _fd ->
        :ok = Native.pidfd_signal(relay, 15)
        receive do: (:relay_ended -> :ok)
      end
    }
  end

  defp command do
    %{
      daemon: &bare/1,
      stop: fn port, _fd ->
        {:os_pid, pid} = Port.info(port, :os_pid)
        {"", 0} = System.cmd("kill", ["-TERM", "#{pid}"])
      end
    }
  end

  defp bare({program, args}), do: Port.open({:spawn_executable, program}, [:binary, args: args])
end
