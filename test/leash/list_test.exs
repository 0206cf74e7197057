defmodule Leash.ListTest do
  use Leash.Test.Case, async: false

  alias Leash.Registry.ExitHistory

  setup do
    nothing_is_listed_after()
    %{decoy: start_decoy("lives beside them")}
  end

  defp listed(tree), do: Enum.find(Leash.list(), &(&1.pid == tree.worker))

  # Returns the kernel's figure in kB for the processes in the carrier.
  defp rss(tree) do
    for {pid, _ticks} <- Carrier.members(tree.carrier), reduce: 0 do
      sum ->
        [_all, kb] = Regex.run(~r/^VmRSS:\s+(\d+) kB$/m, File.read!("/proc/#{pid}/status"))
        sum + String.to_integer(kb) * 1024
    end
  end

  for {title, shape} <- [
        {"with children", {:sh, "sleep 60 & sleep 61 & echo ready $$; wait"}},
        {"with a daemon", :daemon},
        {"with a session of its own and no environment", :env_i},
        {"with a name that misleads", :odd_name}
      ] do
    test "a tree #{title} is counted as the kernel does, beside others", %{decoy: decoy} do
      tree = start_tree(unquote(Macro.escape(shape)), group: :pool)
      other = start_tree(:plain)
      members = Carrier.members(tree.carrier)
      row = listed(tree)

      assert row.processes == length(members)
      assert %{group: :pool, name: nil, tree: :alive, last_exit: nil} = row
      assert row.run_id == Leash.run_id()
      assert {row.os_pid, row.shim_pid} == {elem(tree.os, 0), elem(tree.shim, 0)}
      assert row.age in 1..60_000
      # Kernels count it in batches.
      assert_in_delta row.rss, rss(tree), 2_000_000
      assert listed(other).processes == 1

      info = Leash.Tree.info(tree.worker)

      assert Enum.sort(Enum.map(info.members, & &1.os_pid)) ==
               Enum.sort(for {pid, _} <- members, do: pid)

      assert Map.drop(info, [:members, :age, :cpu, :rss]) == Map.drop(row, [:age, :cpu, :rss])

      for member <- info.members do
        assert member.parent == Observer.parent(member.os_pid)
        assert member.state in ["R", "S", "D"]
      end

      assert {:ok, _} = Worker.stop(tree.worker)
      assert_gone(tree)
      assert listed(tree) == nil and Leash.Tree.info(tree.worker) == nil
      assert listed(other).processes == 1
      Worker.stop(other.worker)
      assert_unharmed(decoy)
    end
  end

  test "without a mark the descendants of the shim are counted" do
    tree = start_tree({:sh, "sleep 60 & (sleep 61 & echo ready $$) & wait"}, mark: false)
    other = start_tree(:plain)
    # The subshell ends, and the shim takes in its child.
    assert_eventually(fn -> length(Carrier.members(tree.carrier)) == 3 end)
    assert listed(tree).processes == 3
    assert listed(other).processes == 1
    for each <- [tree, other], do: Worker.stop(each.worker)
  end

  @tag :slow
  test "a run inside of a worker counts for the worker" do
    vm =
      ~s|Leash.Worker.start_link(shell: "echo ready; sleep 60; :", ready: ~r/ready/); IO.puts("ready"); Process.sleep(60_000)|

    paths =
      for path <- :code.get_path(), to_string(path) =~ ~r"/leash/ebin$", do: " -pa '#{path}'"

    line =
      "LEASH_RUN_DIR=#{Leash.Test.Decoys.run_dir()} elixir#{paths} -e 'Application.put_env(:leash, :sweep, false); Application.ensure_all_started(:leash); #{vm}'"

    tree = start_tree({:sh, line})

    inner? = fn ->
      Enum.any?(Leash.Tree.info(tree.worker).members, &(&1.command == "sleep 60"))
    end

    assert_eventually(inner?)

    # A VM starts and ends helpers of its own.
    assert_eventually(fn -> listed(tree).processes == length(Carrier.members(tree.carrier)) end)
    Worker.stop(tree.worker)
    assert_gone(tree, 5_000)
  end

  test "CPU time is that of all, with children that have ended" do
    busy = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"
    quiet = start_tree(:plain)
    tree = start_tree({:sh, "sh -c '#{busy}'; echo ready; sleep 60; :"})
    assert listed(tree).cpu >= 50
    assert listed(tree).cpu > listed(quiet).cpu
    for each <- [tree, quiet], do: Worker.stop(each.worker)
  end

  test "what was attached or adopted is counted, each process once" do
    Process.flag(:trap_exit, true)
    carrier = new_carrier()
    line = Carrier.enter(carrier) <> "sleep 60 & exec sleep 61"

    options = [on_exit: :detach, stdout: :null, stderr: :null, stop: []]
    {:ok, worker} = Worker.start_link([shell: line, name: :list_detached] ++ options)
    assert_eventually(fn -> length(Carrier.members(carrier)) == 2 end)
    os_pid = Worker.os_pid(worker)
    Process.exit(worker, :kill)
    assert_receive {:EXIT, ^worker, :killed}
    {:ok, adopted} = Leash.Worker.adopt(":list_detached")

    port = Port.open({:spawn_executable, "/bin/sh"}, args: ["-c", "sleep 62 & read x"])
    {:ok, attached} = Leash.attach(port, name: :list_attached, stop: [])
    assert_eventually(fn -> match?(%{processes: 2}, Leash.Tree.info(:list_attached)) end)

    assert %{kind: _, processes: 2, os_pid: ^os_pid, members: [_, _]} =
             adopted |> Leash.Tree.info() |> Map.put(:kind, nil)

    assert Enum.map(Leash.list(), & &1.processes) == [2, 2]
    assert length(String.split(Leash.tree(), "\n", trim: true)) == 7
    for pid <- [adopted, attached], do: assert({:ok, _exit} = Worker.stop(pid))
    assert_gone(carrier)
  end

  test "ports and commands are listed, and the table alone can be asked for" do
    port = Leash.open_port("sleep", ["60"], group: :ports)
    # Until then its shim has not executed it yet.
    assert_eventually(fn -> match?([%{processes: 1}], Leash.list()) end)
    assert [%{group: :ports, name: nil} = row] = Leash.list()
    assert [%{processes: nil, rss: nil, cpu: nil} = short] = Leash.list(usage: false)

    assert Map.drop(short, [:processes, :rss, :cpu, :age]) ==
             Map.drop(row, [:processes, :rss, :cpu, :age])

    assert Leash.Tree.info(row.worker).label == "sleep"
    Port.close(port)
  end

  test "wrong options are refused" do
    assert_raise Leash.OptionsError, ~r/:usage.*true or false, got: 1/, fn ->
      Leash.list(usage: 1)
    end

    assert_raise Leash.OptionsError, ~r/one of \[:usage\].*:colour/, fn ->
      Leash.list(colour: 1)
    end

    assert Leash.Tree.info(:nobody) == nil
    assert Leash.Tree.info(31_000) == nil
  end

  test "a name, a number and a process mean the same worker" do
    tree = start_tree(:plain, name: __MODULE__.Named)
    info = Leash.Tree.info(__MODULE__.Named)
    assert %{name: __MODULE__.Named, label: "Leash.ListTest.Named"} = info

    assert [info.pid, info.pid] == [
             Leash.Tree.info(tree.worker).pid,
             Leash.Tree.info(info.worker).pid
           ]

    # The Worker itself is not asked.
    :sys.suspend(tree.worker)
    assert %{processes: 1} = Leash.Tree.info(__MODULE__.Named)
    :sys.resume(tree.worker)
    Worker.stop(tree.worker)
  end

  describe "the last exit" do
    test "is that of the previous life under the name" do
      name = __MODULE__.Restarted

      options = [
        shell: "trap 'exit 3' TERM; echo ready; while :; do sleep 0.1; done",
        name: name,
        ready: ~r/ready/
      ]

      {:ok, supervisor} = Supervisor.start_link([{Worker, options}], strategy: :one_for_one)
      first = Leash.Tree.info(name)
      assert first.last_exit == nil
      System.cmd("kill", ["-TERM", "#{first.os_pid}"])
      assert_eventually(fn -> match?(%{last_exit: %{}}, Leash.Tree.info(name)) end)
      %{last_exit: last} = second = Leash.Tree.info(name)
      assert second.os_pid != first.os_pid
      assert %{reason: {:exit_status, 3}, exit: %Exit{status: 3, cause: :exited}} = last
      assert last.exit.os_pid == first.os_pid
      assert abs(DateTime.diff(DateTime.utc_now(), last.at)) < 60

      # No more than that is known of a killed process.
      Process.exit(second.pid, :kill)

      assert_eventually(fn ->
        match?(%{last_exit: %{reason: :killed}, tree: :alive}, Leash.Tree.info(name))
      end)

      assert Leash.Tree.info(name).last_exit.exit == nil
      Supervisor.stop(supervisor)
    end

    test "is that of a start that failed, too" do
      name = __MODULE__.Failing

      assert {:error, {:exited, _exit}} =
               Worker.start_link(shell: "exit 4", name: name, ready: ~r/never/)

      tree = start_tree(:plain, name: name)
      assert %{exit: %Exit{status: 4}, reason: {:exited, %Exit{}}} = listed(tree).last_exit
      Worker.stop(tree.worker)
    end

    test "is kept of a thousand names, the newest" do
      for number <- 1..1_001, do: ExitHistory.put({:via, __MODULE__, number}, nil, :reason)
      now = System.monotonic_time()
      assert :ets.info(ExitHistory, :size) <= 1_000
      assert ExitHistory.fetch({:via, __MODULE__, 1}, now) == nil
      assert %{reason: :reason} = ExitHistory.fetch({:via, __MODULE__, 2}, now)
      assert %{reason: :reason} = ExitHistory.fetch({:via, __MODULE__, 1_001}, now)
    end
  end
end
