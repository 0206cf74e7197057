defmodule Leash.StopStdinTest do
  @moduledoc "The end of stdin as a step of the ladder: `stop: [{:close_stdin, ms}, …]`."

  use Leash.Test.Case, async: false

  alias Leash.OptionsError

  setup do: {:ok, saved: Path.join(tmp_dir!(), "saved"), decoy: start_decoy("beside a server")}

  @stop [close_stdin: 20_000, sigkill: 0]

  # A server that takes its time to save when its input ends, and that no TERM ends.
  defp saves(path),
    do: {:sh, "trap '' TERM; echo ready $$; cat; sleep 0.5; echo data > #{path}; exit 7"}

  describe "a Worker" do
    test "lets its program save at EOF of stdin, and says so", %{saved: saved, decoy: decoy} do
      tree = start_tree(saves(saved), stop: @stop, stdin: :pipe)
      assert_alive(tree)
      assert {:ok, %Exit{status: 7, cause: :stop} = exit} = Worker.stop(tree.worker)
      assert_gone(tree)
      assert File.read!(saved) == "data\n"
      assert exit.step == :close_stdin
      assert [%{signal: nil, stdin: :closed, reaped: reaped}] = exit.steps
      assert reaped >= 1
      assert_unharmed(decoy)
    end

    test "hands over what was written before", %{saved: saved} do
      line = {:sh, "echo ready; sleep 0.3; cat > #{saved}; exit 7"}
      tree = start_tree(line, stop: @stop, stdin: :pipe)
      # More than the pipe holds.
      text = :binary.copy("x", 300_000)
      write = Task.async(fn -> Worker.write(tree.worker, text) end)
      assert_eventually(fn -> Process.info(write.pid, :status) == {:status, :waiting} end)
      assert {:ok, %Exit{status: 7}} = Worker.stop(tree.worker)
      assert Task.await(write) == :ok
      assert File.read!(saved) == text
    end

    test "goes on to the next step where the program does not end" do
      tree =
        start_tree({:sh, "echo ready; exec sleep 60"},
          stop: [close_stdin: 50, sigterm: 20_000],
          stdin: :pipe
        )

      assert {:ok, %Exit{signal: :sigterm, step: :sigterm, steps: steps}} =
               Worker.stop(tree.worker)

      assert [%{stdin: :closed, reaped: 0}, %{signal: :sigterm}] = steps
    end

    test "ends at once without it", %{saved: saved} do
      tree = start_tree(saves(saved), stop: @stop, stdin: :pipe)
      assert {:ok, %Exit{signal: :sigkill, step: :sigkill}} = Worker.stop(tree.worker, kill: true)
      refute File.exists?(saved)
    end

    test "without a pipe is refused" do
      assert %OptionsError{key: :stdin} =
               error = catch_error(Worker.start_link(command: "cat", stop: @stop))

      assert Exception.message(error) =~ "close_stdin"
    end

    test "grants its supervisor's shutdown the time" do
      assert %{shutdown: 9_000} =
               Worker.child_spec(command: "cat", stop: [close_stdin: 5_000, sigterm: 2_000])
    end

    test "is stopped so from Erlang, too", %{saved: saved} do
      {:sh, line} = saves(saved)

      {:ok, worker} =
        :leash.start_link([
          {:command, ~c"sh"},
          {:args, [~c"-c", line]},
          {:stop, [{:close_stdin, 20_000}, {:sigkill, 0}]},
          {:stdin, :pipe},
          {:ready, ~r/^ready/},
          {:on_output, self()}
        ])

      assert {:ok, %Exit{status: 7}} = :leash.stop(worker)
      assert File.read!(saved) == "data\n"
    end
  end

  test "a command gives up the rest of its input", %{saved: saved, decoy: decoy} do
    {:sh, line} = saves(saved)
    never = Stream.map([1], fn _part -> Process.sleep(:infinity) end)
    options = [input: never, timeout: 500, stop: @stop]
    assert {"ready " <> _pid, :timeout} = Leash.cmd("sh", ["-c", line], options)
    assert File.read!(saved) == "data\n"
    assert_unharmed(decoy)
  end

  test "a stream that is left gives up the rest of its input", %{saved: saved} do
    {:sh, line} = saves(saved)
    never = Stream.map([1], fn _part -> Process.sleep(:infinity) end)

    assert ["ready" <> _] =
             "sh" |> Leash.stream(["-c", line], input: never, stop: @stop) |> Enum.take(1)

    assert_eventually(fn -> File.read(saved) == {:ok, "data\n"} end)
  end

  test "attach refuses it" do
    assert %OptionsError{key: :stop} = error = catch_error(Leash.attach(1_000_000, stop: @stop))
    assert Exception.message(error) =~ "stdin is not ours to close"
  end

  test "a sweep and a process without a shim refuse it" do
    assert %OptionsError{key: :stop} = catch_error(Leash.sweep(stop: @stop))
    refute Leash.Ladder.signals?(@stop)
  end

  describe "the program saves although the VM is killed" do
    for mode <- [:worker, :open_port] do
      test "#{mode}", %{saved: saved, decoy: decoy} do
        carrier = new_carrier()
        options = command(saves(saved), carrier) ++ [stdin: :pipe]
        vm = start_vm([{"one", Keyword.put(options, :stop, @stop)}], mode: unquote(mode))
        [_program | _] = Carrier.members(carrier)
        refute File.exists?(saved)
        VM.signal(vm, "KILL")
        assert_eventually(fn -> not Observer.alive?(vm.identity) end)
        assert_eventually(fn -> File.read(saved) == {:ok, "data\n"} end, 10_000)
        assert_gone(carrier, 10_000)
        assert_unharmed(decoy)
      end
    end
  end
end
