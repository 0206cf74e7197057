# A VM under chaos. It keeps a number of random trees running through every entry point of the
# library, and ends some by itself. It reports only its run's id. judge.py judges from outside
# what it is and what it should have ended.
#
#   guest.exs SEED COUNT DIR PREFIX FIXTURES wild|calm SECONDS
#
# FIXTURES is the path of test/fixtures.
#
# A calm VM keeps what it has: workers of two processes each, which note every signal that reaches
# them. They end by themselves after SECONDS.

defmodule Guest do
  @shapes ~w(plain shell ignores_term setsid_child daemon env_i stopped forks leader_dies_first never_reads overwritten
             hands_job)
  @entries [:worker, :worker, :worker, :open_port, :cmd, :stream]
  @stops [
    [],
    [sigterm: 200],
    [sigint: 100, sigterm: 200],
    [{:sigterm, 150, to: :tree}],
    [sigterm: 400],
    [{:cmd, ["true"], 200}, {:sigterm, 100}]
  ]

  def main([seed, count, dir, prefix, fixtures, temper, seconds]) do
    log_to_stderr()
    :rand.seed(:exsss, String.to_integer(seed))
    {:ok, _apps} = Application.ensure_all_started(:leash)
    IO.puts("run #{Leash.run_id()}")
    spawn_link(&commands/0)

    state = %{
      dir: dir,
      prefix: prefix,
      shapes: Path.join(fixtures, "shapes.py"),
      decoy: Path.join(fixtures, "decoy.py"),
      seconds: seconds,
      next: 1,
      pending: :counters.new(1, []),
      wanted: String.to_integer(count)
    }

    Process.flag(:trap_exit, true)
    if temper == "calm", do: calm(state), else: state |> fill() |> churn()
  end

  # The output goes to a file. Only a program that waits for an answer reads stdout, and the log
  # of an hour of faults fills a pipe. Then the VM reads no more commands either.
  defp log_to_stderr do
    case :logger.get_handler_config(:default) do
      {:ok, %{module: module, config: config} = handler} ->
        :ok = :logger.remove_handler(:default)
        config = %{config | type: :standard_error}
        :ok = :logger.add_handler(:default, module, %{handler | config: config})

      # Before Elixir 1.15 its own takes the place of that.
      {:error, _not_there} ->
        # By name: where the handler above is there, this function is not, or is about to go.
        apply(Logger, :configure_backend, [:console, [device: :standard_error]])
    end
  end

  defp calm(state) do
    for n <- 1..state.wanted do
      carrier = Path.join(state.dir, "#{state.prefix}-#{n}")
      decoy = "python3 -E -s -S -B #{state.decoy} #{carrier}.signals #{state.seconds}"
      line = "exec 9<>#{carrier} >/dev/null; #{decoy} & exec #{decoy}"
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
        IO.puts(
          "count #{length(Leash.list())} #{length(Port.list())} #{:erlang.system_info(:process_count)}"
        )

        commands()

      "report\n" ->
        IO.puts(
          "report #{inspect(Leash.sweep(mode: :report), limit: :infinity, width: :infinity)}"
        )

        commands()

      "sweep\n" ->
        IO.puts("swept #{inspect(Leash.sweep(), limit: :infinity, width: :infinity)}")
        commands()

      "flood\n" ->
        for _ <- 1..400, do: spawn(fn -> flood() end)
        commands()

      # A mistake on purpose, for the judge's own test.
      "leak\n" ->
        :persistent_term.put(:leak, for(_ <- 1..40, do: File.open!("/dev/null", [:raw])))
        IO.puts("leaked")
        commands()

      "hold\n" ->
        :persistent_term.put(:hold, true)
        IO.puts("held")
        commands()

      # The command is "halt", or stdin has ended. The halt does not flush: a VM waits for ever
      # for a program that does not read the data in its port's queue.
      _end ->
        :erlang.halt(0, flush: false)
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
    # Starts that are under way are not in the list yet. On a loaded machine they would grow in
    # number.
    missing = state.wanted - length(Leash.list()) - :counters.get(state.pending, 1)

    if missing > 0 and not held?(),
      do: Enum.reduce(1..min(missing, 8), state, fn _, state -> start(state) end),
      else: state
  end

  defp start(state) do
    label = "#{state.prefix}-#{state.next}"
    entry = Enum.random(@entries)
    # A port's shim is not the warden's, so what sheds its tags there is lost with the shim.
    shapes = if entry == :open_port, do: @shapes, else: ["strips" | @shapes]
    line = "exec 9<>#{Path.join(state.dir, label)}; " <> body(Enum.random(shapes), state.shapes)
    group = Enum.random([nil, :red, "blue", {:green, 1}])
    stop = Enum.random(@stops)
    # Owned by a process of its own that may be killed.
    :counters.add(state.pending, 1, 1)
    spawn(fn -> run(entry, line, state.pending, stop: stop, group: group) end)
    %{state | next: state.next + 1}
  end

  # Nothing but its descent says whose the first is.
  defp body("strips", _shapes),
    do: "env -i prlimit --locks=1:1 setsid -f sleep 80; sleep 80 & wait"

  defp body("shell", _shapes), do: "sleep 80 & sleep 80 & wait"

  # Gives a copy of its environment to a daemon that is no part of any tree.
  defp body("hands_job", _shapes),
    do: "exec python3 -E -s -B #{__DIR__}/job_server.py hand #{System.fetch_env!("CHAOS_JOBS")}"

  defp body(shape, shapes), do: "exec python3 -E -s -S -B #{shapes} #{shape}"

  defp run(:worker, line, pending, options) do
    mine = [linger: Enum.random([0, 50, 200]), stdin: Enum.random([:null, :pipe])]

    options =
      [command: "sh", args: ["-c", line], on_output: fn _, _ -> :ok end] ++ mine ++ options

    {:ok, _worker} = begun(pending, fn -> Leash.Worker.start_link(options) end)
    Process.sleep(:infinity)
  end

  defp run(:open_port, line, pending, options) do
    port = begun(pending, fn -> Leash.open_port("sh", ["-c", line], [:binary | options]) end)
    if :rand.uniform(3) == 1, do: spawn(fn -> Port.command(port, :binary.copy("x", 200_000)) end)
    Process.sleep(:infinity)
  end

  defp run(:cmd, line, pending, options) do
    :counters.sub(pending, 1, 1)
    Leash.cmd("sh", ["-c", line], [timeout: Enum.random([300, 2_000, 60_000])] ++ options)
  end

  defp run(:stream, line, pending, options) do
    :counters.sub(pending, 1, 1)
    "sh" |> Leash.stream(["-c", line], options) |> Enum.take(Enum.random([1, 2, 1_000]))
  end

  defp begun(pending, start) do
    start.()
  after
    :counters.sub(pending, 1, 1)
  end

  # What applications do to their workers, and what they should not do.
  defp disturb do
    with false <- held?(), [_ | _] = list <- Leash.list() do
      row = Enum.random(list)

      case :rand.uniform(40) do
        n when n <= 6 and row.kind == :worker ->
          spawn(fn -> Leash.Worker.stop(row.pid) end)

        n when n <= 6 ->
          :ok

        n when n <= 9 ->
          Process.exit(row.pid, :kill)

        n when n <= 11 ->
          Process.exit(row.pid, :shutdown)

        12 ->
          spawn(fn -> Leash.stop_all(Enum.random([:red, "blue", {:green, 1}]), deadline: 500) end)

        13 ->
          kill(Leash.Reaper)

        15 ->
          if :rand.uniform(4) == 1, do: kill(Leash.Warden)

        14 ->
          for port <- Enum.take_random(Port.list(), 1), port != hd(Port.list()), do: close(port)

        _ ->
          :ok
      end
    end
  rescue
    # The application may be on its way down or up.
    _error -> :ok
  catch
    :exit, _reason -> :ok
  end

  # The application may be on its way down, or the warden away for longer than a start waits.
  defp flood do
    Leash.cmd("true", [])
  rescue
    _error -> :ok
  catch
    :exit, _reason -> :ok
  end

  defp kill(name),
    do: with(pid when is_pid(pid) <- Process.whereis(name), do: Process.exit(pid, :kill))

  # The console's port has a pid of `:undefined`, and is what the judge talks to.
  defp close(port) do
    with {:os_pid, pid} when is_integer(pid) <- Port.info(port, :os_pid), do: Port.close(port)
  end
end

Logger.configure(level: :error)
Guest.main(System.argv())
