defmodule Leash.CgroupTest do
  # The limits themselves need controllers, which version 1 has on this kind of machine. The
  # situation "cgroup" of script/kernels tests those.
  use Leash.Test.Case, async: false

  alias Leash.OptionsError

  @moduletag needs: :cgroup2

  # Two sleeping processes, one of them in a session of its own and without environment.
  @pair "setsid env -i sleep 60 & sleep 60 & echo ready $$; wait"

  defp start!(line, options \\ []) do
    test = self()
    said = fn _stream, text -> send(test, {:said, text}) end
    own = [command: "sh", args: ["-c", line], cgroup: true, stop: [sigterm: 300]]
    options = Keyword.merge([ready: ~r/^ready/, on_output: said] ++ own, options)
    {:ok, worker} = Worker.start_link(options)
    info = Worker.info(worker)
    on_exit(fn -> clear(info.cgroup) end)
    {worker, info}
  end

  # In case that the code under test fails.
  defp clear(group) when is_binary(group) do
    File.write(Path.join(group, "cgroup.kill"), "1")
    Observer.eventually(5_000, fn -> File.rmdir(group) in [:ok, {:error, :enoent}] end)
  end

  defp clear(_none), do: :ok

  defp members(group) do
    for pid <- group |> Path.join("cgroup.procs") |> File.read!() |> String.split(),
        do: Observer.identity(String.to_integer(pid))
  end

  defp grown(group, count),
    do: assert_eventually(fn -> length(members(group)) == count end)

  defp group_of(text) do
    [_all, name] = Regex.run(~r{^0::.*/(leash-[^/\n]+)$}m, text)
    name
  end

  defp parent do
    {:ok, %{parent: parent}} = Leash.capabilities().cgroup
    parent
  end

  defp groups, do: parent() |> Path.join("leash-#{Leash.run_id()}-*") |> Path.wildcard()

  describe "the group of a tree" do
    test "holds the program and what it starts, not the shim, and goes with the tree" do
      decoy = start_decoy("beside the group")
      {worker, info} = start!(@pair)
      assert Path.basename(info.cgroup) == "leash-#{info.run_id}-#{info.worker}"
      assert Path.dirname(info.cgroup) == parent()
      grown(info.cgroup, 3)
      members = members(info.cgroup)
      assert Enum.all?(members, &Observer.alive?/1)
      refute Observer.identity(info.shim_pid) in members

      assert {:ok, %Exit{oom_killed?: false}} = Worker.stop(worker)
      refute Enum.any?(members, &Observer.alive?/1)
      refute File.exists?(info.cgroup)
      assert_unharmed(decoy)
    end

    test "counts the CPU time of processes that are long gone" do
      busy = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"
      {worker, _info} = start!("sh -c '#{busy}'; echo ready; sleep 60")
      assert {:ok, %Exit{cpu_time: ms}} = Worker.stop(worker)
      assert ms > 20
      {worker, _info} = start!("echo ready; sleep 60")
      assert {:ok, %Exit{cpu_time: less}} = Worker.stop(worker)
      assert less < ms
    end

    test "is that of a command, a stream and a port, and is removed after them" do
      show = ["/proc/self/cgroup"]
      assert {text, 0} = Leash.cmd("cat", show, cgroup: true)
      refute File.exists?(Path.join(parent(), group_of(text)))
      text = Leash.stream!("cat", show, cgroup: true) |> Enum.join()
      refute File.exists?(Path.join(parent(), group_of(text)))
      port = Leash.open_port("cat", show, [:binary, :exit_status, cgroup: true])
      assert_receive {^port, {:data, text}}, 5_000
      assert_receive {^port, {:exit_status, 0}}, 5_000
      group = Path.join(parent(), group_of(text))
      assert_eventually(fn -> not File.exists?(group) end)
      assert {text, 0} = Leash.cmd("cat", show, cgroup: false)
      refute text =~ "/leash-#{Leash.run_id()}"
    end

    test "ends a process that joined it, and none outside" do
      {worker, info} = start!("echo ready; sleep 60")
      port = Port.open({:spawn_executable, "/bin/sleep"}, args: ["60"])
      {:os_pid, pid} = Port.info(port, :os_pid)
      joined = Observer.identity(pid)
      decoy = start_decoy("beside a process that joined")
      File.write!(Path.join(info.cgroup, "cgroup.procs"), "#{pid}")
      assert joined in members(info.cgroup)

      assert {:ok, _exit} = Worker.stop(worker)
      assert_eventually(fn -> not Observer.alive?(joined) end)
      refute File.exists?(info.cgroup)
      assert_unharmed(decoy)
    end

    test "is removed with groups that the program made below it" do
      {worker, info} = start!("d=$(echo #{parent()}/leash-*/cgroup.procs); echo ready; sleep 60")

      below = Path.join(info.cgroup, "below")
      File.mkdir!(below)
      File.write!(Path.join(below, "cgroup.procs"), "#{info.os_pid}")
      assert {:ok, _exit} = Worker.stop(worker)
      refute File.exists?(info.cgroup)
    end

    test "is removed when the Worker is killed" do
      {worker, info} = start!(@pair)
      grown(info.cgroup, 3)
      members = members(info.cgroup)
      Process.exit(worker, :kill)
      assert_eventually(fn -> not File.exists?(info.cgroup) end)
      refute Enum.any?(members, &Observer.alive?/1)
    end

    test "is read and removed when the shim is killed" do
      {worker, info} = start!(@pair)
      grown(info.cgroup, 3)
      members = members(info.cgroup)
      Observer.signal(Observer.identity(info.shim_pid), "KILL")
      assert_receive {:EXIT, ^worker, _reason}, 10_000
      refute Enum.any?(members, &Observer.alive?/1)
      refute File.exists?(info.cgroup)
    end

    test "goes on with what a command keeps, and ends with it" do
      line = "sleep 60 >/dev/null 2>&1 & cat /proc/self/cgroup"
      assert {text, 0} = Leash.cmd("sh", ["-c", line], cgroup: true, on_exit: :keep)
      group = Path.join(parent(), group_of(text))
      on_exit(fn -> clear(group) end)
      assert [kept] = members(group)
      # The number is free again, and its group was looked at.
      assert_eventually(fn -> Leash.Registry.all() == [] end, 10_000)
      await_clearing()
      assert Observer.alive?(kept)
      assert members(group) == [kept]
      Observer.signal(kept, "KILL")
      assert_eventually(fn -> not File.exists?(group) end, 10_000)
    end

    test "goes on with a detached worker, and ends with it" do
      own = [name: :cgroup_detached, on_exit: :detach, stdout: :null, stderr: :null]
      options = [ready: nil, on_output: :log] ++ own
      {worker, info} = start!("sleep 60 & wait", options)
      grown(info.cgroup, 2)
      members = members(info.cgroup)
      ref = Process.monitor(worker)
      Process.exit(worker, :kill)
      assert_receive {:DOWN, ^ref, :process, ^worker, :killed}
      {:ok, adopted} = Worker.adopt(:cgroup_detached)
      assert Enum.all?(members, &Observer.alive?/1)
      assert {:ok, _exit} = Worker.stop(adopted)
      assert_eventually(fn -> not File.exists?(info.cgroup) end)
      refute Enum.any?(members, &Observer.alive?/1)
    end

    # The Reaper clears a group in a process of its own.
    defp await_clearing do
      assert_eventually(fn ->
        not Enum.any?(
          Process.list(),
          &(Process.info(&1, :initial_call) == {:initial_call, {Leash.Cgroup, :clear, 3}})
        )
      end)
    end

    test "is removed with a tree whose start failed" do
      file = Path.join(tmp_dir!(), "no-program")
      File.write!(file, "no program")
      File.chmod!(file, 0o755)
      before = groups()
      assert {:error, {:exec, :enoexec}} = Worker.start_link(command: file, cgroup: true)
      assert_eventually(fn -> groups() -- before == [] end)
    end

    test "ends with its VM" do
      decoy = start_decoy("beside a VM with a group")
      sleep = [command: "sh", args: ["-c", @pair], cgroup: true]
      vm = start_vm([{"pair", sleep}])
      group = VM.eval(vm, "[row] = Leash.list(); Leash.Worker.info(row.pid).cgroup")
      assert Path.basename(group) =~ vm.run_id
      on_exit(fn -> clear(group) end)
      grown(group, 3)
      members = members(group)
      VM.signal(vm, "KILL")
      assert_eventually(fn -> not File.exists?(group) end, 10_000)
      refute Enum.any?(members, &Observer.alive?/1)
      assert_unharmed(decoy)
    end
  end

  describe "a group that VM, shim and warden have left" do
    test "is removed by the next sweep, and not that of a run that lives" do
      pair = [command: "sh", args: ["-c", @pair], cgroup: true]
      dir = tmp_dir!()
      [dead, live] = for _ <- 1..2, do: start_vm([{"pair", pair}], run_dir: dir)
      sweeper = start_vm([], run_dir: dir, env: [sweep: false])
      group = fn vm -> VM.eval(vm, "[row] = Leash.list(); Leash.Worker.info(row.pid).cgroup") end
      [of_dead, of_live] = Enum.map([dead, live], group)
      for path <- [of_dead, of_live], do: on_exit(fn -> clear(path) end)
      grown(of_live, 3)
      kill_all(dead)
      assert File.exists?(of_dead)
      assert {:ok, report} = VM.eval(sweeper, "Leash.sweep()")
      assert dead.run_id in report.records_dropped
      refute File.exists?(of_dead)
      assert length(members(of_live)) == 3
    end

    test "stays with a process that no tag convicts, and so does the record" do
      dir = tmp_dir!()
      pair = [command: "sh", args: ["-c", @pair], cgroup: true]
      vm = start_vm([{"pair", pair}], run_dir: dir)
      sweeper = start_vm([], run_dir: dir, env: [sweep: false])
      group = VM.eval(vm, "[row] = Leash.list(); Leash.Worker.info(row.pid).cgroup")
      on_exit(fn -> clear(group) end)
      decoy = start_decoy("in the group of a dead run")
      File.write!(Path.join(group, "cgroup.procs"), "#{elem(decoy.identity, 0)}")
      kill_all(vm)
      assert {:ok, report} = VM.eval(sweeper, "Leash.sweep()")
      refute vm.run_id in report.records_dropped
      assert members(group) == [decoy.identity]
      assert_unharmed(decoy)
    end
  end

  describe "a group that cannot be had" do
    @describetag :tmp_dir

    test "fails the start with a sentence, and leaves nothing" do
      before = groups()
      # No kernel has such a controller in version 2 where none can be enabled.
      assert {:error, {:cgroup, why} = reason} =
               Worker.start_link(command: "true", cgroup: [cpu: 1, memory: "1GB", io_weight: 7])

      assert {:no_controller, "cpu", path} = why
      assert Leash.Error.format(reason) =~ ~s(there is no controller "cpu" in #{path})

      assert_raise Leash.Error, ~r/no controller "pids"/, fn ->
        Leash.cmd("true", [], cgroup: [pids: 9])
      end

      assert_raise Leash.Error, ~r/no controller "pids"/, fn ->
        Leash.open_port("true", [], cgroup: [pids: 9])
      end

      assert groups() == before
      assert_eventually(fn -> Leash.list() == [] end)
    end

    test "is gone without if it is not required, and info/1 says why" do
      options = [command: "sleep", args: ["60"], cgroup: [pids: 9, required: false]]
      {:ok, worker} = Worker.start_link(options)
      assert %{cgroup: {:error, {:no_controller, "pids", _path}}} = Worker.info(worker)
      assert {:ok, %Exit{cpu_time: nil, peak_memory: nil}} = Worker.stop(worker)
    end

    test "is named if it is configured and is none", %{tmp_dir: dir} do
      for {path, expected} <- [{dir, {:no_cgroup, dir}}, {"/no/such", {:enoent, "/no/such"}}] do
        vm = start_vm([], env: [cgroup: path])
        start = ~s|Leash.Worker.start_link(command: "true", cgroup: true)|

        assert VM.eval(vm, "Process.flag(:trap_exit, true); " <> start) ==
                 {:error, {:cgroup, expected}}

        assert VM.eval(vm, "Leash.capabilities().cgroup") == {:error, expected}
        VM.stop(vm)
      end
    end

    test "has a sentence for each reason" do
      for {why, text} <- [
            no_cgroup2: "version 2 of control groups is not mounted",
            occupied: "sit in a leaf",
            no_cgroup: "is none of version 2",
            busy: "do not end",
            eacces: "/x: permission denied"
          ] do
        why = if why == :no_cgroup2, do: why, else: {why, "/x"}
        assert Leash.Error.format({:cgroup, why}) =~ text
      end

      assert Leash.Error.format({:cgroup, :ebadf}) =~ "ebadf"
    end
  end

  describe "the option" do
    test "is refused before anything starts if it is wrong" do
      for {wrong, path} <- [
            {1, [:cgroup]},
            {[memory: "2XB"], [:cgroup, :memory]},
            {[memory: -1], [:cgroup, :memory]},
            {[swap: 1.5], [:cgroup, :swap]},
            {[pids: 0], [:cgroup, :pids]},
            {[cpu: 0], [:cgroup, :cpu]},
            {[cpu: "1"], [:cgroup, :cpu]},
            {[cpu_weight: 0], [:cgroup, :cpu_weight]},
            {[io_weight: 10_001], [:cgroup, :io_weight]},
            {[required: :no], [:cgroup, :required]}
          ] do
        error = catch_error(Leash.cmd("true", [], cgroup: wrong))
        assert %OptionsError{} = error

        assert if(error.path == [], do: [error.key], else: error.path) == path,
               inspect({wrong, error})

        assert %OptionsError{} = catch_error(Worker.start_link(command: "true", cgroup: wrong))
        assert %OptionsError{} = catch_error(Leash.open_port("true", [], cgroup: wrong))
      end

      assert %OptionsError{hint: hint} = catch_error(Leash.cmd("true", [], cgroup: [memroy: 1]))
      assert hint =~ "memory"
    end

    test "takes charlists and maps from Erlang" do
      options = %{command: ~c"true", cgroup: %{memory: ~c"1GB", required: false}}
      assert {:ok, worker} = :leash.start_link(options)
      assert_receive {:EXIT, ^worker, :normal}, 5_000
      wrong = %{command: ~c"true", cgroup: %{memory: ~c"much"}}
      assert %OptionsError{value: "much"} = catch_error(:leash.start_link(wrong))
    end

    test "costs a command without it no call" do
      {:module, _loaded} = Code.ensure_loaded(Leash.Cgroup)
      :erlang.trace_pattern({Leash.Cgroup, :_, :_}, true, [:local])
      on_exit(fn -> :erlang.trace_pattern({Leash.Cgroup, :_, :_}, false, [:local]) end)
      assert calls([]) == []
      assert :make in calls(cgroup: true)
    end

    defp calls(options) do
      run = Task.async(fn -> receive(do: (:go -> Leash.cmd("true", [], options))) end)
      :erlang.trace(run.pid, true, [:call])
      send(run.pid, :go)
      assert {"", 0} = Task.await(run)
      delivered = :erlang.trace_delivered(:all)
      assert_receive {:trace_delivered, _pid, ^delivered}
      traced([])
    end

    defp traced(names) do
      receive do
        {:trace, _pid, :call, {Leash.Cgroup, name, _args}} -> traced([name | names])
      after
        0 -> Enum.reverse(names)
      end
    end
  end

  test "a wrong directory stops the application" do
    for wrong <- ["relative", :unified, ""] do
      assert {:error, %OptionsError{key: :cgroup}} = Leash.CgroupTest.load(wrong)
    end
  end

  def load(directory) do
    Application.put_env(:leash, :cgroup, directory)
    Leash.Config.load()
  after
    Application.delete_env(:leash, :cgroup)
  end
end
