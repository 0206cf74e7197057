defmodule Leash.Command.LeftTest do
  # What comes back of a command, whatever cannot be ended, holds its output or kills its shim.
  use Leash.Test.Case, async: false

  @moduletag :slow

  import ExUnit.CaptureLog

  alias Leash.Test.{Narrow, Unkillable}

  setup do
    nothing_is_listed_after()
  end

  defp sh(line, carrier, options),
    do: Leash.cmd("sh", ["-c", Carrier.enter(carrier) <> line], options)

  describe "a shim that is killed:" do
    defp killed_shim(call) do
      test = self()
      task = Task.async(fn -> call.(fn output -> send(test, {:up, output}) end) end)
      assert_receive {:up, "x\n"}, 10_000
      assert [%{shim_pid: shim}] = Leash.list()
      Observer.signal(Observer.identity(shim), "KILL")
      Task.await(task, 20_000)
    end

    test "the output and the status of SIGKILL come back, the log says so, and nothing is left" do
      carrier = new_carrier()
      decoy = start_decoy("another")

      log =
        capture_log(fn ->
          status =
            killed_shim(fn up ->
              line = "setsid sleep 90 & echo x; sleep 90"
              {_sink, status} = sh(line, carrier, into: %Leash.Test.Sink{fun: up})
              status
            end)

          assert status == 137
        end)

      assert log =~ "has not seen how command \"sh\" ended"
      assert_gone(carrier)
      assert_unharmed(decoy)
    end

    test "a status that had come stays" do
      carrier = new_carrier()
      ref = make_ref()
      test = self()

      task =
        Task.async(fn ->
          sink = %Leash.Test.Sink{fun: fn _ -> send(test, ref) end}
          sh("sleep 90 & echo x; exit 4", carrier, into: sink, stop: [sigterm: 300])
        end)

      assert_receive ^ref, 10_000
      assert [%{shim_pid: shim}] = Leash.list()
      # The shim has reaped the program.
      assert_eventually(fn -> length(Carrier.members(carrier)) == 1 end)
      Observer.signal(Observer.identity(shim), "KILL")
      assert {_sink, 4} = Task.await(task, 20_000)
      assert_gone(carrier)
    end

    test "a stream says it was SIGKILL" do
      carrier = new_carrier()

      assert ["x\n", {:exit, {:signal, :sigkill}}] =
               killed_shim(fn up ->
                 Leash.stream("sh", ["-c", Carrier.enter(carrier) <> "echo x; exec sleep 90"])
                 |> Stream.each(up)
                 |> Enum.to_list()
               end)

      assert_gone(carrier)
    end
  end

  describe "what may not be signalled:" do
    @describetag needs: :set_user_id

    setup do
      %{root: root, dir: dir} = Unkillable.program()
      carrier = new_carrier()

      vm =
        start_vm([],
          run_dir: dir,
          carrier: carrier,
          prefix: Narrow.as_nobody(),
          os_env: %{"HOME" => "/tmp"}
        )

      %{vm: vm, root: root}
    end

    test "status and output come back with what root has left running", %{vm: vm, root: root} do
      line = "echo started; #{left_by(root)}; exit 3"

      for {code, expected} <- [
            {"Leash.cmd(\"sh\", [\"-c\", line], stop: stop)", {"started\n", 3}},
            {"Leash.cmd(\"sh\", [\"-c\", line], stop: stop, on_exit: :keep)", {"started\n", 3}},
            {"Leash.stream(\"sh\", [\"-c\", line], stop: stop) |> Enum.to_list()",
             ["started\n", {:exit, {:status, 3}}]}
          ] do
        code = "line = #{inspect(line)}; stop = [sigterm: 100]; " <> code
        assert {code, VM.eval(vm, code, 60_000)} == {code, expected}
      end

      code = "Leash.cmd(\"sh\", [\"-c\", #{inspect(line)}], stop: [sigterm: 100])"

      assert Narrow.logged(vm, code) =~
               ~r/could not end all of command "sh": \d+ \("sleep 75", eperm\)/
    end

    test "a program that is root's itself is `:timeout` like any other", %{vm: vm, root: root} do
      line = "echo started; exec #{root} sleep 75"

      code = "Leash.cmd(\"sh\", [\"-c\", #{inspect(line)}], stop: [sigterm: 100], timeout: 1_000)"

      assert VM.eval(vm, code, 60_000) == {"started\n", :timeout}
    end

    test "telemetry has it, where the host has telemetry", %{vm: vm, root: root} do
      line = left_by(root)

      code = """
      defmodule :telemetry do
        def execute(event, measurements, metadata),
          do: send(:telemetry_test, {event, measurements, metadata[:survivors]})
      end

      Process.register(self(), :telemetry_test)
      Leash.cmd("sh", ["-c", #{inspect(line)}], stop: [sigterm: 100])

      receive do
        {[:leash, :worker, :survivors], measurements, survivors} ->
          {measurements, Enum.map(survivors, & &1.why)}
      after
        0 -> :none
      end
      """

      assert VM.eval(vm, code, 60_000) == {%{count: 1}, [:eperm]}
    end
  end

  # Not before it is root's, since until then it may be signalled.
  defp left_by(root) do
    "fifo=$(mktemp -u /tmp/leash-test-XXXXXX); mkfifo $fifo; " <>
      "(setsid #{root} sh -c \"echo up >$fifo; exec sleep 75\" >/dev/null 2>&1 </dev/null &); " <>
      "read up <$fifo; rm $fifo"
  end

  describe "linger:" do
    test "what holds stdout gets so long after the exit, and then the ladder" do
      carrier = new_carrier()
      decoy = start_decoy("another")
      line = "trap 'echo bye; exit' TERM; sleep 90 & wait"
      line = "sh -c #{inspect(line)} & echo x; exit 4"
      result = sh(line, carrier, linger: 300, stop: [sigterm: 5_000], timeout: 30_000)
      assert {"x\n" <> more, 4} = result
      assert more in ["", "bye\n"]
      assert_gone(carrier)
      assert_unharmed(decoy)
    end

    test "0 waits for nothing, and what ends in time is read to its end" do
      carrier = new_carrier()
      assert sh("sleep 90 & echo x; exit 5", carrier, linger: 0) == {"x\n", 5}
      assert_gone(carrier)

      assert sh("(sleep 0.3; echo late) & echo x; exit 6", carrier, linger: 20_000) ==
               {"x\nlate\n", 6}
    end

    test "the time of a program that has not exited is not over" do
      assert Leash.cmd("sh", ["-c", "echo x; sleep 0.5; echo y"], linger: 0) == {"x\ny\n", 0}
    end

    test "in a stream, for the last element and for stream!" do
      line = "sleep 90 & echo x; exit 4"
      options = [shell: true, linger: 100, timeout: 30_000]

      assert Leash.stream(line, [], options) |> Enum.to_list() == ["x\n", {:exit, {:status, 4}}]

      error =
        assert_raise Leash.CommandError, fn ->
          Leash.stream!(line, [], options) |> Stream.run()
        end

      assert error.how == {:status, 4}
    end

    test "what is kept is read so long, and goes on" do
      carrier = new_carrier()

      result =
        sh("sleep 90 & echo x; exit 4", carrier, linger: 200, on_exit: :keep, timeout: 30_000)

      assert result == {"x\n", 4}
      assert [_sleep] = Carrier.members(carrier)
    end
  end

  describe "timeout:" do
    test "does not take away a status that had come" do
      carrier = new_carrier()
      line = "sleep 90 & echo x; exit 4"
      assert sh(line, carrier, timeout: 400, stop: [sigterm: 300]) == {"x\n", 4}
      assert_gone(carrier)

      stream = Leash.stream("sh", ["-c", line], timeout: 400, stop: [sigterm: 300])
      assert Enum.to_list(stream) == ["x\n", {:exit, {:status, 4}}]
    end

    test "nor that of a command whose rest is kept" do
      carrier = new_carrier()
      line = "sleep 90 & echo x; exit 4"
      assert sh(line, carrier, timeout: 400, on_exit: :keep) == {"x\n", 4}
      assert [_sleep] = Carrier.members(carrier)
    end

    test "is the status of a program that heeds the ladder" do
      carrier = new_carrier()
      line = "trap 'exit 0' TERM; echo x; while :; do sleep 0.05; done"
      assert sh(line, carrier, timeout: 400) == {"x\n", :timeout}
    end
  end
end
