defmodule Leash.StopCommandTest do
  @moduledoc "Commands as steps of the ladder: `stop: [{:cmd, [program | args], ms}, …]`."

  use Leash.Test.Case, async: false

  alias Leash.{Ladder, OptionsError}

  setup do: {:ok, dir: tmp_dir!(), decoy: start_decoy("beside a command")}

  # Ends when the file is there, and by no signal.
  defp waits_for(path),
    do: {:sh, "trap '' TERM; echo ready $$; until [ -e #{path} ]; do sleep 0.01; done; exit 7"}

  defp path(dir, name), do: Path.join(dir, name)
  defp ran?(dir, name \\ "ran"), do: File.exists?(path(dir, name))
  defp touch(dir, name \\ "ran"), do: ["touch", path(dir, name)]
  defp sh(line), do: ["sh", "-c", line]

  # Returns the processes that have this very line as an argument: the command, and no other.
  defp running(line), do: Observer.with_argument(line)

  describe "a Worker" do
    test "ends by its command, and says so", %{dir: dir, decoy: decoy} do
      end_file = path(dir, "end")
      stop = [{:cmd, ["touch", end_file], 20_000}, sigterm: 20_000]
      tree = start_tree(waits_for(end_file), stop: stop)
      assert_alive(tree)
      assert {:ok, %Exit{status: 7, cause: :stop, step: :cmd} = exit} = Worker.stop(tree.worker)
      assert_gone(tree)
      program = System.find_executable("touch")

      assert [
               %{
                 signal: nil,
                 command: [^program, ^end_file],
                 result: {:status, 0},
                 reaped: reaped
               }
             ] = exit.steps

      assert reaped >= 1
      assert_unharmed(decoy)
    end

    test "whose command fails goes on to the next step at once", %{dir: dir} do
      program = path(dir, "program")

      for {line, result, remove?} <- [
            {"exit 3", {:status, 3}, false},
            {"kill -SEGV $$", {:signal, :sigsegv}, false},
            {"exit 0", {:error, :enoent}, true}
          ] do
        File.write!(program, "#!/bin/sh\n#{line}\n")
        File.chmod!(program, 0o755)

        tree =
          start_tree({:sh, "echo ready; exec sleep 60"},
            stop: [{:cmd, [program], :infinity}, sigterm: 20_000]
          )

        assert_alive(tree)
        if remove?, do: File.rm!(program)

        assert {:ok, %Exit{signal: :sigterm, step: :sigterm, steps: steps}} =
                 Worker.stop(tree.worker)

        assert [%{command: [^program], result: ^result}, %{signal: :sigterm, reaped: 1}] = steps
        assert_gone(tree)
      end
    end

    test "whose command hangs kills it at the end of its time", %{dir: dir, decoy: decoy} do
      line = "trap '' TERM; sleep 61 & touch #{path(dir, "ran")}; wait"

      tree =
        start_tree({:sh, "echo ready; exec sleep 60"},
          stop: [{:cmd, sh(line), 400}, sigterm: 20_000]
        )

      assert_alive(tree)
      stop = Task.async(fn -> Worker.stop(tree.worker) end)
      assert_eventually(fn -> ran?(dir) end)
      assert running(line) != []

      assert {:ok, %Exit{step: :sigterm, duration: ms, steps: [command, _]}} =
               Task.await(stop, 20_000)

      assert ms in 400..10_000
      assert command.result == {:signal, :sigkill}
      assert running(line) == []
      assert_gone(tree)
      assert_unharmed(decoy)
    end

    test "that is killed at once runs no command", %{dir: dir} do
      for act <- [
            &Worker.stop(&1.worker, kill: true),
            &GenServer.stop(&1.worker, :crash)
          ] do
        tree = start_tree(:ignores_term, stop: [{:cmd, touch(dir), 20_000}])
        assert_alive(tree)
        act.(tree)
        assert_gone(tree, 5_000)
        refute ran?(dir)
      end
    end

    test "whose Worker is killed may have begun its command, and ends it", %{dir: dir} do
      Process.flag(:trap_exit, true)

      # At that moment the leash hangs up, which begins the ladder. A moment later QUIT ends the
      # ladder.
      for _ <- 1..5 do
        line = "sleep 3; touch #{path(dir, "ran")}"
        tree = start_tree(:ignores_term, stop: [{:cmd, sh(line), 20_000}])
        assert_alive(tree)
        Process.exit(tree.worker, :kill)
        assert_gone(tree, 5_000)
        assert_eventually(fn -> running(line) == [] end, 5_000)
        refute ran?(dir)
      end
    end

    test "that is killed while its command works takes it along", %{dir: dir} do
      line = "trap '' TERM; touch #{path(dir, "ran")}; setsid sleep 61 & sleep 61"
      tree = start_tree(:ignores_term, stop: [{:cmd, sh(line), :infinity}])
      assert_alive(tree)
      stop = Task.async(fn -> Worker.stop(tree.worker) end)
      assert_eventually(fn -> ran?(dir) end)
      assert running(line) != []
      assert {:ok, %Exit{cause: :kill, step: :sigkill}} = Worker.stop(tree.worker, kill: true)
      assert {:ok, %Exit{}} = Task.await(stop)
      assert running(line) == []
      assert_gone(tree)
    end

    test "that exits by itself runs its command for what it left only", %{dir: dir} do
      Process.flag(:trap_exit, true)
      stop = [{:cmd, touch(dir), 20_000}]
      {:ok, worker} = Worker.start_link(command: "true", stop: stop)
      assert_receive {:EXIT, ^worker, :normal}, 10_000
      refute ran?(dir)

      line = "(until [ -e #{path(dir, "ran")} ]; do sleep 0.01; done) & exit 4"
      {:ok, worker} = Worker.start_link(shell: line, stop: stop, linger: 50)
      assert_receive {:EXIT, ^worker, {:exit_status, 4}}, 10_000
      assert ran?(dir)
    end

    test "whose shim is killed keeps no command", %{dir: dir} do
      line = "trap '' TERM; touch #{path(dir, "ran")}; setsid sleep 61 & sleep 61"
      tree = start_tree(:ignores_term, stop: [{:cmd, sh(line), :infinity}])
      assert_alive(tree)
      stop = Task.async(fn -> Worker.stop(tree.worker) end)
      assert_eventually(fn -> ran?(dir) end)
      assert running(line) != []
      Observer.signal(tree.shim, "KILL")
      assert {:ok, %Exit{cause: :shim_died}} = Task.await(stop, 20_000)
      assert running(line) == []
      assert_gone(tree)
    end

    test "in a directory has its command there", %{dir: dir} do
      name = path(dir, "script.sh")
      File.write!(name, "#!/bin/sh\npwd > #{path(dir, "ran")}\n")
      File.chmod!(name, 0o755)
      up = File.cwd!() |> Path.split() |> tl() |> Enum.map_join(fn _ -> "../" end)
      options = [cd: up <> String.trim_leading(dir, "/"), stop: [{:cmd, ["./script.sh"], 20_000}]]
      line = "echo ready; until [ -s #{path(dir, "ran")} ]; do sleep 0.01; done"
      tree = start_tree({:sh, line}, options)
      assert {:ok, %Exit{status: 0}} = Worker.stop(tree.worker)
      assert File.read!(path(dir, "ran")) == dir <> "\n"
    end

    test "grants its supervisor's shutdown the time of its commands" do
      stop = [{:cmd, ["true"], 5_000}, sigterm: 2_000]
      assert %{shutdown: 9_000} = Worker.child_spec(command: "sleep", stop: stop)
      stop = [{:cmd, ["true"], :infinity}]
      assert %{shutdown: :infinity} = Worker.child_spec(command: "sleep", stop: stop)
    end
  end

  describe "the VM is killed, and the command runs all the same" do
    for mode <- [:worker, :cmd, :stream, :open_port] do
      test "#{mode}", %{dir: dir, decoy: decoy} do
        carrier = new_carrier()
        line = "sleep 0.3; echo $PPID > #{path(dir, "end")}"
        stop = [{:cmd, sh(line), 20_000}, {:sigkill, 0}]
        options = Keyword.put(command(waits_for(path(dir, "end")), carrier), :stop, stop)
        vm = start_vm([{"one", options}], mode: unquote(mode))
        [_worker | _] = Carrier.members(carrier)
        refute ran?(dir, "end")
        VM.signal(vm, "KILL")
        assert_eventually(fn -> not Observer.alive?(vm.identity) end)
        assert_eventually(fn -> ran?(dir, "end") end, 10_000)
        assert_gone(carrier, 10_000)
        assert_eventually(fn -> running(line) == [] end)
        assert_unharmed(decoy)
      end
    end

    @tag :slow
    test "and a sweep waits for it", %{dir: dir} do
      carrier = new_carrier()
      line = "sleep 1.2; touch #{path(dir, "end")}"
      stop = [{:cmd, sh(line), 5_000}]
      options = Keyword.put(command(waits_for(path(dir, "end")), carrier), :stop, stop)
      vm = start_vm([{"one", options}])
      VM.signal(vm, "KILL")
      assert_eventually(fn -> not Observer.alive?(vm.identity) end)
      assert_eventually(fn -> running(line) != [] end)
      {:ok, report} = Leash.sweep()
      assert ran?(dir, "end")
      assert_gone(carrier)
      assert report.survivors == []
      refute Enum.any?(report.matches, &(&1.ended_by == :sigkill))
    end
  end

  describe "others" do
    test "cmd: after its timeout", %{dir: dir} do
      stop = [{:cmd, touch(dir), 5_000}, sigkill: 0]
      line = "until [ -e #{path(dir, "ran")} ]; do sleep 0.01; done; echo told"
      assert {"told\n", :timeout} = Leash.cmd(line, [], shell: true, timeout: 100, stop: stop)
    end

    test "open_port: when it is closed, in its directory", %{dir: dir} do
      carrier = new_carrier()
      ran = path(dir, "ran")
      program = command(waits_for(ran), carrier)

      options = [
        :binary,
        cd: dir,
        stop: [{:cmd, sh("pwd > #{ran}.part; mv #{ran}.part #{ran}"), 20_000}]
      ]

      port = Leash.open_port(program[:command], program[:args], options)
      assert_receive {^port, {:data, "ready" <> _}}, 10_000
      {:os_pid, shim} = Port.info(port, :os_pid)
      # The command was found at the start, and a later change of PATH or directory does not
      # matter.
      ["--step=3", program | _] = Enum.drop_while(Observer.argv(shim), &(&1 != "--step=3"))
      assert program == System.find_executable("sh")
      assert Carrier.members(carrier) != []
      Port.close(port)
      assert_gone(carrier, 10_000)
      assert File.read!(ran) == dir <> "\n"
    end

    @tag :slow
    test "stop_all: within its deadline, and not beyond", %{dir: dir, decoy: decoy} do
      group = {__MODULE__, System.unique_integer()}
      line = "trap '' TERM; sleep 61"

      quick =
        start_tree(waits_for(path(dir, "ran")), group: group, stop: [{:cmd, touch(dir), 20_000}])

      slow = start_tree(:ignores_term, group: group, stop: [{:cmd, sh(line), :infinity}])
      assert_alive(quick)
      assert_alive(slow)
      {:ok, stopped} = Leash.stop_all(group, deadline: 1_500)
      result = Map.new(stopped, &{&1.pid, &1.result})
      assert {:ok, %Exit{status: 7, step: :cmd}} = result[quick.worker]
      assert {:ok, %Exit{step: :sigkill, steps: [%{result: killed} | _]}} = result[slow.worker]
      assert killed in [nil, {:signal, :sigkill}]
      assert running(line) == []
      assert_gone(quick)
      assert_gone(slow)
      assert_unharmed(decoy)
    end
  end

  describe "what is no command is refused, and nothing starts" do
    @wrong [
      {{:cmd, "true", 1}, "a list of at most 8 steps"},
      {{:cmd, [], 1}, "a list of at most 8 steps"},
      {{:cmd, [true], 1}, "a list of at most 8 steps"},
      {{:cmd, ["true" | "x"], 1}, "a list of at most 8 steps"},
      {{:cmd, ["true", "a\0b"], 1}, "a list of at most 8 steps"},
      {{:cmd, [""], 1}, "a list of at most 8 steps"},
      {{:cmd, ["true"], 0}, "milliseconds > 0 | :infinity"},
      {{:cmd, ["true"], -1}, "a list of at most 8 steps"},
      {{:cmd, ["true"], 1.5}, "a list of at most 8 steps"},
      {{:cmd, ["true"]}, "a list of at most 8 steps"},
      {{:cmd, ["true"], 1, to: :tree}, "a list of at most 8 steps"},
      {{:cmd, List.duplicate("true", 33), 1}, "a list of at most 8 steps"},
      {{:cmd, ["leash-no-such-program"], 1}, "a command whose program is in PATH (enoent)"},
      {{:cmd, ["/nowhere/x", "y"], 1}, "a command whose program is an executable file (enoent)"},
      {{:cmd, ["/etc/passwd"], 1}, "a command whose program is an executable file (eacces)"},
      {{:cmd, ["/etc"], 1}, "a command whose program is an executable file (it is a directory)"}
    ]

    test "by Worker, cmd, stream and open_port", %{dir: dir} do
      for {step, expected} <- @wrong, stop = [{:sigterm, 1}, step] do
        assert %OptionsError{key: :stop} =
                 error =
                 catch_error(
                   Worker.start_link(command: "touch", args: [path(dir, "ran")], stop: stop)
                 )

        assert error.expected =~ expected, "#{inspect(step)}: #{error.expected}"
        assert error.value in [stop, step |> Tuple.to_list() |> Enum.take(2) |> List.to_tuple()]
        options = [stop: stop]

        for start <- [
              fn -> Leash.cmd("touch", [path(dir, "ran")], options) end,
              fn -> "touch" |> Leash.stream!([path(dir, "ran")], options) |> Enum.to_list() end,
              fn -> Leash.open_port("touch", [path(dir, "ran")], options) end
            ] do
          assert %OptionsError{key: :stop, expected: ^expected} = %{
                   catch_error(start.())
                   | expected: expected
                 }
        end
      end

      refute ran?(dir)
      assert Leash.list() == []
    end

    @tag :slow
    test "as many strings as there may be are taken" do
      assert Ladder.valid?([{:cmd, List.duplicate("true", 32), 1}])
      tree = start_tree(:plain, stop: [{:cmd, List.duplicate("true", 32), 5_000}, sigterm: 100])
      assert {:ok, %Exit{steps: [%{result: {:status, 0}} | _]}} = Worker.stop(tree.worker)
    end

    test "a sweep runs none" do
      assert %OptionsError{key: :stop, expected: expected} =
               catch_error(Leash.sweep(stop: [{:cmd, ["true"], 1}]))

      assert expected =~ "a command, {:cmd, _, _}, is run by a worker's own shim only"
    end
  end
end
