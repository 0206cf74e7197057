defmodule Leash.Faults.TreeShapesTest do
  @moduledoc "FAULTS 12–24: trees that are deep, wide, quick, hidden, or not quite trees."

  # Some of these tests fill the machine for a moment.
  use Leash.Test.Case, async: false

  describe "by stop" do
    test "12, 13: a double-forked daemon and a child in a session of its own end" do
      for shape <- [:daemon, :setsid_child] do
        tree = start_tree(shape)
        assert_alive(tree)
        assert {:ok, %Exit{}} = Worker.stop(tree.worker)
        assert_gone(tree)
      end
    end

    test "14: a process group made by job control ends" do
      tree = start_tree(:job_control)
      assert {:ok, %Exit{}} = Worker.stop(tree.worker)
      assert_gone(tree)
    end

    test "15: a chain thirty levels deep ends" do
      tree = start_tree([:chain, 30])
      assert length(tree.tree) == 31
      assert {:ok, %Exit{}} = Worker.stop(tree.worker)
      assert_gone(tree)
    end

    @tag :slow
    test "15: a thousand children end in bounded time" do
      tree = start_tree([:fan_out, 1_000], stop: [sigterm: 2_000])
      assert length(Carrier.members(tree.carrier)) == 1_001
      assert {:ok, %Exit{duration: ms}} = Worker.stop(tree.worker)
      assert_gone(tree)
      assert ms < 3_000
    end

    @tag :slow
    test "16: sixty-four processes that hop from pid to pid end" do
      tree = start_tree([:hoppers, 64])
      assert {:ok, %Exit{}} = Worker.stop(tree.worker)
      assert_gone(tree)
    end

    @tag needs: :pids_limit
    test "17: a fork bomb at its limit of processes ends" do
      {enter, clear} = pids_limit(200)
      on_exit(clear)
      line = enter <> "exec " <> Python.quote_all(Python.argv("odd.py", ["bomb"]))
      tree = start_tree({:sh, line})
      assert_eventually(fn -> length(Carrier.members(tree.carrier)) > 150 end)
      assert {:ok, %Exit{}} = Worker.stop(tree.worker)
      assert_gone(tree)
    end

    test "18: a process whose main thread ended while another runs counts as alive, and ends" do
      tree = start_tree(:leader_thread_exits)
      {pid, _ticks} = tree.os
      assert_eventually(fn -> Observer.state(pid) == "Z" end)
      assert_alive(tree)
      assert Leash.OSProcess.alive?(pid)
      assert {:ok, %Exit{step: :sigkill}} = Worker.stop(tree.worker)
      assert_gone(tree)
    end

    test "19: a worker that is a subreaper itself ends with its orphans" do
      tree = start_tree(:subreaper)
      assert {:ok, %Exit{}} = Worker.stop(tree.worker)
      assert_gone(tree)
    end

    @tag needs: :pid_namespace
    test "20: a pid namespace ends as a whole" do
      tree = start_tree({:sh, "#{unshare()} sh -c 'sleep 60 & sleep 60 & echo ready; wait'"})
      assert length(Carrier.members(tree.carrier)) >= 4
      assert {:ok, %Exit{}} = Worker.stop(tree.worker)
      assert_gone(tree)
    end

    @tag needs: :cc
    test "22: a vfork child before its exec and a posix_spawn child end" do
      program = Path.join(tmp_dir!(), "vfork")
      {_output, 0} = System.cmd("cc", ["-w", "-o", program, Python.fixture("vfork.c")])
      tree = start_tree({:sh, "exec #{program}"})
      assert_eventually(fn -> length(Carrier.members(tree.carrier)) == 3 end)
      assert {:ok, %Exit{}} = Worker.stop(tree.worker)
      assert_gone(tree)
    end

    test "23: a child of the shim's by CLONE_PARENT, and one whose end sends no SIGCHLD, end" do
      for shape <- [:clone_parent, :clone_silent] do
        tree = start_tree(shape)
        assert_alive(tree)
        assert {:ok, %Exit{}} = Worker.stop(tree.worker)
        assert_gone(tree)
      end
    end

    test "python's multiprocessing workers end" do
      code = """
      import multiprocessing, os, time
      if __name__ == "__main__":
          multiprocessing.set_start_method("spawn")
          pool = [multiprocessing.Process(target=time.sleep, args=(60,)) for _ in range(3)]
          [p.start() for p in pool]
          print("ready", os.getpid(), *[p.pid for p in pool], flush=True)
          time.sleep(60)
      """

      script = Path.join(tmp_dir!(), "pool.py")
      File.write!(script, code)
      tree = start_tree({:sh, "exec #{Python.path()} #{script}"})
      assert {:ok, %Exit{}} = Worker.stop(tree.worker)
      assert_gone(tree)
    end

    @tag needs: :node
    test "node's detached children with an empty environment end" do
      code =
        ~S|const c = require("child_process").spawn("/bin/sleep", ["60"], {detached: true, env: {}, stdio: "ignore"});| <>
          ~S| console.log("ready", process.pid, c.pid); setTimeout(() => {}, 60000)|

      tree = start_tree({:sh, "exec node -e '#{code}'"})
      assert {:ok, %Exit{}} = Worker.stop(tree.worker)
      assert_gone(tree)
    end
  end

  describe "by mark, after the shim was killed" do
    for {number, shape} <- [
          {"12", :daemon},
          {"13", :setsid_child},
          {"15", [:chain, 30]},
          {"15", [:fan_out, 300]},
          {"16", [:hoppers, 16]},
          {"18", :leader_thread_exits},
          {"23", :clone_parent},
          {"23", :clone_silent}
        ] do
      @shape shape
      # The hoppers get their share of a machine under load, too, and use it to hop.
      @within if match?([:hoppers | _], shape), do: 15_000, else: 3_000
      test "#{number}: nothing is left of #{inspect(shape)}, and the owner is told that the shim died" do
        tree = start_tree(@shape)
        assert_alive(tree)
        monitor = Process.monitor(tree.worker)
        Observer.signal(tree.shim, "KILL")
        assert_gone(tree, @within)
        assert_receive {:DOWN, ^monitor, :process, _, :shim_died}, @within
      end
    end

    @tag needs: :pid_namespace
    test "21: what moved into a foreign pid namespace as a daemon is found" do
      tree = start_tree({:sh, nsenter_line(foreign_namespace())})
      [_nsenter_daemon | _] = Carrier.members(tree.carrier)
      Observer.signal(tree.shim, "KILL")
      assert_gone(tree, 3_000)
    end
  end

  @tag needs: :pid_namespace
  @tag :slow
  test "21: what moved into a foreign pid namespace as a daemon is ended or reported by stop" do
    tree = start_tree({:sh, nsenter_line(foreign_namespace())})

    case Worker.stop(tree.worker) do
      {:ok, %Exit{}} ->
        assert_gone(tree, 2_000)

      {:error, %{survivors: survivors}} ->
        left = for {pid, _ticks} <- Carrier.members(tree.carrier), do: pid
        assert Enum.sort(Enum.map(survivors, & &1.pid)) == Enum.sort(left)
    end
  end

  @tag :slow
  test "19: a VM nested in a worker ends with all its workers when the outer worker stops" do
    {tree, inner} = nested_vm()
    assert {:ok, %Exit{}} = Worker.stop(tree.worker)
    assert_gone(tree, 3_000)
    assert_gone(inner, 3_000)
  end

  test "19: a VM nested in a worker ends with all its workers when the shim of that is killed" do
    {tree, inner} = nested_vm()
    Observer.signal(tree.shim, "KILL")
    assert_gone(tree, 3_000)
    assert_gone(inner, 3_000)
  end

  @tag :slow
  test "19: by mark alone a nested VM with a live run is kept, and so are its workers" do
    {tree, inner} = nested_vm()
    vm = Enum.find(Carrier.members(tree.carrier), &beam?/1)
    inner_before = Carrier.members(inner)
    # The warden started the shim. Without it, nothing knows the processes below the shim.
    warden = Observer.identity(Observer.parent(elem(tree.shim, 0)))
    Observer.signal(warden, "KILL")

    assert_eventually(fn -> not Observer.alive?(warden) and Leash.capabilities().warden == :ok end)

    Observer.signal(tree.shim, "KILL")
    monitor = Process.monitor(tree.worker)
    assert_receive {:DOWN, ^monitor, :process, _, reason}, 5_000
    assert Observer.alive?(vm)
    assert Carrier.members(inner) == inner_before

    # The sweep keeps the nested VM and does not forget it.
    assert reason == :shim_died or inspect(reason) =~ "live_run_owner"
    {:ok, report} = Leash.sweep(mode: :report)
    assert %{verdict: verdict, action: :kept} = match_of(report, vm)
    assert verdict in [:own, :live_run_owner]

    # At the end of its own VM the inner run ends like any other run.
    Observer.signal(vm, "KILL")
    assert_gone(inner, 3_000)
  end

  # A worker whose child is a VM with a worker of its own.
  defp nested_vm do
    inner = new_carrier()
    workers = [{"inner", command(:setsid_child, inner)}]
    env = VM.variables(Leash.Test.Decoys.run_dir(), workers)
    fifo = Path.join(tmp_dir!(), "stdin")
    {_output, 0} = System.cmd("mkfifo", [fifo])
    # Runs in the background, so that it is not the shim's direct child. Its stdin never ends.
    line = "#{VM.command_line()} <>#{fifo} & wait"
    tree = start_tree({:sh, line}, env: env, stderr: :null, stop: [sigterm: 1_000])

    assert_eventually(fn -> length(Carrier.members(inner)) == 2 end, 15_000)
    {tree, inner}
  end

  defp beam?({pid, _ticks}), do: pid |> Observer.argv() |> hd() |> Path.basename() == "beam.smp"

  defp unshare, do: "unshare --pid --fork --kill-child --mount-proc"

  # Makes a pid namespace outside of the run, and returns the pid of its init.
  defp foreign_namespace do
    carrier = new_carrier()
    line = Carrier.enter(carrier) <> "exec #{unshare()} sleep 60"
    port = Port.open({:spawn_executable, "/bin/sh"}, args: ["-c", line])
    {:os_pid, unshare} = Port.info(port, :os_pid)
    init = fn -> Enum.find(Carrier.members(carrier), fn {pid, _} -> pid != unshare end) end
    assert_eventually(fn -> init.() != nil end)
    {pid, _ticks} = init.()
    assert_eventually(fn -> Observer.argv(pid) == ["sleep", "60"] end)
    pid
  end

  defp nsenter_line(init) do
    # The process reports when it is in a session of its own.
    "nsenter -t #{init} -p -- sh -c 'setsid sh -c \"echo ready; exec sleep 60\" & exit 0'; " <>
      "sleep 60 & wait"
  end

  # Shell code that enters a group with a limit on processes, and code that removes the group.
  defp pids_limit(most) do
    group = "/sys/fs/cgroup/pids/" <> Leash.Test.Name.unique("leash-test")

    File.mkdir!(group)
    File.write!(Path.join(group, "pids.max"), "#{most}")

    {"echo $$ > #{group}/cgroup.procs; ",
     fn -> Observer.eventually(3_000, fn -> File.rmdir(group) != {:error, :ebusy} end) end}
  end
end
