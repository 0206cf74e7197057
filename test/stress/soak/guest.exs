# The VM that is watched. As its stdin says, it starts and stops programs in every way there is,
# or moves bytes through one. See judge.py.

defmodule Soak.Guest do
  @moduledoc false

  # So many programs at once, with names from a fixed stock. A new name for each program would
  # itself be growth.
  @loops 4
  @block 100_000
  @tick_ms 10

  def main do
    Process.flag(:trap_exit, true)
    # A killed program is logged, and here that would be much of the output.
    Logger.configure(level: :none)
    {:ok, _apps} = Application.ensure_all_started(:leash)
    serve()
  end

  defp serve do
    case IO.read(:line) do
      :eof ->
        System.stop(0)

      line ->
        line |> String.split() |> command()
        serve()
    end
  end

  defp command(["cycles", count]) do
    each = div(String.to_integer(count), @loops)

    1..@loops
    |> Enum.map(fn loop -> Task.async(fn -> cycles(loop, each) end) end)
    |> Task.await_many(:infinity)

    say("done #{each * @loops}")
  end

  defp command(["stream", ms, rate]) do
    {moved, took} = stream(String.to_integer(ms), String.to_integer(rate))
    say("done #{moved} #{took}")
  end

  # Garbage is collected first. A process or table keeps whatever is left.
  defp command(["sample"]) do
    for pid <- Process.list(), do: :erlang.garbage_collect(pid)
    tables = :ets.all()

    values = [
      atoms: :erlang.system_info(:atom_count),
      ports: :erlang.system_info(:port_count),
      processes: :erlang.system_info(:process_count),
      ets_tables: length(tables),
      leash_ets_objects: objects(Enum.filter(tables, &ours?/1)),
      other_ets_objects: objects(Enum.reject(tables, &ours?/1)),
      binary_bytes: :erlang.memory(:binary),
      workers: length(Leash.list())
    ]

    say("sample " <> Enum.map_join(values, " ", fn {key, value} -> "#{key}=#{value}" end))
  end

  defp ours?(table) do
    is_atom(table) and table |> Atom.to_string() |> String.starts_with?("Elixir.Leash")
  end

  # A table may go between the list and the look.
  defp objects(tables),
    do: Enum.sum(for table <- tables, size = :ets.info(table, :size), is_integer(size), do: size)

  defp cycles(loop, count) do
    Process.flag(:trap_exit, true)
    for number <- 1..count//1, do: cycle(rem(number, 6), loop)
  end

  defp cycle(0, loop) do
    {:ok, worker} = Leash.Worker.start_link(name: :"soak_#{loop}", command: "cat", stdin: :pipe)
    :ok = Leash.Worker.write(worker, "x")
    {:ok, _exit} = Leash.Worker.stop(worker)
    ended(worker)
  end

  defp cycle(1, _loop) do
    {:ok, worker} = Leash.Worker.start_link(command: "true")
    ended(worker)
  end

  defp cycle(2, _loop), do: {"x\n", 0} = Leash.cmd("echo", ["x"])
  defp cycle(3, _loop), do: Leash.stream("sh", ["-c", "echo x; exec sleep 60"]) |> Enum.take(1)

  # Its owner is killed, and no other process could end it in order.
  defp cycle(4, _loop) do
    test = self()

    owner =
      spawn(fn ->
        {:ok, worker} =
          Leash.Worker.start_link(command: "sh", args: ["-c", "sleep 60 & sleep 60"])

        send(test, {:worker, worker})
        Process.sleep(:infinity)
      end)

    receive do
      {:worker, worker} ->
        monitor = Process.monitor(worker)
        Process.exit(owner, :kill)

        receive do
          {:DOWN, ^monitor, _, _, _} -> :ok
        end
    end
  end

  defp cycle(5, _loop) do
    port = Leash.open_port("cat", [], [:binary])
    Port.command(port, "x")

    receive do
      {^port, {:data, "x"}} -> Port.close(port)
    end
  end

  defp ended(worker) do
    receive do
      {:EXIT, ^worker, _reason} -> :ok
    end
  end

  # So many bytes a second into a program and out of it again.
  defp stream(ms, rate) do
    counter = :counters.new(1, [])
    count = fn _stream, text -> :counters.add(counter, 1, byte_size(text)) end

    {:ok, worker} =
      Leash.Worker.start_link(
        command: "cat",
        stdin: :pipe,
        on_output: count,
        stop: [sigterm: 5_000]
      )

    began = System.monotonic_time(:millisecond)
    written = feed(worker, :binary.copy("x", @block), rate, began, began + ms, 0)
    took = System.monotonic_time(:millisecond) - began
    await(fn -> :counters.get(counter, 1) >= written end)
    moved = :counters.get(counter, 1)
    {:ok, _exit} = Leash.Worker.stop(worker)
    ended(worker)
    if moved != written, do: raise("#{written} bytes went in and #{moved} came out")
    {moved, took}
  end

  defp feed(worker, block, rate, began, until, written) do
    now = System.monotonic_time(:millisecond)
    due = div((now - began) * rate, 1_000)

    cond do
      now >= until ->
        written

      written < due ->
        :ok = Leash.Worker.write(worker, block, :infinity)
        feed(worker, block, rate, began, until, written + @block)

      true ->
        Process.sleep(@tick_ms)
        feed(worker, block, rate, began, until, written)
    end
  end

  defp await(condition) do
    unless condition.() do
      Process.sleep(@tick_ms)
      await(condition)
    end
  end

  defp say(line), do: IO.puts(line)
end

Soak.Guest.main()
