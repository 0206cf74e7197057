# A VM under chaos: keeps a number of random trees running through every entry point of the library, ends some by itself, and
# says nothing but its run's id. What it is and what it should have ended is judged from outside (judge.py).
#
#   guest.exs SEED COUNT DIR PREFIX SHAPES wild|calm      (SHAPES: the path of test/fixtures/shapes.py)
#
# A calm one keeps what it has: shells with a child, under a Worker each.

defmodule Guest do
  @shapes ~w(plain shell ignores_term setsid_child daemon env_i stopped forks leader_dies_first never_reads overwritten)
  @entries [:worker, :worker, :worker, :open_port, :cmd, :stream]
  @stops [[], [sigterm: 200], [sigint: 100, sigterm: 200], [{:sigterm, 150, to: :tree}], [sigterm: 400]]

  def main([seed, count, dir, prefix, shapes, temper]) do
    :rand.seed(:exsss, String.to_integer(seed))
    {:ok, _apps} = Application.ensure_all_started(:leash)
    IO.puts("run #{Leash.run_id()}")
    spawn_link(&commands/0)
    state = %{dir: dir, prefix: prefix, shapes: shapes, next: 1, wanted: String.to_integer(count)}
    Process.flag(:trap_exit, true)
    if temper == "calm", do: calm(state), else: state |> fill() |> churn()
  end

  defp calm(state) do
    for n <- 1..state.wanted do
      line = "exec 9<>#{Path.join(state.dir, "#{state.prefix}-#{n}")}; sleep 100000 & wait"
      {:ok, _worker} = Leash.Worker.start_link(shell: line, stop: [sigterm: 200])
    end

    Process.sleep(:infinity)
  end

  # The end of stdin is the end of the judge.
  defp commands do
    case IO.gets("") do
      "stop_all\n" ->
        {result, stopped} = Leash.stop_all(:all, deadline: 2_000)
        IO.puts("stopped #{result} #{length(stopped)}")
        commands()

      "count\n" ->
        IO.puts("count #{length(Leash.list())} #{length(Port.list())} #{:erlang.system_info(:process_count)}")
        commands()

      "report\n" ->
        IO.puts("report #{inspect(Leash.sweep(mode: :report), limit: :infinity, width: :infinity)}")
        commands()

      "hold\n" ->
        :persistent_term.put(:hold, true)
        IO.puts("held")
        commands()

      _end ->
        System.halt(0)
    end
  end

  defp churn(state) do
    receive do
      {:EXIT, _pid, _reason} -> :ok
    after
      40 -> disturb()
    end

    state |> fill() |> churn()
  end

  defp held?, do: :persistent_term.get(:hold, false)

  defp fill(state) do
    missing = state.wanted - length(Leash.list())

    if missing > 0 and not held?(),
      do: Enum.reduce(1..min(missing, 8), state, fn _, state -> start(state) end),
      else: state
  end

  defp start(state) do
    label = "#{state.prefix}-#{state.next}"
    line = "exec 9<>#{Path.join(state.dir, label)}; " <> body(Enum.random(@shapes), state.shapes)
    entry = Enum.random(@entries)
    group = Enum.random([nil, :red, "blue", {:green, 1}])
    stop = Enum.random(@stops)
    # Owned by a process of its own that may be killed.
    spawn(fn -> run(entry, line, stop: stop, group: group) end)
    %{state | next: state.next + 1}
  end

  defp body("shell", _shapes), do: "sleep 80 & sleep 80 & wait"
  defp body(shape, shapes), do: "exec python3 -E -s -S -B #{shapes} #{shape}"

  defp run(:worker, line, options) do
    {:ok, _worker} =
      Leash.Worker.start_link(
        [command: "sh", args: ["-c", line], on_output: fn _stream, _text -> :ok end] ++
          [linger: Enum.random([0, 50, 200]), stdin: Enum.random([:null, :pipe])] ++ options
      )

    Process.sleep(:infinity)
  end

  defp run(:open_port, line, options) do
    port = Leash.open_port("sh", ["-c", line], [:binary | options])
    if :rand.uniform(3) == 1, do: spawn(fn -> Port.command(port, :binary.copy("x", 200_000)) end)
    Process.sleep(:infinity)
  end

  defp run(:cmd, line, options),
    do: Leash.cmd("sh", ["-c", line], [timeout: Enum.random([300, 2_000, 60_000])] ++ options)

  defp run(:stream, line, options),
    do: "sh" |> Leash.stream(["-c", line], options) |> Enum.take(Enum.random([1, 2, 1_000]))

  # What applications do to their workers, and what they should not do.
  defp disturb do
    with false <- held?(), [_ | _] = list <- Leash.list() do
      row = Enum.random(list)

      case :rand.uniform(40) do
        n when n <= 6 -> spawn(fn -> Leash.Worker.stop(row.pid) end)
        n when n <= 9 -> Process.exit(row.pid, :kill)
        n when n <= 11 -> Process.exit(row.pid, :shutdown)
        12 -> spawn(fn -> Leash.stop_all(Enum.random([:red, "blue", {:green, 1}]), deadline: 500) end)
        13 -> kill(Leash.Reaper)
        14 -> for port <- Enum.take_random(Port.list(), 1), port != hd(Port.list()), do: close(port)
        _ -> :ok
      end
    end
  rescue
    # The application may be on its way down or up.
    _error -> :ok
  catch
    :exit, _reason -> :ok
  end

  defp kill(name), do: with(pid when is_pid(pid) <- Process.whereis(name), do: Process.exit(pid, :kill))

  defp close(port) do
    if match?({:os_pid, _}, Port.info(port, :os_pid)), do: Port.close(port)
  end
end

Logger.configure(level: :error)
Guest.main(System.argv())
