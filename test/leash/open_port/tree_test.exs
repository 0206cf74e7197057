defmodule Leash.OpenPort.TreeTest do
  @moduledoc "The ends of a port's tree, seen from outside."

  use Leash.Test.Case, async: true

  alias Leash.OpenPort
  alias Leash.Test.Python

  # More than the pipe and the port's own buffer hold, so that data stay in its queue.
  @flood 300_000

  # Opens a port for a shape or a line of shell, in a carrier, and waits for its `ready` line.
  defp open_tree(what, options \\ []), do: open_tree(what, options, new_carrier())

  defp open_tree(what, options, carrier) do
    program = command(what, carrier)
    options = [:binary, :exit_status, {:stop, program[:stop]} | options]
    port = Leash.open_port(program[:command], program[:args], options)
    {:os_pid, shim} = Port.info(port, :os_pid)
    tree = port |> ready("") |> Enum.map(&Observer.identity/1)
    %{port: port, carrier: carrier, shim: Observer.identity(shim), os: hd(tree), tree: tree}
  end

  defp ready(port, text) do
    case Regex.run(~r/^ready((?: \d+)*)\n/m, text) do
      [_all, pids] ->
        pids |> String.split() |> Enum.map(&String.to_integer/1)

      nil ->
        receive do
          {^port, {:data, more}} -> ready(port, text <> more)
        after
          10_000 -> flunk("no ready line in #{inspect(text)}")
        end
    end
  end

  # Does the same with an owner process of its own, which does what it is sent.
  defp owned_tree(what, options) do
    test = self()
    carrier = new_carrier()

    owner =
      spawn(fn ->
        tree = open_tree(what, options, carrier)
        send(test, {self(), tree})
        own(tree.port)
      end)

    assert_receive {^owner, tree}, 15_000
    Map.put(tree, :owner, owner)
  end

  defp own(port) do
    receive do
      :flood ->
        # The data are queued, and the call does not wait for them.
        Port.command(port, :binary.copy("x", @flood), [:nosuspend])
        own(port)

      {:act, act} ->
        act.()
    end
  end

  defp flood(tree) do
    send(tree.owner, :flood)
    assert_eventually(fn -> queued(tree.port) > 0 end)
  end

  defp queued(port), do: with({:queue_size, size} <- Port.info(port, :queue_size), do: size)

  defp row(tree) do
    {shim, _ticks} = tree.shim
    Enum.find(Leash.list(), &(&1.shim_pid == shim))
  end

  defp assert_freed(tree), do: assert_eventually(fn -> row(tree) == nil end)

  # Receives the exit status, and no second one.
  defp assert_status(%{port: port}, status, ms \\ 5_000) do
    assert_receive {^port, {:exit_status, ^status}}, ms
    assert_receive {:EXIT, ^port, :normal}, ms
    refute_received {^port, {:exit_status, _}}
  end

  test "a port is listed by its program's name until its tree is gone, then its number is free" do
    tree = open_tree({:sh, "echo ready $$; read line"})
    assert %{label: "sh", tree: :alive, pid: keeper} = row(tree)
    assert Process.alive?(keeper)
    Port.close(tree.port)
    assert_gone(tree, 3_000)
    assert_freed(tree)
    refute Process.alive?(keeper)
  end

  test "a program that ended by itself is off the list, also without exit_status" do
    for options <- [[], [:exit_status], [:eof]] do
      port = Leash.open_port("sleep", ["0.1"], options)
      {:os_pid, shim} = Port.info(port, :os_pid)
      assert Enum.any?(Leash.list(), &(&1.shim_pid == shim and &1.label == "sleep"))
      assert_eventually(fn -> not Enum.any?(Leash.list(), &(&1.shim_pid == shim)) end)
    end
  end

  test "the tag is on the tree, and :mark and :run_id_flag are a Worker's" do
    tree = open_tree({:sh, "echo ready $$; read line"})
    {pid, _ticks} = tree.os
    assert File.read!("/proc/#{pid}/environ") =~ "LEASH_RUN=#{Leash.run_id()}."
    refute locks(pid) =~ "unlimited"

    plain = open_tree({:sh, "echo ready $$; read line"}, mark: false)
    {pid, _ticks} = plain.os
    assert locks(pid) == locks(System.pid())

    port =
      Leash.open_port("sh", ["-c", "echo $@", "sh"], [:binary, :exit_status, run_id_flag: "--run"])

    data = "--run #{Leash.run_id()}\n"
    assert_receive {^port, {:data, ^data}}, 5_000
    for %{port: port} = each <- [tree, plain], do: Port.close(port) && assert_gone(each, 3_000)
  end

  defp locks(pid) do
    "/proc/#{pid}/limits" |> File.stream!() |> Enum.find(&(&1 =~ "locks"))
  end

  @tag :slow
  test "Port.close ends a daemon, a child without environment and one in a session of its own" do
    decoy = start_decoy("beside a port", argv: ["--run-id=#{Leash.run_id()}"])

    for shape <- [:daemon, :env_i, :setsid_child, :leader_dies_first, :overwritten] do
      tree = open_tree(shape)
      assert_alive(tree)
      Port.close(tree.port)
      assert_gone(tree, 3_000)
      assert_freed(tree)
    end

    assert_unharmed(decoy)
  end

  test "Port.close asks first, by the ladder, and kills after the grace" do
    tree = open_tree(:ignores_term, stop: [sigterm: 300])
    Port.close(tree.port)
    assert_gone(tree, 3_000) |> then(&assert &1 >= 200)

    path = Path.join(tmp_dir!(), "asked")
    line = "trap 'echo asked > #{path}; exit' TERM; echo ready $$; while :; do sleep 0.05; done"
    tree = open_tree({:sh, line}, stop: [sigterm: 5_000])
    Port.close(tree.port)
    assert_gone(tree, 3_000)
    assert File.read!(path) == "asked\n"
  end

  @tag :slow
  test "Port.close ends a program that never reads, with 300 kB waiting for it, by the ladder" do
    path = Path.join(tmp_dir!(), "asked")
    line = "trap 'echo asked > #{path}; exit' TERM; echo ready $$; while :; do sleep 0.05; done"
    tree = owned_tree({:sh, line}, stop: [sigterm: 5_000])
    flood(tree)
    send(tree.owner, {:act, fn -> Port.close(tree.port) && Process.sleep(:infinity) end})
    assert_gone(tree, 1_000)
    assert File.read!(path) == "asked\n"
    # The port itself goes, too. With a full queue it would not go while another process had its
    # pipe.
    assert_eventually(fn -> Port.info(tree.port) == nil end)
    assert_freed(tree)
    Process.exit(tree.owner, :kill)
  end

  test "Port.close right after the open, with 300 kB waiting, ends the tree" do
    for _ <- 1..10 do
      carrier = new_carrier()
      program = command({:sh, "sleep 60 & sleep 60"}, carrier)
      port = Leash.open_port(program[:command], program[:args], stop: [sigterm: 300])
      {:os_pid, shim} = Port.info(port, :os_pid)
      Port.command(port, :binary.copy("x", @flood), [:nosuspend])
      Port.close(port)
      assert_eventually(fn -> Observer.state(shim) in [nil, "Z"] end, 1_000)
      assert_gone(carrier, 1_000)
      assert_eventually(fn -> not Enum.any?(Leash.list(), &(&1.shim_pid == shim)) end)
    end
  end

  test "a shim that is executed late is waited for" do
    carrier = new_carrier()
    program = command({:sh, "sleep 60 & sleep 60"}, carrier)
    options = OpenPort.Options.validate!(program[:command], program[:args], [:binary])
    run = Leash.Run.current!()
    {:ok, keeper, number} = OpenPort.PortWatcher.start(run, options)
    {args, env} = Leash.Shim.for_port(run, number, options)

    # On a loaded machine the fork server's child can stand still. Then the number first belongs
    # to a shell.
    late = ["-c", "echo late; sleep 0.3; exec \"$@\"", "sh", Leash.Shim.path() | args]
    port = Port.open({:spawn_executable, "/bin/sh"}, [:binary, args: late, env: env])
    {:os_pid, shim} = Port.info(port, :os_pid)
    assert_receive {^port, {:data, "late\n"}}, 5_000
    Port.command(port, :binary.copy("x", @flood), [:nosuspend])
    OpenPort.PortWatcher.watch(keeper, number, port, shim)
    Port.close(port)

    # The queue is full, so only Leash can tell it. A search by tag would begin a second from now.
    assert_eventually(fn -> Observer.state(shim) in [nil, "Z"] end, 900)
    assert_gone(carrier)
    assert_eventually(fn -> not Enum.any?(Leash.list(), &(&1.worker == number)) end)
  end

  test "a killed owner takes its tree along at once if on_crash is :kill, also if flooded" do
    for full? <- [false, true] do
      tree = owned_tree(:ignores_term, stop: [sigterm: 30_000], on_crash: :kill)
      if full?, do: flood(tree)
      Process.exit(tree.owner, :kill)
      assert_gone(tree, 1_000)
      assert_freed(tree)
    end
  end

  @tag :slow
  test "an owner's end ends the tree by the ladder, and a crash at once where it is to" do
    tree = owned_tree(:ignores_term, stop: [sigterm: 30_000], on_crash: :kill)
    send(tree.owner, {:act, fn -> exit(:crash) end})
    assert_gone(tree, 1_000)

    # An exception makes a reason of more than one word.
    for reason <- [:normal, :shutdown, :crash, {:shutdown, :done}, {%RuntimeError{}, []}],
        full? <- [false, true] do
      tree = owned_tree(:ignores_term, stop: [sigterm: 300])
      if full?, do: flood(tree)
      send(tree.owner, {:act, fn -> exit(reason) end})
      assert_gone(tree, 1_000) |> then(&assert &1 >= 200)
      assert_freed(tree)
    end
  end

  test "the ladder of an owner that exits is not cut short by how another port's owner ended" do
    gentle = owned_tree(:ignores_term, stop: [sigterm: 600])
    crashing = owned_tree(:ignores_term, stop: [sigterm: 30_000], on_crash: :kill)
    send(gentle.owner, {:act, fn -> :ok end})
    Process.exit(crashing.owner, :kill)
    assert_gone(crashing, 500)
    assert Observer.alive?(gentle.os)
    assert_gone(gentle, 3_000)
  end

  test "after Port.connect it is the new owner's end that counts" do
    tree = open_tree(:ignores_term, stop: [sigterm: 30_000], on_crash: :kill)
    heir = spawn(fn -> Process.sleep(:infinity) end)
    Port.connect(tree.port, heir)
    Process.unlink(tree.port)
    Process.exit(heir, :kill)
    assert_gone(tree, 1_000)
    assert_freed(tree)
  end

  test "a supervisor's shutdown of the owner ends the tree" do
    test = self()
    carrier = new_carrier()

    child = %{
      id: :owner,
      start:
        {Task, :start_link,
         [
           fn ->
             send(test, {:tree, open_tree(:plain, [], carrier)})
             Process.sleep(:infinity)
           end
         ]}
    }

    {:ok, supervisor} = Supervisor.start_link([child], strategy: :one_for_one)
    assert_receive {:tree, tree}, 15_000
    Supervisor.stop(supervisor)
    assert_gone(tree, 3_000)
    assert_freed(tree)
  end

  test "exit_status comes once, when a grandchild with stdout has ended within the linger time" do
    tree = open_tree({:sh, "echo ready $$; (sleep 0.3; echo late) & exit 6"}, linger: 10_000)
    assert_receive {port, {:data, "late\n"}}, 5_000
    assert port == tree.port
    assert_status(tree, 6)
    assert_gone(tree)
  end

  test "exit_status comes once, where a daemon would have held stdout for ever" do
    tree = open_tree({:sh, "setsid sleep 60 & echo ready $$ $!; read go; exit 7"}, linger: 50)
    Port.command(tree.port, "go\n")
    assert_status(tree, 7)
    assert_gone(tree)
    assert_freed(tree)
  end

  test "exit_status comes once, where SIGKILL to the shim leaves a daemon that holds stdout" do
    decoy = start_decoy("beside a killed shim", argv: ["--run-id=#{Leash.run_id()}"])

    for shape <- [:daemon, :setsid_child, :plain] do
      tree = open_tree(shape)
      Observer.signal(tree.shim, "KILL")
      assert_gone(tree, 2_000)
      assert_status(tree, 137)
      assert_freed(tree)
    end

    assert_unharmed(decoy)
  end

  test "a signal to the port's os_pid is one to the shim: TERM ends the tree by the ladder" do
    tree = open_tree(:ignores_term, stop: [sigterm: 300])
    Observer.signal(tree.shim, "TERM")
    assert_status(tree, 137)
    assert_gone(tree)
  end

  @tag :slow
  test "a port that only reads ends its tree too, though its program keeps the VM's stdin" do
    for how <- [:close, :kill] do
      tree = owned_tree(:ignores_term, [:in, stop: [sigterm: 300]])

      if how == :close,
        do: send(tree.owner, {:act, fn -> Port.close(tree.port) && Process.sleep(:infinity) end}),
        else: Process.exit(tree.owner, :kill)

      assert_gone(tree, 1_000)
      assert_freed(tree)
      Process.exit(tree.owner, :kill)
    end
  end

  test "a stopped shim is woken when its port closes" do
    tree = open_tree(:plain)
    Observer.signal(tree.shim, "STOP")
    {shim, _ticks} = tree.shim
    assert_eventually(fn -> Observer.state(shim) == "T" end)
    Port.close(tree.port)
    assert_gone(tree, 3_000)
  end

  @tag :slow
  test "the PortWatcher's death ends the tree, and the Reaper frees the number" do
    tree = open_tree(:daemon)
    Process.exit(row(tree).pid, :kill)
    assert_gone(tree, 5_000)
    assert_freed(tree)
  end

  @tag :slow
  test "a caller that is killed in the middle of the open leaves nothing, and no number taken" do
    label = "leash-killed-#{System.unique_integer([:positive])}"
    path = Path.join(tmp_dir!(), label)
    File.cp!(System.find_executable("sh"), path)

    # The time runs from before the number is taken to after the port is watched, so that the kill
    # can hit any instant.
    for delay <- 0..39 do
      carrier = new_carrier()
      args = command({:sh, "sleep 60 & sleep 60"}, carrier)[:args]

      caller =
        spawn(fn ->
          Leash.open_port(path, args, [:binary])
          Process.sleep(:infinity)
        end)

      spin(delay * 40)
      Process.exit(caller, :kill)
      assert_gone(carrier, 3_000)
    end

    assert_eventually(fn -> not Enum.any?(Leash.list(), &(&1.label == label)) end)
  end

  # A busy loop, since no sleep is as short.
  defp spin(microseconds) do
    until = System.monotonic_time(:microsecond) + microseconds
    spin_until(until)
  end

  defp spin_until(until),
    do: if(System.monotonic_time(:microsecond) < until, do: spin_until(until), else: :ok)

  test "what Port.open/2 refuses leaves no number taken" do
    label = "leash-refused-#{System.unique_integer([:positive])}"
    path = Path.join(tmp_dir!(), label)
    File.cp!(System.find_executable("true"), path)
    others = Process.info(self(), :monitored_by)
    assert_raise Leash.OptionsError, fn -> Leash.open_port(path, [], line: 1, packet: 1) end
    refute Enum.any?(Leash.list(), &(&1.label == label))
    # No process waits for a port either.
    assert_eventually(fn -> Process.info(self(), :monitored_by) == others end)
  end

  test "a program that is there and cannot be executed says so with its status" do
    path = Path.join(tmp_dir!(), "script")
    File.write!(path, "#!/nowhere/interpreter\n")
    File.chmod!(path, 0o755)
    # Its reason goes to the VM's stderr, which this test does not capture.
    port =
      Leash.open_port("sh", ["-c", "exec 2>/dev/null; exec #{Python.quote_all([path])}"], [
        :exit_status
      ])

    assert_receive {^port, {:exit_status, status}} when status in [126, 127], 5_000
  end
end
