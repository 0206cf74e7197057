defmodule Leash.CallbackTest do
  # Serial: there is one Logger.
  use Leash.Test.Case, async: false

  import ExUnit.CaptureLog

  setup do
    nothing_is_listed_after()
    %{decoy: start_decoy("lives beside them")}
  end

  @failures [
    raises: quote(do: raise("oops \e[2J\xFF")),
    throws: quote(do: throw(:oops)),
    "exits normally": quote(do: exit(:normal)),
    "calls a process that is gone": quote(do: GenServer.call(:no_such_process, :oops)),
    "is ended by a link": quote(do: Process.exit(self(), :oops))
  ]

  # Counts how often the log names an option.
  defp lines(log, option), do: log |> String.split("#{option} of sh, ") |> length() |> Kernel.-(1)

  defp log_of(function) do
    log = capture_log(function)
    assert String.valid?(log)
    refute log =~ "\e[2J"
    log
  end

  defp await_exit(worker, ms \\ 5_000) do
    assert_receive {:EXIT, ^worker, reason}, ms
    reason
  end

  @doc false
  # A handler of `:logger`.
  def log(%{msg: {:string, text}}, %{config: pid}),
    do: send(pid, {:logged, IO.chardata_to_string(text)})

  def log(_event, _handler), do: :ok

  # Waits until the process that sent its pid has ended, and has logged everything.
  defp assert_over(how) do
    assert_receive {^how, pid}, 5_000
    assert_eventually(fn -> not Process.alive?(pid) end)
  end

  for {title, code} <- @failures do
    test "on_output and on_stderr: one that #{title} costs a line that names it" do
      test = self()

      handler = fn stream, data ->
        send(test, {stream, data})
        unquote(code)
      end

      log =
        log_of(fn ->
          for options <- [[on_output: handler], [on_output: self(), on_stderr: handler]] do
            line = "for i in 1 2 3; do echo $i; echo $i >&2; sleep 0.05; done; exit 4"
            {:ok, worker} = Worker.start_link([shell: line] ++ options)
            assert await_exit(worker) == {:exit_status, 4}
            for data <- ["1\n", "2\n", "3\n"], do: assert_receive({:stderr, ^data})
          end
        end)

      for data <- ["1\n", "2\n", "3\n"], do: assert_received({:stdout, ^data})

      # The reader of the option traps exits.
      if unquote(title) != :"is ended by a link" do
        # Two readers, each with a line for the first and one for the others.
        assert lines(log, "on_output") == 4
        assert lines(log, "on_stderr") == 2
        assert log =~ "anonymous fn/2 in Leash.CallbackTest"
        assert log =~ "failed (and 2 times more since the last line)"
      end
    end

    test "exit_reason: one that #{title} leaves the default" do
      log =
        log_of(fn ->
          exit_reason = fn _exit -> unquote(code) end
          {:ok, worker} = Worker.start_link(shell: "exit 4", exit_reason: exit_reason)
          assert await_exit(worker) == {:exit_status, 4}
        end)

      assert lines(log, "exit_reason") == 1
    end

    test "health: one that #{title} is a failure, and the worker is named", %{decoy: decoy} do
      log =
        log_of(fn ->
          check = fn -> unquote(code) end
          health = [check: check, every: 10, failures: 2]
          {:ok, worker} = Worker.start_link(shell: "sleep 60; :", health: health)
          assert {:unhealthy, {:raised, _why}} = await_exit(worker)
        end)

      assert lines(log, "health") == 1
      assert_unharmed(decoy)
    end

    test "ready: one that #{title} is asked again, and named if there is no other answer" do
      test = self()
      note = fn -> send(test, {:asked_by, hd(Process.get(:"$callers", [self()]))}) end

      without_info = fn ->
        note.()
        unquote(code)
      end

      with_info = fn _info ->
        note.()
        unquote(code)
      end

      for ready <- [without_info, with_info] do
        log =
          log_of(fn ->
            options = [shell: "sleep 60; :", ready: ready, ready_timeout: 200]
            # The line comes from another process, after the answer.
            :ok = :logger.add_handler(__MODULE__, __MODULE__, %{config: test})
            assert {:error, :ready_timeout} = Worker.start_link(options)
            assert_over(:asked_by)
            assert_receive {:logged, "ready of sh, " <> _rest}, 5_000
            :ok = :logger.remove_handler(__MODULE__)
          end)

        assert lines(log, "ready") == 1
      end
    end

    test "guard: a function that #{title} costs a line" do
      test = self()

      log =
        log_of(fn ->
          action = fn _breach ->
            send(test, {:told_by, hd(Process.get(:"$callers", [self()]))})
            unquote(code)
          end

          guard = [lifetime: 1, every: 100, action: action]
          {:ok, worker} = Worker.start_link(shell: "sleep 60; :", guard: guard)
          assert_over(:told_by)
          assert {:ok, _exit} = Worker.stop(worker)
        end)

      assert lines(log, "guard") == 1
    end
  end

  test "exit_reason: one that hangs is given up, and its process with it" do
    test = self()

    log =
      capture_log(fn ->
        exit_reason = fn _exit ->
          send(test, {:asked_in, self()})
          Process.sleep(:infinity)
        end

        {:ok, worker} = Worker.start_link(shell: "exit 4", exit_reason: exit_reason)
        assert await_exit(worker, 10_000) == {:exit_status, 4}
      end)

    assert_received {:asked_in, pid}
    assert_eventually(fn -> not Process.alive?(pid) end)
    assert log =~ ~r/exit_reason of sh, anonymous fn\/1 in .*, did not return within 1000 ms/
  end

  test "on_output: one that hangs holds up neither the stop nor its caller, and is named", %{
    decoy: decoy
  } do
    test = self()

    log =
      capture_log(fn ->
        hang = fn _stream, _data ->
          send(test, {:asked_in, self()})
          receive do: (:go_on -> :ok)
        end

        tree = start_tree({:sh, "echo ready $$; exec sleep 60"}, on_output: hang, ready: nil)
        assert_receive {:asked_in, reader}, 5_000
        assert {:ok, %Exit{cause: :stop}} = Worker.stop(tree.worker)
        assert_gone(tree)
        assert Process.alive?(reader)
        send(reader, :go_on)
        assert_eventually(fn -> not Process.alive?(reader) end)
      end)

    assert log =~ ~r/on_output of sh, anonymous fn\/2 in .*, has not taken all output yet/
    assert_unharmed(decoy)
  end

  test "health and ready: one that hangs is named" do
    test = self()

    hang = fn ->
      send(test, {:asked_by, hd(Process.get(:"$callers", [self()]))})
      Process.sleep(:infinity)
    end

    log =
      capture_log(fn ->
        health = [check: hang, every: 10, timeout: 50, failures: 1]
        {:ok, worker} = Worker.start_link(shell: "sleep 60; :", health: health)
        assert await_exit(worker) == {:unhealthy, :timeout}
        assert_over(:asked_by)
        options = [shell: "sleep 60; :", ready: hang, ready_timeout: 200]
        assert {:error, :ready_timeout} = Worker.start_link(options)
        assert_over(:asked_by)
      end)

    assert log =~ ~r/health of sh, anonymous fn\/0 in .*, did not return within 50 ms/
    assert log =~ ~r/ready of sh, anonymous fn\/0 in .*, had not returned/
  end

  test "a check that is named is named in the log" do
    log =
      capture_log(fn ->
        health = [check: {:no_such_module, :x, [1]}, every: 10, failures: 1]
        {:ok, worker} = Worker.start_link(shell: "sleep 60; :", health: health)
        assert {:unhealthy, {:raised, %UndefinedFunctionError{}}} = await_exit(worker)
      end)

    assert log =~ "health of sh, :no_such_module.x/1, raised: "
  end

  test "one that works leaves no line" do
    log =
      capture_log(fn ->
        answers = :counters.new(1, [])

        ready = fn ->
          :counters.add(answers, 1, 1)
          if :counters.get(answers, 1) < 3, do: raise("not yet"), else: :ok
        end

        {:ok, worker} =
          Worker.start_link(
            shell: "echo x; sleep 60; :",
            ready: ready,
            on_output: fn _stream, _data -> :ok end,
            health: [check: fn -> true end, every: 10]
          )

        assert {:ok, _exit} = Worker.stop(worker)
      end)

    assert log == ""
  end

  test "the caller is in $callers of each process that calls a function" do
    test = self()

    tell = fn what, answer ->
      send(test, {what, Process.get(:"$callers")})
      answer
    end

    {:ok, worker} =
      Worker.start_link(
        shell: "echo x; sleep 0.5; exit 4",
        ready: fn -> tell.(:ready, :ok) end,
        on_output: fn _stream, _data -> tell.(:on_output, :ok) end,
        health: [check: fn -> tell.(:health, :ok) end, every: 10],
        guard: [lifetime: 1, every: 100, action: fn _breach -> tell.(:guard, :ok) end],
        exit_reason: fn _exit -> tell.(:exit_reason, :mapped) end
      )

    assert await_exit(worker) == :mapped

    for what <- [:ready, :on_output, :health, :guard, :exit_reason] do
      assert_received {^what, callers}
      assert is_list(callers) and worker in callers and test in callers, "#{what}"
    end

    input = Stream.map(["a"], fn part -> tell.(:input, part) end)
    assert Leash.cmd("cat", [], input: input) == {"a", 0}
    assert_received {:input, callers}
    assert test in callers
  end

  test "an input whose task crashes is no shorter input" do
    input = Task.async_stream(1..3, fn _number -> exit(:oops) end) |> Stream.map(&inspect/1)
    log = capture_log(fn -> assert catch_exit(Leash.cmd("cat", [], input: input)) end)
    assert is_binary(log)
    assert_eventually(fn -> Leash.list() == [] end)
  end
end
