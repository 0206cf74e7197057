defmodule Leash.Faults.OddProcTest do
  @moduledoc "FAULTS 63–72: a /proc that hides, lies, fails or is odd."

  use Leash.Test.Case, async: false

  @nobody 65_534

  describe "63: with hidepid=2 as an ordinary user" do
    @describetag needs: :hidepid

    test "a start works, a sweep reports that it cannot see, and stop still proves its end" do
      decoys = Decoys.all()
      carrier = new_carrier()
      dir = tmp_dir!()
      :ok = File.chown(dir, @nobody)
      # This user cannot enter the control group itself: the VM is in one already.
      options = [
        command: "sh",
        args: ["-c", "setsid sleep 60 & echo ready; wait"],
        stop: [sigterm: 300]
      ]

      vm =
        start_vm([{"one", options}],
          run_dir: dir,
          carrier: carrier,
          prefix: as_nobody("mount -t proc -o hidepid=2 proc /proc"),
          os_env: %{"HOME" => "/tmp"}
        )

      {:ok, report} = VM.eval(vm, "Leash.sweep()")
      refute report.complete
      assert report.incomplete_because != []
      assert Enum.filter(report.matches, &(&1.action == :ended)) == []
      assert [%{tree: :alive}] = VM.eval(vm, "Leash.list() |> Enum.map(&Map.take(&1, [:tree]))")

      VM.command(vm, "stop")
      assert VM.await_line(vm, "stopped one ") =~ "{:ok, %Leash.Exit{"
      assert Enum.filter(Carrier.members(carrier), &sleeper?/1) == []
      assert Decoys.harmed(decoys) == []
    end
  end

  defp sleeper?({pid, _ticks}), do: match?(["sleep", "60"], Observer.argv(pid))

  describe "63: in a pid namespace that sees the host's /proc" do
    @describetag needs: :pid_namespace

    @tag :slow
    test "a start works, the sweep ends nothing, and stop still proves its end" do
      decoys = Decoys.all()
      carrier = new_carrier()

      vm =
        start_vm([{"one", command(:setsid_child, carrier)}],
          prefix: "unshare --pid --fork --kill-child"
        )

      assert length(Carrier.members(carrier)) == 2
      {:ok, report} = VM.eval(vm, "Leash.sweep()")
      refute report.complete
      assert Enum.filter(report.matches, &(&1.action == :ended)) == []
      VM.command(vm, "stop")
      assert VM.await_line(vm, "stopped one ") =~ "{:ok, %Leash.Exit{"
      assert_gone(carrier)
      assert Decoys.harmed(decoys) == []
    end
  end

  test "64: processes that come and go during a sweep do not disturb it" do
    tree = start_tree([:hoppers, 8])
    for _ <- 1..5, do: assert({:ok, %{survivors: []}} = Leash.sweep(mode: :report))
    assert {:ok, %Exit{}} = Worker.stop(tree.worker)
    assert_gone(tree)
  end

  @tag :slow
  test "65, 73: without a free descriptor a sweep says so, and every end still works" do
    carriers = for _ <- 1..2, do: new_carrier()

    workers =
      for {carrier, n} <- Enum.with_index(carriers),
          do: {"w#{n}", command(:setsid_child, carrier)}

    vm = start_vm(workers, prefix: "prlimit --nofile=100")
    {orphans, dead_run} = orphans()

    # A process of its own opens as many files as it can and keeps them.
    fill = """
    parent = self()
    spawn(fn ->
      fill = fn fill, files ->
        case :file.open("/dev/null", [:read, :raw]) do
          {:ok, file} -> fill.(fill, [file | files])
          {:error, reason} when reason in [:emfile, :system_limit] -> files
        end
      end
      send(parent, {:filled, length(fill.(fill, []))})
      Process.sleep(:infinity)
    end)
    receive do {:filled, count} -> count end
    """

    assert VM.eval(vm, fill) > 20

    case VM.eval(vm, "Leash.sweep()") do
      {:error, reason} -> assert reason == :emfile or match?({:emfile, _path}, reason)
      {:ok, %{complete: false} = report} -> assert report.incomplete_because != []
      {:ok, %{complete: true}} -> assert_gone(orphans)
    end

    if Carrier.members(orphans) != [],
      do: assert(File.exists?(Path.join(Decoys.run_dir(), "#{dead_run}.json")))

    [first, second] = carriers
    vm.workers["w0"].shim |> Observer.signal("KILL")
    assert_gone(first, 3_000)
    VM.command(vm, "stop")
    assert_gone(second, 3_000)

    # With free descriptors again, the sweep finds what was left.
    assert {:ok, _report} = Leash.sweep()
    assert_gone(orphans)
  end

  # Returns what a dead run left, and its id.
  defp orphans do
    carrier = new_carrier()
    vm = start_vm([{"dead", command(:setsid_child, carrier)}])
    kill_all(vm)
    {carrier, vm.run_id}
  end

  describe "66: a name with brackets, a newline and bytes that are no text" do
    test "misleads no reader" do
      tree = start_tree(:odd_name)
      [child] = tree.tree -- [tree.os]
      # A careless reader would take R and 1 from the name.
      info = fn -> child |> elem(0) |> Leash.OSProcess.info() |> elem(1) end
      assert_eventually(fn -> info.().state == "S" end)
      assert info.().ppid == elem(tree.os, 0)
      Observer.signal(tree.shim, "KILL")
      assert_gone(tree, 3_000)
    end
  end

  test "67: two megabytes of arguments that are no text neither match nor stop a sweep" do
    tree = start_tree(:huge_argv)
    [child] = tree.tree -- [tree.os]

    assert_eventually(fn ->
      byte_size(File.read!("/proc/#{elem(child, 0)}/cmdline")) > 1_500_000
    end)

    assert {:ok, report} = Leash.sweep()
    assert %{action: :kept, command: command} = match_of(report, child)
    assert String.valid?(command) and String.length(command) <= 200
    {:ok, info} = Leash.OSProcess.info(elem(child, 0))
    assert info.args == nil or is_list(info.args)
    Observer.signal(tree.shim, "KILL")
    assert_gone(tree, 3_000)
  end

  describe "69: a number" do
    test "that is no process's is refused before anything is sent" do
      for number <- [0, -1, 1, -4_711],
          function <- [:kill, :identify, :alive?],
          do: assert_raise(ArgumentError, fn -> apply(Leash.OSProcess, function, [number]) end)

      for number <- [0, -1, 1],
          do: assert_raise(ArgumentError, fn -> Leash.OSProcess.signal(number, :sigterm) end)
    end

    @tag needs: :pid_namespace
    test "of seven digits is a number like any" do
      carrier = new_carrier()

      seven_digits =
        "echo 4194000 > /proc/sys/kernel/pid_max && echo 4193000 > /proc/sys/kernel/ns_last_pid"

      # Only since Linux 6.14 does a namespace have its own pid_max. Before that, the test changes
      # nothing.
      line = "[ $(cat /proc/sys/kernel/pid_max) -gt 4000000 ] && #{seven_digits}; exec \"$@\""

      prefix =
        "unshare --pid --fork --kill-child --mount-proc sh -c #{Python.quote_all([line])} sh"

      vm = start_vm([{"one", command(:setsid_child, carrier)}], prefix: prefix)
      [worker] = VM.eval(vm, "Leash.list()")

      if worker.os_pid < 1_000_000,
        do: IO.puts("pid_max is not the namespace's own: small numbers only")

      assert {:ok, report} = VM.eval(vm, "Leash.sweep()")
      assert %{action: :kept} = Enum.find(report.matches, &(&1.pid == worker.os_pid))
      shim = worker.shim_pid
      assert :ok = VM.eval(vm, "Leash.OSProcess.signal(#{shim}, :sigkill)")
      assert_gone(carrier, 3_000)
    end
  end

  test "70: a sweep among a thousand processes is quick, and no scheduler waits for it" do
    tree = start_tree([:fan_out, 1_000])
    parent = self()
    # A process on the same schedulers that only measures how late it wakes up.
    ticker = spawn_link(fn -> tick(parent, 0) end)
    assert {:ok, %{elapsed_ms: ms}} = Leash.sweep(mode: :report)
    send(ticker, :stop)
    assert_receive {:latest, late}, 5_000
    assert ms < 2_000
    assert late < 250
    assert {:ok, %Exit{}} = Worker.stop(tree.worker)
    assert_gone(tree)
  end

  defp tick(parent, latest) do
    began = System.monotonic_time(:millisecond)

    receive do
      :stop -> send(parent, {:latest, latest})
    after
      5 -> tick(parent, max(latest, System.monotonic_time(:millisecond) - began - 5))
    end
  end

  test "71: zombies and threads of the kernel are no targets" do
    tree = start_tree(:zombie)
    [zombie] = Enum.reject(tree.tree, &(&1 == tree.os))
    {pid, _ticks} = zombie
    assert Observer.state(pid) == "Z"
    assert {:ok, report} = Leash.sweep()
    assert match_of(report, zombie) == nil
    assert {:error, :esrch} = Leash.OSProcess.signal(pid, :sigterm)

    # In a pid namespace any process may have number 2, and its children have arguments.
    for {kernel_thread, _ticks} <- Observer.all(),
        Observer.parent(kernel_thread) == 2 and Observer.argv(kernel_thread) in [[], [""]] do
      assert {:error, {:refused, :kernel_thread}} =
               Leash.OSProcess.signal(kernel_thread, :sigterm)
    end

    # A tree is gone if its last process is a zombie that no process reaps.
    Observer.signal(tree.shim, "KILL")
    assert_gone(%{tree | tree: []}, 3_000)
  end

  # A command in front that mounts a /proc of its own and then becomes an ordinary user.
  defp as_nobody(mount) do
    become = "setpriv --reuid=#{@nobody} --regid=#{@nobody} --clear-groups"
    "unshare --mount sh -c #{Python.quote_all(["#{mount}; exec #{become} \"$@\""])} sh"
  end
end
