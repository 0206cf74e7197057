defmodule Leash.StopAllTest do
  @moduledoc """
  Groups, and the result of `Leash.stop_all/2` for every kind of worker in every state.
  """

  use Leash.Test.Case, async: true

  alias Leash.{OptionsError, Registry}
  alias Leash.Test.Sink

  # Each test has a group of its own, since others run at the same time.
  setup do: {:ok, group: {__MODULE__, System.unique_integer()}}

  defp in_group(group, what, options \\ []), do: start_tree(what, [group: group] ++ options)

  defp port_in_group(group, what, stop \\ [sigterm: 300]) do
    carrier = new_carrier()
    program = command(what, carrier)
    options = [:binary, :exit_status, stop: stop, group: group]
    port = Leash.open_port(program[:command], program[:args], options)
    assert_receive {^port, {:data, "ready" <> _pids}}, 10_000
    %{port: port, carrier: carrier}
  end

  # Runs it in a process of its own, which returns the result.
  defp in_task(run, what) do
    test = self()
    carrier = new_carrier()
    program = command(what, carrier)
    said = &send(test, {carrier, &1})
    task = Task.async(fn -> run.(program[:command], program[:args], said) end)
    assert_receive {^carrier, "ready" <> _pids}, 10_000
    %{task: task, carrier: carrier}
  end

  defp cmd_in_group(group, what) do
    in_task(
      fn command, args, said ->
        elem(Leash.cmd(command, args, into: %Sink{fun: said}, group: group), 1)
      end,
      what
    )
  end

  defp stream_in_group(group, what) do
    in_task(
      fn command, args, said ->
        command
        |> Leash.stream(args, group: group)
        |> Enum.map(&said.(&1))
        |> List.last()
        |> elem(1)
      end,
      what
    )
  end

  defp timed(fun), do: with({us, result} <- :timer.tc(fun), do: {div(us, 1_000), result})
  defp of(results, worker), do: Enum.find(results, &(&1.pid == worker)).result
  defp listed(group), do: for(row <- Leash.list(), row.group === group, do: row)

  # A call is under way: the group is closed, and this worker of it has been told.
  defp begin_stop(group, tree, options \\ []) do
    task = Task.async(fn -> Leash.stop_all(group, options) end)
    assert_eventually(fn -> Worker.info(tree.worker).state == :ending end)
    task
  end

  describe "what it ends:" do
    test "Worker, command, stream and port of the group, and nothing else", %{group: group} do
      decoy = start_decoy("beside a group")
      worker = in_group(group, :plain)
      command = cmd_in_group(group, :plain)
      stream = stream_in_group(group, :daemon)
      port = port_in_group(group, :env_i)
      others = [in_group({group, :other}, :plain), start_tree(:plain)]
      assert length(listed(group)) == 4

      assert {took, {:ok, results}} = timed(fn -> Leash.stop_all(group) end)
      assert took < 3_000
      for each <- [worker, command.carrier, stream.carrier, port.carrier], do: assert_gone(each)

      assert [_, _, _, _] = numbers = Enum.map(results, & &1.worker)
      assert numbers == Enum.sort(numbers)
      assert Enum.all?(results, &(&1.group === group and &1.label == "sh"))
      assert {:ok, %Exit{signal: :sigterm, step: :sigterm} = exit} = of(results, worker.worker)
      assert exit.os_pid == elem(worker.os, 0)
      assert [{:ok, :gone}] = for(%{os_pid: nil, result: result} <- results, do: result)
      assert Task.await(command.task) == 143
      assert Task.await(stream.task) == {:exit, {:signal, :sigterm}}
      assert_receive {from, {:exit_status, 143}} when from == port.port

      assert listed(group) == []
      Enum.each(others, &assert_alive/1)
      assert_unharmed(decoy)
      assert {:ok, [_one]} = Leash.stop_all({group, :other})
    end

    test "a port's tree as soon as any other", %{group: group} do
      quickest =
        for _ <- 1..5 do
          port = port_in_group(group, :plain)
          {took, {:ok, [_one]}} = timed(fn -> Leash.stop_all(group) end)
          assert_gone(port.carrier)
          took
        end
        |> Enum.min()

      # A process that does not answer gets half a second.
      assert quickest < 400
    end

    test "those whose process is gone and whose trees the Reaper ends", %{group: group} do
      forever = port_in_group(group, :ignores_term, sigterm: :infinity)
      Port.close(forever.port)
      assert_eventually(fn -> match?([%{tree: :ending}], listed(group)) end)
      [%{pid: keeper}] = listed(group)
      assert_eventually(fn -> not Process.alive?(keeper) end)

      assert {took, {:ok, [%{result: {:ok, :gone}}]}} =
               timed(fn -> Leash.stop_all(group, deadline: 300) end)

      assert took in 290..1_500
      assert_gone(forever.carrier)
    end

    test "a number that an earlier hunt has given up, at once", %{group: group} do
      {dead, monitor} = spawn_monitor(fn -> :ok end)
      assert_receive {:DOWN, ^monitor, :process, _pid, _reason}
      description = %{kind: :worker, label: "left", group: group, stop: []}
      Registry.put(%{Registry.row(32_700, dead, description) | tree: :ending})

      assert {took, {:ok, [%{worker: 32_700, result: {:ok, :gone}}]}} =
               timed(fn -> Leash.stop_all(group, deadline: 20_000) end)

      assert took < 10_000
      refute Registry.taken?(32_700)
    end

    test "a worker that is still starting, whose start fails", %{group: group} do
      carrier = new_carrier()
      options = [group: group, ready: ~r/^never/] ++ command(:plain, carrier)

      # One start waits to be ready. The other is anywhere between its number and its exec.
      for wait? <- [true, false] do
        start =
          Task.async(fn ->
            # A start that fails is an exit signal of a linked process.
            Process.flag(:trap_exit, true)
            Worker.start_link(options)
          end)

        assert_eventually(fn -> listed(group) != [] end)
        if wait?, do: assert_eventually(fn -> Carrier.members(carrier) != [] end)
        assert {:ok, [%{result: {:ok, %Exit{}}}]} = Leash.stop_all(group)
        assert Task.await(start) == {:error, :stopping}
        assert_gone(carrier)
        assert listed(group) == []
      end
    end
  end

  describe "what cannot start before the deadline:" do
    # Their shims are not there yet, because the process that starts them is stopped. A worker of
    # another group runs beside them.
    setup do: {:ok, vm: start_vm([{"other", command(:plain, new_carrier())}])}

    for {kind, start} <- [
          Worker: "Leash.Worker.start_link(command: command, args: args, group: :g)",
          command: "Leash.cmd(command, args, group: :g)"
        ] do
      @tag needs: :freezer
      @tag :slow
      test "a #{kind} is given up, and nothing of it starts later", %{vm: vm} do
        [warden] = VM.wardens(vm)
        freezer = freeze(warden)
        trace = Path.join(tmp_dir!(), "started")
        program = [command: "sh", args: ["-c", "echo >#{trace}; exec sleep 60"]]
        start = stopped_at_start(unquote(start), program)

        assert {took, {:ok, [%{result: {:ok, :gone}}]}, []} = VM.eval(vm, start)
        assert took < 5_000
        thaw(freezer)
        # The warden takes its requests one by one, so the earlier request is through now.
        assert VM.eval(vm, ~s|Leash.cmd("true", [])|) == {"", 0}
        assert_eventually(fn -> VM.eval(vm, "length(Leash.list(usage: false))") == 1 end)
        refute File.exists?(trace)
        assert Observer.alive?(vm.workers["other"].os)
      end
    end

    @tag :slow
    test "a port is named, since its caller may still get it", %{vm: vm} do
      {pid, _ticks} = forker = VM.fork_server(vm)
      Observer.signal(forker, "STOP")
      assert_eventually(fn -> Observer.state(pid) == "T" end)
      program = command(:plain, carrier = new_carrier())
      start = stopped_at_start("Leash.open_port(command, args, group: :g)", program)

      assert {took, {:error, [%{result: {:error, %{survivors: []}}}]}, [_row]} =
               VM.eval(vm, start)

      assert took < 5_000
      Observer.signal(forker, "CONT")
      assert_eventually(fn -> VM.eval(vm, "length(Leash.list(usage: false))") == 1 end)
      assert_gone(carrier, 5_000)
      assert Observer.alive?(vm.workers["other"].os)
    end

    # Returns code that has a start under way, stops its group, and prints the result.
    defp stopped_at_start(call, program) do
      """
      {command, args} = #{inspect({program[:command], program[:args]}, limit: :infinity)}
      spawn(fn -> #{call}; Process.sleep(:infinity) end)
      listed = fn -> for(row <- Leash.list(usage: false), row.group == :g, do: row) end
      true = Leash.Test.Observer.eventually(5_000, fn -> listed.() != [] end) != nil
      began = System.monotonic_time(:millisecond)
      stopped = Leash.stop_all(:g, deadline: 200)
      {System.monotonic_time(:millisecond) - began, stopped, listed.()}
      """
    end
  end

  describe "how it ends:" do
    test "each one's own ladder first, however long the others take", %{group: group} do
      quick = in_group(group, :plain)
      slow = in_group(group, [:ends_on_term, 700, 5], stop: [sigterm: 5_000])
      killed = in_group(group, :ignores_term, stop: [sigterm: 100])
      assert {took, {:ok, results}} = timed(fn -> Leash.stop_all(group) end)
      assert took in 690..2_500
      assert {:ok, %Exit{signal: :sigterm}} = of(results, quick.worker)
      assert {:ok, %Exit{status: 5, step: :sigterm}} = of(results, slow.worker)
      assert {:ok, %Exit{signal: :sigkill, step: :sigkill}} = of(results, killed.worker)
      for tree <- [quick, slow, killed], do: assert_gone(tree)
    end

    test "at the deadline SIGKILL, whatever the ladders say", %{group: group} do
      trees = for _ <- 1..3, do: in_group(group, :ignores_term, stop: [sigterm: :infinity])
      port = port_in_group(group, :ignores_term, sigterm: :infinity)
      assert {took, {:ok, results}} = timed(fn -> Leash.stop_all(group, deadline: 400) end)
      assert took in 400..1_400
      for tree <- trees, do: assert_gone(tree)
      assert_gone(port.carrier)

      for %{worker: pid} <- trees,
          do: assert({:ok, %Exit{signal: :sigkill}} = of(results, pid))
    end

    test "with no time at all SIGKILL at once", %{group: group} do
      tree = in_group(group, [:ends_on_term, 0, 3])
      assert {:ok, [%{result: {:ok, exit}}]} = Leash.stop_all(group, deadline: 0)
      assert %Exit{signal: :sigkill, status: nil} = exit
      assert_gone(tree)
    end

    @tag needs: :freezer
    @tag :slow
    test "what cannot be killed is named, and ended by a later call", %{group: group} do
      tree = in_group(group, :plain, stop: [sigterm: 10_000])
      other = in_group(group, :plain)
      freezer = freeze(tree.os)
      assert {took, {:error, results}} = timed(fn -> Leash.stop_all(group, deadline: 200) end)
      assert took in 200..5_000
      assert {:error, %{survivors: [survivor]}} = of(results, tree.worker)
      assert %{why: :uninterruptible} = survivor
      assert survivor.pid == elem(tree.os, 0)
      # Its Worker would have waited for the whole ladder first.
      refute Observer.alive?(tree.shim)
      assert {:ok, %Exit{}} = of(results, other.worker)
      assert_gone(other)

      thaw(freezer)
      assert {:ok, _results} = Leash.stop_all(group)
      assert_gone(tree)
      assert_eventually(fn -> listed(group) == [] end)
    end
  end

  describe "a shim that cannot be killed:" do
    @describetag needs: :freezer

    @tag :slow
    test "its tree is gone in time all the same, and it is named", %{group: group} do
      tree = in_group(group, :plain, stop: [sigterm: 10_000])
      freezer = freeze(tree.shim)

      assert {took, {:error, [%{result: {:error, %{survivors: [shim]}}}]}} =
               timed(fn -> Leash.stop_all(group, deadline: 200) end)

      assert took in 200..5_000
      assert %{why: :uninterruptible} = shim
      assert shim.pid == elem(tree.shim, 0)
      refute Observer.alive?(tree.os)

      thaw(freezer)
      assert {:ok, _results} = Leash.stop_all(group)
      assert_gone(tree)
    end
  end

  describe "a Worker process that does not answer:" do
    test "its tree ends by the ladder all the same", %{group: group} do
      line = "trap 'echo told; exit 7' TERM; echo ready $$; while :; do sleep 0.05; done"
      tree = in_group(group, {:sh, line})
      :ok = :sys.suspend(tree.worker)

      assert {took, {:ok, [%{result: {:ok, :gone}}]}} = timed(fn -> Leash.stop_all(group) end)
      assert took < 3_000
      assert_gone(tree)
      assert_receive {_ref, :stdout, "told\n"}, 5_000
      worker = tree.worker
      :ok = :sys.resume(worker)
      assert_receive {:EXIT, ^worker, :normal}, 5_000
      assert_eventually(fn -> listed(group) == [] end)
    end

    @tag :slow
    test "the ladder is begun once, though the Worker goes on meanwhile", %{group: group} do
      line = "trap 'echo told; sleep 1; exit 7' TERM; echo ready $$; while :; do sleep 0.05; done"
      tree = in_group(group, {:sh, line}, stop: [{:sigterm, 10_000, to: :leader}])
      :ok = :sys.suspend(tree.worker)
      stop = Task.async(fn -> Leash.stop_all(group) end)
      assert_receive {_ref, :stdout, "told\n"}, 5_000
      :ok = :sys.resume(tree.worker)
      assert {:ok, [%{result: {:ok, %Exit{status: 7, step: :sigterm}}}]} = Task.await(stop, 9_000)
      assert_gone(tree)
    end

    test "at the deadline its tree is killed", %{group: group} do
      tree = in_group(group, :ignores_term, stop: [sigterm: :infinity])
      :ok = :sys.suspend(tree.worker)

      assert {took, {:ok, [%{result: {:ok, :gone}}]}} =
               timed(fn -> Leash.stop_all(group, deadline: 700) end)

      assert took in 700..2_500
      assert_gone(tree)
      :ok = :sys.resume(tree.worker)
    end

    test "nor does its shim, which is stopped", %{group: group} do
      tree = in_group(group, :plain)
      :ok = :sys.suspend(tree.worker)
      Observer.signal(tree.shim, "STOP")
      assert {:ok, [%{result: {:ok, :gone}}]} = Leash.stop_all(group, deadline: 1_000)
      assert_gone(tree)
      :ok = :sys.resume(tree.worker)
    end

    test "killed in the middle, it leaves the rest to the Reaper", %{group: group} do
      tree = in_group(group, :ignores_term, stop: [sigterm: :infinity])
      stop = begin_stop(group, tree)
      Process.exit(tree.worker, :kill)
      assert {:ok, [%{result: {:ok, :gone}}]} = Task.await(stop)
      assert_gone(tree)
    end
  end

  describe "callers:" do
    test "two at once and one after them: one ending, the same answers", %{group: group} do
      tree = in_group(group, [:ends_on_term, 400, 4], stop: [sigterm: 5_000])
      tasks = for _ <- 1..3, do: Task.async(fn -> Leash.stop_all(group) end)
      alone = Task.async(fn -> Worker.stop(tree.worker) end)

      for answer <- Task.await_many(tasks, 10_000),
          do: assert({:ok, [%{result: {:ok, %Exit{status: 4, step: :sigterm}}}]} = answer)

      assert {:ok, %Exit{status: 4}} = Task.await(alone)
      assert_gone(tree)
      assert Leash.stop_all(group) == {:ok, []}
    end

    test "the owner, which is not taken along", %{group: group} do
      tree = in_group(group, :plain)
      # It is linked to the test, which calls.
      {:links, links} = Process.info(self(), :links)
      assert tree.worker in links
      assert {:ok, [_one]} = Leash.stop_all(group)
      worker = tree.worker
      assert_receive {:EXIT, ^worker, :normal}
      {:messages, messages} = Process.info(self(), :messages)
      # These are messages of the ports by which the test looks.
      assert Enum.reject(messages, &match?({:EXIT, port, :normal} when is_port(port), &1)) == []
    end

    test "what handles a worker's output", %{group: group} do
      test = self()

      handler = fn _stream, text ->
        if text =~ "ready", do: send(test, {:stopped, Leash.stop_all(group)})
      end

      carrier = new_carrier()
      options = command(:plain, carrier) ++ [group: group, on_output: handler]
      {:ok, _worker} = Worker.start_link(options)
      assert_receive {:stopped, {:ok, [%{result: {:ok, %Exit{}}}]}}, 10_000
      assert_gone(carrier)
    end

    test "a caller that is killed meanwhile: it goes on to the end", %{group: group} do
      tree = in_group(group, :ignores_term, stop: [sigterm: :infinity])
      caller = spawn(fn -> Leash.stop_all(group, deadline: 400) end)
      assert_eventually(fn -> Worker.info(tree.worker).state == :ending end)
      Process.exit(caller, :kill)
      assert_alive(tree)
      assert_gone(tree, 3_000)
    end
  end

  describe "meanwhile:" do
    @tag :slow
    test "the group is closed for starts, others are not, and it is open again at once", %{
      group: group
    } do
      slow = in_group(group, [:ends_on_term, 2_000, 0], stop: [sigterm: 10_000])
      stop = begin_stop(group, slow)
      assert Worker.start_link(command: "true", group: group) == {:error, :stopping}
      ending = ~r"Leash.stop_all/2 is ending"
      assert_raise Leash.Error, ending, fn -> Leash.cmd("true", [], group: group) end
      assert_raise Leash.Error, ending, fn -> Leash.open_port("true", [], group: group) end
      assert Leash.cmd("true") == {"", 0}
      assert Leash.cmd("true", [], group: {group, 2}) == {"", 0}
      assert Task.yield(stop, 0) == nil
      assert {:ok, [_one]} = Task.await(stop)

      for _ <- 1..20 do
        assert {:ok, []} = Leash.stop_all(group)
        assert Leash.cmd("true", [], group: group) == {"", 0}
      end
    end

    test "it is open again when the last of two callers is through", %{group: group} do
      slow = in_group(group, [:ends_on_term, 500, 0], stop: [sigterm: 5_000])
      stop = begin_stop(group, slow)
      assert {:ok, [_one]} = Leash.stop_all(group)
      assert {:ok, [_one]} = Task.await(stop)
      assert Leash.cmd("true", [], group: group) == {"", 0}
    end

    test "a supervisor restarts no :transient worker", %{group: group} do
      {:ok, supervisor} = DynamicSupervisor.start_link(strategy: :one_for_one)
      carrier = new_carrier()
      options = command(:plain, carrier) ++ [group: group, ready: ~r/^ready/, on_output: self()]
      spec = Supervisor.child_spec({Worker, options}, restart: :transient)
      for _ <- 1..5, do: {:ok, _worker} = DynamicSupervisor.start_child(supervisor, spec)
      assert {:ok, [_, _, _, _, _]} = Leash.stop_all(group)
      assert_gone(carrier)
      assert_eventually(fn -> DynamicSupervisor.count_children(supervisor).specs == 0 end)
      assert_gone(carrier)
      DynamicSupervisor.stop(supervisor)
    end

    @tag :slow
    test "a supervisor cannot put back a :permanent worker", %{group: group} do
      options = [strategy: :one_for_one, max_restarts: 20, max_seconds: 5]
      {:ok, supervisor} = DynamicSupervisor.start_link(options)
      monitor = Process.monitor(supervisor)
      carrier = new_carrier()
      quick = command(:plain, carrier) ++ [group: group, ready: ~r/^ready/, on_output: self()]
      {:ok, _worker} = DynamicSupervisor.start_child(supervisor, {Worker, quick})
      slow = in_group(group, [:ends_on_term, 2_000, 0], stop: [sigterm: 10_000])
      stop = begin_stop(group, slow)
      assert_gone(carrier, 1_500)
      assert_receive {:DOWN, ^monitor, :process, _pid, :shutdown}, 5_000
      assert_gone(carrier)
      assert {:ok, [_, _]} = Task.await(stop)
    end
  end

  describe "the application:" do
    setup do: {:ok, vm: start_vm([])}

    test "while it is stopped there is nothing to end", %{vm: vm} do
      assert {:ok, []} = VM.eval(vm, "Leash.stop_all()")
      assert :ok = VM.eval(vm, "Application.stop(:leash)")
      assert {:ok, []} = VM.eval(vm, "Leash.stop_all()")
    end

    @tag :slow
    test "it may stop meanwhile: what is gone is told all the same", %{vm: vm} do
      assert {:ok, [{:ok, _how}, {:ok, _too}], :ok} =
               VM.eval(vm, """
               #{start_in_vm(carrier = new_carrier())}
               stop = Task.async(fn -> Leash.stop_all(:g) end)
               ending?.()
               stopped = Application.stop(:leash)
               {:ok, results} = Task.await(stop, 15_000)
               {:ok, Enum.map(results, & &1.result), stopped}
               """)

      assert_gone(carrier)
    end

    @tag :slow
    test "its Reaper may crash meanwhile: the group is closed again", %{vm: vm} do
      assert {true, {:ok, [{:ok, %Exit{}}, {:ok, :gone}]}} =
               VM.eval(vm, """
               #{start_in_vm(carrier = new_carrier())}
               stop = Task.async(fn -> Leash.stop_all(:g) end)
               ending?.()
               Process.exit(Process.whereis(Leash.Reaper), :kill)
               refused? = fn again ->
                 case Leash.Worker.start_link(command: "true", group: :g) do
                   {:error, :stopping} -> true
                   _started -> Task.yield(stop, 0) == nil and again.(again)
                 end
               end
               refused = refused?.(refused?)
               {:ok, results} = Task.await(stop, 15_000)
               [worker, port | _started_meanwhile] = Enum.map(results, & &1.result)
               {refused, {:ok, [worker, port]}}
               """)

      assert_gone(carrier)
    end

    # A Worker and a port in a group, both of which take their time.
    defp start_in_vm(carrier) do
      program = command([:ends_on_term, 800, 0], carrier)

      """
      Process.flag(:trap_exit, true)
      stop = [sigterm: 3_000]
      {command, args} = #{inspect({program[:command], program[:args]}, limit: :infinity)}
      options = [command: command, args: args, stop: stop, group: :g, ready: ~r/^ready/]
      {:ok, worker} = Leash.Worker.start_link(options ++ [on_output: self()])
      port = Leash.open_port(command, args, [:binary, stop: stop, group: :g])
      receive do {^port, {:data, "ready" <> _}} -> :ok end
      ending? = fn ->
        Leash.Test.Observer.eventually(5_000, fn -> Leash.Worker.info(worker).state == :ending end)
      end
      """
    end
  end

  describe "what it refuses:" do
    test "anything that is no group and no deadline, before anything is signalled", %{
      group: group
    } do
      tree = in_group(group, :plain)

      for wrong <- [nil, ~c"pool", [deadline: 1], 3, self(), %{}],
          do: assert_raise(OptionsError, ~r/:group/, fn -> Leash.stop_all(wrong) end)

      for wrong <- [-1, :infinity, 1.5, nil],
          do:
            assert_raise(OptionsError, ~r/:deadline/, fn ->
              Leash.stop_all(group, deadline: wrong)
            end)

      assert_raise OptionsError, ~r/:deadline/, fn -> Leash.stop_all(group, timeout: 3) end
      assert_alive(tree)
      assert {:ok, [_one]} = Leash.stop_all(group)
    end

    test "a group that cannot be asked for" do
      for wrong <- [:all, ["a"], 3, self(), %{}] do
        assert %OptionsError{key: :group} =
                 catch_error(Worker.start_link(command: "true", group: wrong))

        assert_raise OptionsError, fn -> Leash.cmd("true", [], group: wrong) end
        assert_raise OptionsError, fn -> Leash.open_port("true", [], group: wrong) end
      end
    end
  end

  test "the group is in list and info, and none is nil", %{group: group} do
    for name <- [:"a pool #{System.unique_integer()}", "tenant #{System.unique_integer()}", group] do
      tree = in_group(name, :plain)
      assert [%{group: ^name, pid: pid}] = listed(name)
      assert pid == tree.worker
      assert Worker.info(pid).group === name
      assert {:ok, [%{group: ^name}]} = Leash.stop_all(name)
    end

    tree = start_tree(:plain)
    assert Worker.info(tree.worker).group == nil
    assert Enum.find(Leash.list(), &(&1.pid == tree.worker)).group == nil
    {:ok, _exit} = Worker.stop(tree.worker)
  end
end
