defmodule Leash.Test.Guest do
  @moduledoc """
  Runs inside a second VM: workers, and commands from its stdin, a line each.

  It answers in lines: `run ID`, `worker LABEL OS_PID SHIM_PID`, `tree LABEL PID…` (from the
  fixture's `ready` line), `ready`, and `done …` for a command.

  The option `mode:` says how the programs are run: `:worker`, `:pty`, `:detach`, `:cmd`,
  `:stream`, `:open_port`, `:attach` or `:bare`. With `:pty`, a worker has a terminal. With `:attach`, a bare port's program is attached before it
  takes its shape. With `:bare`, ports run without the library, to show what the same faults leave
  then.
  """

  # Longer than any suite on any machine: all tests of a suite share some guests. A guest ends
  # with its stdin, or after this time if no process is left to close its stdin.
  @life 7_200_000

  @doc "Starts the guest. The specification is a term in the environment."
  @spec main() :: no_return()
  def main do
    {:ok, _timer} = :timer.apply_after(@life, System, :halt, [3])
    spec = "GUEST_SPEC" |> System.fetch_env!() |> Base.decode64!() |> :erlang.binary_to_term()
    mode = Map.get(spec, :mode, :worker)
    if mode != :bare, do: start_leash(spec)

    spec.workers
    |> Enum.map(fn {label, options} -> {label, begin(mode, label, options)} end)
    |> Map.new(fn {label, owner} -> {label, await(mode, label, owner)} end)
    |> tap(fn _workers -> say("ready") end)
    |> serve()
  end

  defp start_leash(spec) do
    for {key, value} <- Map.get(spec, :env, []), do: Application.put_env(:leash, key, value)
    {:ok, _apps} = Application.ensure_all_started(:leash)
    say("run #{Leash.run_id()}")
  end

  ## Programs, each with an owner of its own

  defp begin(mode, label, options) do
    guest = self()
    spawn(fn -> run(mode, guest, label, options) end)
  end

  defp run(:worker, guest, label, options) do
    said = fn _stream, text -> send(guest, {:said, label, text}) end
    {:ok, worker} = Leash.Worker.start_link([on_output: said, ready: ~r/^ready/] ++ options)
    send(guest, {:started, self(), worker})
    own(guest, label)
  end

  defp run(:pty, guest, label, options),
    do: run(:worker, guest, label, [pty: true] ++ Keyword.delete(options, :stdin))

  defp run(:detach, guest, label, options) do
    name = Leash.Test.Name.unique(label)
    file = Path.join(System.tmp_dir!(), name)
    own = [name: String.to_atom(name), on_exit: :detach, stdout: {:file, file}, stderr: :stdout]
    {:ok, worker} = Leash.Worker.start_link(Keyword.delete(options, :stdin) ++ own)
    send(guest, {:started, self(), worker})
    send(guest, {:said, label, await_file(file)})
    own(guest, label)
  end

  defp run(:bare, guest, label, options) do
    program = System.find_executable(options[:command])
    port = Port.open({:spawn_executable, program}, [:binary, args: options[:args]])
    send(guest, {:started, self(), port})
    own(guest, label)
  end

  defp run(:open_port, guest, label, options) do
    port = Leash.open_port(options[:command], options[:args], [:binary, stop: options[:stop]])
    send(guest, {:started, self(), port})
    own(guest, label)
  end

  defp run(:attach, guest, label, options) do
    program = System.find_executable(options[:command])
    port = Port.open({:spawn_executable, program}, [:binary, args: options[:args]])
    {:ok, attachment} = Leash.attach(port, stop: options[:stop])
    send(guest, {:started, self(), attachment})
    # Its stdin belongs to its port. If the shape needs it, it is flooded at once.
    Port.command(port, ["go\n" | flood(options)])
    own(guest, label)
  end

  # The owner is the process that runs the command, and is busy with it. It obeys when output
  # comes.
  defp run(:cmd, guest, label, options) do
    send(guest, {:started, self(), nil})
    into = %Leash.Test.Sink{fun: &obey(guest, label, &1)}
    result = Leash.cmd(options[:command], options[:args], [into: into] ++ once(options))
    say("ended #{label} #{inspect(result)}")
  end

  defp run(:stream, guest, label, options) do
    send(guest, {:started, self(), nil})

    result =
      options[:command]
      |> Leash.stream(options[:args], once(options))
      |> Enum.reduce_while(:ended, fn
        text, _acc when is_binary(text) -> {obey(guest, label, text), :halted}
        {:exit, how}, _acc -> {:cont, how}
      end)

    say("ended #{label} #{inspect(result)}")
  end

  # Returns the first line. The writer goes on writing to a file without a name.
  defp await_file(file) do
    with {:ok, text} <- File.read(file), true <- text =~ "\n" do
      File.rm!(file)
      text
    else
      _not_yet ->
        receive do
        after
          5 -> await_file(file)
        end
    end
  end

  defp once(options) do
    input = if options[:stdin] == :pipe, do: [input: flood(options)], else: []
    Keyword.take(options, [:stop]) ++ input
  end

  defp obey(guest, label, text) do
    send(guest, {:said, label, text})

    if text =~ "\n" do
      receive do
        :go_on -> :cont
        :halt -> :halt
        :raise -> raise "the owner of #{label} crashes on purpose"
      end
    else
      :cont
    end
  end

  defp own(guest, label) do
    receive do
      :exit ->
        :ok

      :raise ->
        raise "the owner of #{label} crashes on purpose"

      {port, {:data, text}} when is_port(port) ->
        send(guest, {:said, label, text})
        own(guest, label)
    end
  end

  defp await(mode, label, owner) do
    receive do
      {:started, ^owner, worker} ->
        pids = await_tree(label, "")
        if mode != :bare, do: say_worker(label, worker, pids)
        say("tree #{label} #{Enum.join(pids, " ")}")
        %{owner: owner, worker: worker}
    after
      30_000 -> raise "#{label} did not start"
    end
  end

  defp say_worker(label, worker, pids) do
    %{os_pid: os, shim_pid: shim} = row(worker, pids)
    say("worker #{label} #{os} #{shim}")
  end

  # The leader of a command is one of the processes that its tree named, and belongs to no other
  # command.
  defp row(nil, pids), do: Enum.find(Leash.list(), &(&1.os_pid in pids))

  defp row(port, [leader | _]) when is_port(port) do
    {:os_pid, shim} = Port.info(port, :os_pid)
    %{os_pid: leader, shim_pid: shim}
  end

  defp row(worker, _pids), do: Leash.Worker.info(worker)

  defp await_tree(label, seen) do
    case Regex.run(~r/^ready((?: \d+)*)\r?\n/m, seen) do
      [_all, pids] ->
        pids |> String.split() |> Enum.map(&String.to_integer/1)

      nil ->
        receive do
          {:said, ^label, text} -> await_tree(label, seen <> text)
        after
          30_000 -> raise "#{label} was not ready: #{inspect(seen)}"
        end
    end
  end

  ## Commands

  defp serve(workers) do
    case IO.gets("") do
      line when is_binary(line) -> line |> String.split() |> command(workers)
      _end_of_input -> System.halt(0)
    end

    serve(workers)
  end

  defp flood(options), do: if(options[:stdin] == :pipe, do: :binary.copy("x", 300_000), else: [])

  defp command(["flood", label], workers) do
    # More than a pipe holds, from a process that stays in the call.
    text = :binary.copy("x", 300_000)

    case workers[label].worker do
      # A command gets its input when it starts.
      nil -> :ok
      port when is_port(port) -> spawn(fn -> Port.command(port, text) end)
      worker -> spawn(fn -> Leash.Worker.write(worker, text, :infinity) end)
    end

    say("done flood")
  end

  defp command(["stop"], workers) do
    for {label, %{worker: worker}} <- workers do
      spawn(fn ->
        result = if is_port(worker), do: Port.close(worker), else: Leash.Worker.stop(worker)
        say("stopped #{label} #{inspect(result)}")
      end)
    end
  end

  defp command(["stop_all"], _workers) do
    spawn(fn ->
      {result, stopped} = Leash.stop_all()
      say("stopped all #{result} #{length(stopped)}")
    end)
  end

  defp command(["owner_exits"], workers), do: owners(workers, &send(&1, :exit))
  defp command(["owner_raises"], workers), do: owners(workers, &send(&1, :raise))
  defp command(["owner_halts"], workers), do: owners(workers, &send(&1, :halt))
  defp command(["owner_goes_on"], workers), do: owners(workers, &send(&1, :go_on))
  defp command(["owner_killed"], workers), do: owners(workers, &Process.exit(&1, :kill))

  defp command(["worker_killed"], workers) do
    for {_label, %{worker: pid}} <- workers, is_pid(pid), do: Process.exit(pid, :kill)
  end

  defp command(["halt"], _workers), do: System.halt(0)
  defp command(["init_stop"], _workers), do: :init.stop()
  defp command(["abort"], _workers), do: :erlang.halt(:abort)
  defp command(["app_stop"], _workers), do: say("done #{inspect(Application.stop(:leash))}")

  # Runs code of the test's own, and prints its value.
  defp command(["eval", code], _workers) do
    {result, _binding} = code |> Base.decode64!() |> Code.eval_string()
    say("done #{result |> :erlang.term_to_binary() |> Base.encode64()}")
  end

  defp owners(workers, act), do: for({_label, %{owner: owner}} <- workers, do: act.(owner))

  defp say(line), do: IO.puts(line)
end
