defmodule Leash.Worker.RestartDelayTest do
  use Leash.Test.Case, async: false

  import ExUnit.CaptureLog

  alias Leash.Test.Name
  alias Leash.Worker.RestartDelay

  @options [min: 200, max: 30_000, reset: 60_000]

  describe "the time" do
    test "doubles from the first to the longest, and is less by a quarter at most" do
      delays = fn chance ->
        Enum.scan(1..12, nil, fn _number, last ->
          RestartDelay.next(last, @options, 0, chance)
        end)
        |> Enum.map(& &1.delay)
      end

      assert Enum.take(delays.(0.0), 9) ==
               [200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000]

      assert Enum.take(delays.(1.0), 3) == [150, 300, 600]
      assert List.last(delays.(1.0)) == 22_500
    end

    test "begins anew after a program that ran for long" do
      third = %{attempt: 3, delay: 800, next_at: DateTime.utc_now()}
      assert %{attempt: 4} = RestartDelay.next(third, @options, 59_999)
      assert %{attempt: 1, delay: delay} = RestartDelay.next(third, @options, 60_000)
      assert delay in 150..200
    end

    test "stays bounded however often a program fails" do
      last = %{attempt: 1_000_000, delay: 1, next_at: DateTime.utc_now()}
      assert RestartDelay.next(last, @options, 0, 0.0).delay == 30_000
    end
  end

  test "no end that was asked for, and no tree that is left, is followed by a start" do
    for reason <- [:normal, :shutdown, {:shutdown, :x}, :stopping, {:survivors, []}],
        do: refute(RestartDelay.again?(reason), inspect(reason))

    for reason <- [{:exit_status, 1}, {:signal, :sigsegv}, {:exec, :enoent}, :ready_timeout],
        do: assert(RestartDelay.again?(reason), inspect(reason))
  end

  for {wrong, expected} <- [
        {[min: 0], "min"},
        {[min: 500, max: 400], "not less than :min"},
        {5, "keyword list"},
        {[maximum: 1], "maximum"}
      ] do
    test "restart_delay: #{inspect(wrong)} is refused before anything starts" do
      error =
        assert_raise Leash.OptionsError, fn ->
          Worker.start_link(command: "sleep", args: ["60"], restart_delay: unquote(wrong))
        end

      assert Exception.message(error) =~ unquote(expected)
    end
  end

  describe "a worker" do
    setup do
      nothing_is_listed_after()
      dir = tmp_dir!()

      %{
        decoy: start_decoy("beside the failures"),
        name: :"#{Name.unique("patient")}",
        count: Path.join(dir, "count"),
        carrier: new_carrier()
      }
    end

    defp supervise(line, context, delay) do
      options = [name: context.name, restart_delay: delay]
      child = {Worker, command({:sh, line}, context.carrier) ++ options}
      # The default intensity: three restarts in five seconds.
      {:ok, supervisor} = Supervisor.start_link([child], strategy: :one_for_one)
      supervisor
    end

    defp starts(context) do
      case File.read(context.count) do
        {:ok, text} -> byte_size(text)
        {:error, :enoent} -> 0
      end
    end

    test "that fails at once, for ever, keeps its process and its supervisor", context do
      log =
        capture_log(fn ->
          line = "printf x >> #{context.count}; exit 3"
          supervisor = supervise(line, context, min: 20, max: 100)
          worker = Process.whereis(context.name)
          assert_eventually(fn -> starts(context) >= 8 end)
          assert Process.whereis(context.name) == worker and Process.alive?(supervisor)

          assert_eventually(fn ->
            match?([%{restart: %{attempt: attempt}}] when attempt >= 7, Leash.list())
          end)

          assert :ok = Supervisor.stop(supervisor)
        end)

      assert log =~ ~r/failed \({:exit_status, 3}\), and starts again in \d+ ms \(attempt 1\)/
      assert log =~ "(attempt 7)"
      refute log =~ "terminating"
      before = starts(context)
      assert_gone(context.carrier)
      assert starts(context) == before
      assert_unharmed(context.decoy)
    end

    test "that waits answers, is listed, and is started at once by restart/1", context do
      line = "printf x >> #{context.count}; [ -e #{context.count}.good ] && exec sleep 60; exit 3"

      capture_log(fn ->
        supervisor = supervise(line, context, min: 60_000, max: 60_000)
        assert_eventually(fn -> Worker.info(context.name).state == :waiting end)
        assert %{restart: %{attempt: 1}, os_pid: _} = Worker.info(context.name)
        assert [%{tree: :alive, os_pid: nil, restart: %{attempt: 1}}] = Leash.list()
        assert {:ok, %Exit{status: 3}} = Worker.await(context.name, 1_000)
        assert {:error, _reason} = Worker.write(context.name, "x")
        assert starts(context) == 1

        File.touch!(context.count <> ".good")
        assert {:ok, %Exit{status: 3}} = Worker.restart(context.name)
        assert_eventually(fn -> Worker.info(context.name).state == :running end)
        assert_eventually(fn -> Carrier.members(context.carrier) != [] end)
        assert [%{restart: %{attempt: 1}}] = Leash.list()
        :ok = Supervisor.stop(supervisor)
      end)

      assert_gone(context.carrier)
    end

    for {way, name} <- [stop: "stop/2", stop_all: "stop_all/2", supervisor: "its supervisor"] do
      test "that waits is ended at once by #{name}", context do
        capture_log(fn ->
          line = "printf x >> #{context.count}; exit 3"

          options = [
            name: context.name,
            restart_delay: [min: 60_000, max: 60_000],
            group: :patient
          ]

          child = {Worker, command({:sh, line}, context.carrier) ++ options}
          child = Supervisor.child_spec(child, restart: :temporary)
          {:ok, supervisor} = Supervisor.start_link([child], strategy: :one_for_one)
          worker = Process.whereis(context.name)
          monitor = Process.monitor(worker)
          assert_eventually(fn -> Worker.info(context.name).state == :waiting end)
          began = System.monotonic_time(:millisecond)

          case unquote(way) do
            :stop -> assert {:ok, %Exit{status: 3}} = Worker.stop(context.name)
            :stop_all -> assert {:ok, [_one]} = Leash.stop_all(:patient)
            :supervisor -> :ok = Supervisor.stop(supervisor)
          end

          assert_receive {:DOWN, ^monitor, :process, _pid, _reason}, 5_000
          assert System.monotonic_time(:millisecond) - began < 5_000
          if Process.alive?(supervisor), do: Supervisor.stop(supervisor)
        end)

        assert starts(context) == 1
        assert_gone(context.carrier)
        assert_unharmed(context.decoy)
      end
    end

    test "whose program cannot be executed any more waits for it", context do
      program = context.count <> ".program"
      text = "#!/bin/sh\n" <> Carrier.enter(context.carrier) <> "exec sleep 60\n"
      File.write!(program, "#!/bin/sh\nexit 4\n")
      File.chmod!(program, 0o700)

      capture_log(fn ->
        options = [command: program, name: context.name, restart_delay: [min: 20, max: 50]]
        {:ok, worker} = Worker.start_link(options)
        File.rm!(program)
        assert_eventually(fn -> match?([%{restart: %{attempt: n}}] when n > 3, Leash.list()) end)
        File.write!(program <> ".new", text)
        File.chmod!(program <> ".new", 0o700)
        File.rename!(program <> ".new", program)
        assert_eventually(fn -> Carrier.members(context.carrier) != [] end)
        assert {:ok, %Exit{cause: :stop}} = Worker.stop(worker)
      end)

      assert_gone(context.carrier)
    end

    test "whose program ends well exits as without the option", context do
      {:ok, worker} =
        Worker.start_link(command({:sh, "exit 0"}, context.carrier) ++ [restart_delay: []])

      Process.flag(:trap_exit, true)
      monitor = Process.monitor(worker)
      assert_receive {:DOWN, ^monitor, :process, _pid, reason}, 5_000
      assert reason in [:normal, :noproc]
    end
  end
end
