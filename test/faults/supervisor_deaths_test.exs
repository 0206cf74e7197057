defmodule Leash.Faults.SupervisorDeathsTest do
  @moduledoc """
  FAULTS 33–47: owners, applications, VMs and shims that end, hang or get signals together.
  """

  use Leash.Test.Case, async: false

  @moduletag :slow

  alias Leash.Test.Script

  @bound 3_000

  describe "33: an owner that" do
    for {how, what} <- [
          {:exit, "ends normally"},
          {:kill, "is killed"},
          {:raise, "raises"},
          {:linked, "is taken by a linked process"}
        ] do
      @how how
      @tag capture_log: true
      test "#{what} takes its worker with it, and no other" do
        other = start_tree(:setsid_child)
        carrier = new_carrier()
        owner = own(command(:setsid_child, carrier))
        assert length(Carrier.members(carrier)) == 2
        strike(@how, owner)
        assert_gone(carrier, @bound)
        assert_alive(other)
      end
    end
  end

  # An owner in a process of its own, with one worker.
  defp own(options) do
    test = self()

    owner =
      spawn(fn ->
        {:ok, worker} = Worker.start_link([ready: ~r/^ready/] ++ options)
        send(test, {:owns, self(), worker})

        receive do
          :exit ->
            :ok

          :raise ->
            raise "on purpose"

          :link ->
            spawn_link(fn -> exit(:on_purpose) end)
            Process.sleep(:infinity)
        end
      end)

    assert_receive {:owns, ^owner, _worker}, 10_000
    owner
  end

  defp strike(:kill, owner), do: Process.exit(owner, :kill)
  defp strike(:linked, owner), do: send(owner, :link)
  defp strike(how, owner), do: send(owner, how)

  test "33: a supervisor's shutdown ends its workers" do
    carriers = for _ <- 1..3, do: new_carrier()

    children =
      for {carrier, id} <- Enum.with_index(carriers),
          do:
            Supervisor.child_spec({Worker, [ready: ~r/^ready/] ++ command(:daemon, carrier)},
              id: id
            )

    {:ok, supervisor} = Supervisor.start_link(children, strategy: :one_for_one)
    Supervisor.stop(supervisor)
    Enum.each(carriers, &assert_gone/1)
  end

  @tag capture_log: true
  test "34: a storm of restarts leaves only the last workers" do
    carrier = new_carrier()
    line = Carrier.enter(carrier) <> "sleep 60 & echo ready; wait"

    {:ok, supervisor} =
      Supervisor.start_link([{Worker, command: "sh", args: ["-c", line], ready: ~r/ready/}],
        strategy: :one_for_one,
        max_restarts: 1_000
      )

    for _ <- 1..20 do
      [{_id, worker, _type, _modules}] = Supervisor.which_children(supervisor)
      if is_pid(worker), do: Process.exit(worker, :kill)
    end

    assert_eventually(fn -> length(Carrier.members(carrier)) == 2 end)
    Supervisor.stop(supervisor)
    assert_gone(carrier, @bound)
  end

  for command <- ["app_stop", "init_stop", "halt", "abort"] do
    @command command
    test "34, 36: #{command} leaves nothing" do
      {vm, carrier} = vm_with([:setsid_child, :ignores_term, :env_i])
      VM.command(vm, @command)
      assert_gone(carrier, @bound)
      if @command != "app_stop", do: assert_eventually(fn -> not Observer.alive?(vm.identity) end)
    end
  end

  test "34: a crash of each of the application's processes costs no tree its end" do
    {vm, carrier} = vm_with([:setsid_child])

    for name <- ["Leash.Reaper", "Leash.RecordKeeper"] do
      assert VM.eval(vm, "Process.exit(Process.whereis(#{name}), :kill)")
    end

    assert VM.eval(vm, "Process.sleep(200); Leash.list() |> length()") == 1
    VM.command(vm, "worker_killed")
    assert_gone(carrier, @bound)
  end

  @tag timeout: 120_000
  test "35: SIGTERM to a VM with 500 workers ends them all, and its exit is not held up" do
    carrier = new_carrier()
    vm = start_vm([])

    code = """
    owner = fn -> for _ <- 1..125 do
      {:ok, _} = Leash.Worker.start_link(command: "sh", args: ["-c", #{inspect(Carrier.enter(carrier) <> "exec sleep 100")}],
        stdout: :null, stderr: :null)
    end end
    parent = self()
    for _ <- 1..4, do: spawn(fn -> owner.(); send(parent, :started); Process.sleep(:infinity) end)
    for _ <- 1..4, do: (receive do :started -> :ok end)
    length(Leash.list())
    """

    assert VM.eval(vm, code, 60_000) == 500
    assert_eventually(fn -> length(Carrier.members(carrier)) == 500 end)
    VM.signal(vm, "TERM")
    assert_gone(carrier, 5_000)
    assert_eventually(fn -> not Observer.alive?(vm.identity) end, 10_000)
    assert_gone(vm.carrier, 2_000)
  end

  test "36: a child forked in the VM that holds pipes and lock changes nothing" do
    {vm, carrier} = vm_with([:setsid_child, :env_i])
    holder = new_carrier()
    line = "exec " <> Python.quote_all(Python.argv("hold_fds.py", ["#{elem(vm.identity, 0)}"]))
    {port, holding, [held]} = Script.start(line, holder)
    assert String.to_integer(held) > 2

    VM.signal(vm, "KILL")
    assert_gone(carrier, @bound)
    assert_eventually(fn -> not Observer.alive?(vm.identity) end)
    assert Observer.alive?(holding)

    # Another process than the owner still locks the record, and yet the run is dead.
    {:ok, report} = Leash.sweep()
    assert %{verdict: :dead} = run_of(report, vm.run_id)
    Port.close(port)
  end

  test "36: with pipes and lock held and the shims killed, too, the sweep ends the rest" do
    {vm, carrier} = vm_with([:setsid_child, :env_i])
    holder = new_carrier()
    line = "exec " <> Python.quote_all(Python.argv("hold_fds.py", ["#{elem(vm.identity, 0)}"]))
    {port, _holding, _held} = Script.start(line, holder)

    kill_all(vm)
    assert length(Carrier.members(carrier)) == 2
    assert {:ok, %{survivors: []}} = Leash.sweep()
    assert_gone(carrier)
    Port.close(port)
  end

  test "37: a stopped VM keeps its workers, and goes on with them" do
    {vm, carrier} = vm_with([:setsid_child])
    before = Carrier.members(carrier)
    VM.signal(vm, "STOP")
    # Nothing may happen, so there is no condition to wait for.
    assert Observer.eventually(1_500, fn -> Carrier.members(carrier) != before end) == nil
    {:ok, report} = Leash.sweep()
    assert %{verdict: :live} = run_of(report, vm.run_id)
    VM.signal(vm, "CONT")
    assert VM.eval(vm, "Enum.map(Leash.list(), & &1.tree)") == [:alive]
    assert Carrier.members(carrier) == before
    VM.command(vm, "stop")
    assert_gone(carrier, @bound)
  end

  @tag capture_log: true
  test "38: a killed shim is told as such, and everything is gone within a second" do
    tree = start_tree(:daemon)
    monitor = Process.monitor(tree.worker)
    Observer.signal(tree.shim, "KILL")
    assert_gone(tree, 1_000)
    assert_receive {:DOWN, ^monitor, :process, _, :shim_died}, 1_000
  end

  test "39: VM and shims killed at once leave orphans, which the next sweep ends and names" do
    {vm, carrier} = vm_with([:daemon, :env_i, :leader_dies_first])
    kill_all(vm)
    orphans = Carrier.members(carrier)
    assert length(orphans) == 3

    {:ok, seen} = Leash.sweep(mode: :report)
    assert Carrier.members(carrier) == orphans

    for orphan <- orphans do
      assert %{verdict: :dead, run_id: run_id, carriers: [_ | _]} = match_of(seen, orphan)
      assert run_id == vm.run_id
    end

    {:ok, report} = Leash.sweep()
    assert_gone(carrier)
    for orphan <- orphans, do: assert(%{action: :ended} = match_of(report, orphan))
    assert vm.run_id in report.records_dropped
  end

  test "41: a stopped shim does not hold up a stop" do
    tree = start_tree(:setsid_child)
    Observer.signal(tree.shim, "STOP")
    assert {:ok, %Exit{}} = Worker.stop(tree.worker)
    assert_gone(tree, 500)
  end

  @tag capture_log: true
  test "41: a stopped shim does not save its tree from a brutal kill of the Worker" do
    tree = start_tree(:setsid_child)
    Observer.signal(tree.shim, "STOP")
    Process.exit(tree.worker, :kill)
    assert_gone(tree, @bound)
  end

  test "91: a stopped shim of a dead run is found at the next start, and its tree ends" do
    {vm, carrier} = vm_with([:setsid_child])
    Observer.signal_all(VM.shims(vm), "STOP")
    # The warden would continue the shim.
    Observer.kill_together([vm.identity | VM.wardens(vm)])
    assert length(Carrier.members(carrier)) == 2
    assert {:ok, %{survivors: []}} = Leash.sweep()
    assert_gone(carrier, 500)
    for shim <- VM.shims(vm), do: refute(Observer.alive?(shim))
  end

  @tag needs: :cgroup
  test "42: the end of the thread that started a shim ends neither it nor its worker" do
    carrier = new_carrier()

    code = """
    import subprocess, sys, threading, time
    started = []
    def start():
        started.append(subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL))
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    print("ready", started[0].pid, flush=True)
    time.sleep(60)
    """

    argv = [Python.path(), "-c", code, Script.shim(), "--run-id=zzbyhnd", "--", "sleep", "60"]
    {port, _python, [shim]} = Script.start("exec " <> Python.quote_all(argv), carrier)
    assert_eventually(fn -> length(Carrier.members(carrier)) == 3 end)
    before = Carrier.members(carrier)
    assert Observer.eventually(300, fn -> Carrier.members(carrier) != before end) == nil
    shim |> String.to_integer() |> Observer.identity() |> Observer.signal("TERM")
    assert_eventually(fn -> length(Carrier.members(carrier)) == 1 end)
    Port.close(port)
  end

  test "43: a worker has no descriptors but its own three, and sees the end of its stdin" do
    tree = start_tree({:sh, "echo ready $$; cat; echo over"}, stdin: :pipe)

    {pid, _ticks} = tree.os
    {:ok, fds} = File.ls("/proc/#{pid}/fd")
    # The carrier's own number is there if no control group can be made.
    assert Enum.sort(fds) -- ["9"] == ["0", "1", "2"]
    neighbour = start_tree(:plain)
    monitor = Process.monitor(tree.worker)
    assert :ok = Worker.close_stdin(tree.worker)
    assert_receive {:DOWN, ^monitor, :process, _, reason} when reason in [:normal, :noproc], 3_000
    assert_gone(tree)
    assert_alive(neighbour)
  end

  test "44: TERM to every process at once leaves nothing and logs no error" do
    {vm, carrier} = vm_with([:setsid_child, :plain, :env_i])
    log = vm.log
    Observer.signal_all(Carrier.members(vm.carrier) ++ Carrier.members(carrier), "TERM")
    assert_gone(carrier, @bound)
    assert_gone(vm.carrier, 8_000)
    refute File.read!(log) =~ "[error]"
  end

  test "45: KILL of nothing but the VM leaves nothing" do
    {vm, carrier} = vm_with([:setsid_child, :daemon])
    VM.signal(vm, "KILL")
    assert_gone(carrier, @bound)
    assert_gone(vm.carrier, @bound)
  end

  for signal <- ["HUP", "INT", "QUIT"] do
    @signal signal
    test "46: SIG#{signal} to the VM does not orphan workers" do
      {vm, carrier} = vm_with([:setsid_child])
      before = Carrier.members(carrier)
      VM.signal(vm, @signal)
      Observer.eventually(1_000, fn -> not Observer.alive?(vm.identity) end)

      # The VM decides what the signal means. The workers live as long as the VM.
      if Observer.alive?(vm.identity),
        do: assert(Carrier.members(carrier) == before),
        else: assert_gone(carrier, @bound)
    end
  end

  @tag needs: :cgroup
  test "46: Ctrl-C in a terminal ends what a shim in its foreground runs" do
    carrier = new_carrier()

    code = """
    import os, pty, sys, time, select
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.argv[1], sys.argv[1:])
    seen = b""
    while b"up" not in seen:
        seen += os.read(terminal, 100)
    print("ready", pid, flush=True)
    os.read(0, 1)
    os.write(terminal, b"\\x03")
    print("status", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    """

    argv =
      [Python.path(), "-c", code, Script.shim(), "--run-id=zzbyhnd", "--foreground", "--"] ++
        ["sh", "-c", "sleep 60 & echo up; wait"]

    {port, _python, [shim]} = Script.start("exec " <> Python.quote_all(argv), carrier)
    assert length(Carrier.members(carrier)) == 4
    Port.command(port, "x")
    shim = Observer.identity(String.to_integer(shim))
    assert_eventually(fn -> not Observer.alive?(shim) end)
    assert_gone(carrier, @bound)
  end

  @tag needs: :cgroup
  test "47: a shim whose reports have no reader any more still ends its tree" do
    carrier = new_carrier()

    code = """
    import os, subprocess, sys, time
    read, write = os.pipe()
    shim = subprocess.Popen([sys.argv[1], "--run-id=zzbyhnd", f"--report={write}"] + sys.argv[2:],
        pass_fds=[write], stdin=subprocess.DEVNULL, stdout=write, stderr=write)
    os.close(write)
    os.read(read, 1)
    os.close(read)
    print("ready", shim.pid, flush=True)
    time.sleep(60)
    """

    argv = [
      Python.path(),
      "-c",
      code,
      Script.shim(),
      "--",
      "sh",
      "-c",
      "setsid sleep 60 & sleep 60"
    ]

    {port, _python, [shim]} = Script.start("exec " <> Python.quote_all(argv), carrier)
    assert_eventually(fn -> length(Carrier.members(carrier)) == 5 end)
    shim |> String.to_integer() |> Observer.identity() |> Observer.signal("TERM")
    assert_eventually(fn -> length(Carrier.members(carrier)) == 1 end)
    Port.close(port)
  end

  test "39, 90: a new start waits for the shims of a dead run, whose ladder is not cut short" do
    carrier = new_carrier()
    options = Keyword.merge(command([:ends_on_term, 1_200, 0], carrier), stop: [sigterm: 5_000])
    vm = start_vm([{"slow", options}])
    VM.signal(vm, "KILL")
    assert_eventually(fn -> not Observer.alive?(vm.identity) end)
    assert length(Carrier.members(carrier)) == 1
    {:ok, report} = Leash.sweep()
    assert_gone(carrier)
    assert report.survivors == []
    refute Enum.any?(report.matches, &(&1.ended_by == :sigkill))
  end

  # A VM whose workers are all in one carrier.
  defp vm_with(shapes) do
    carrier = new_carrier()
    {start_vm(for shape <- shapes, do: {"#{shape}", command(shape, carrier)}), carrier}
  end
end
