defmodule Leash.GuardTest do
  use Leash.Test.Case, async: false

  import ExUnit.CaptureLog

  alias Leash.{Guard, OptionsError}
  alias Leash.Guard.{Options, Watch}

  @every 100

  setup do
    nothing_is_listed_after()
    %{decoy: start_decoy("lives beside them")}
  end

  defp exceeded(tree, ms \\ 10_000) do
    worker = tree.worker
    assert_receive {:EXIT, ^worker, {:guard, breach}}, ms
    assert_gone(tree)
    breach
  end

  # Starts the program's work only once it is ready, since a guard is as fast as a test. A tree
  # that exceeds a limit at once does not even start. Until then the tree has at most two
  # processes.
  defp start_then(line, options) do
    go = Path.join(tmp_dir!(), "go")
    wait = "echo ready $$; while [ ! -e #{go} ]; do sleep 0.01; done; "
    tree = start_tree({:sh, wait <> line}, options)
    File.touch!(go)
    tree
  end

  # Waits until the guard has looked at a worker so many times more.
  defp looked(tree, times \\ 3) do
    number = Leash.Tree.info(tree.worker).worker
    from = due(number)
    assert_eventually(fn -> due(number) >= from + times * @every end, 10_000)
  end

  defp due(number), do: :sys.get_state(Guard).watches[number].due

  describe "a tree that exceeds" do
    test "its processes is ended in order, with what left it, and its neighbours live", %{
      decoy: decoy
    } do
      # One neighbour has no guard, and one has a looser guard.
      free = start_tree([:fan_out, 12])
      other = start_tree([:fan_out, 12], guard: [processes: 13, every: @every])
      twelve = String.duplicate("sleep 60 & ", 12) <> "wait"
      tree = start_then(twelve, guard: [processes: 12, every: @every])
      assert %{limit: :processes, max: 12, value: 13} = exceeded(tree)
      daemon = start_then("setsid sleep 60 & sleep 60; :", guard: [processes: 2, every: @every])
      assert %{limit: :processes, max: 2, value: 3} = exceeded(daemon)
      looked(other)
      assert_alive(other)
      assert_alive(free)
      for each <- [free, other], do: Worker.stop(each.worker)
      assert_unharmed(decoy)
    end

    test "its processes by forking without end is caught", %{decoy: decoy} do
      # The program is bounded by itself, too.
      line = "i=0; while [ $i -lt 300 ]; do sleep 60 & i=$((i+1)); sleep 0.01; done; wait"
      tree = start_then(line, guard: [processes: 20, every: @every], stop: [sigterm: 300])
      assert %{limit: :processes, value: value} = exceeded(tree)
      assert value in 21..302
      assert_unharmed(decoy)
    end

    test "its memory is ended, a child's and a daemon's counted", %{decoy: decoy} do
      go = Path.join(tmp_dir!(), "go")

      code =
        "import os, time\nprint('ready', flush=True)\nwhile not os.path.exists('#{go}'): time.sleep(0.01)\n" <>
          "x = bytearray(b'1' * 80000000)\ntime.sleep(60)"

      hog = Leash.Test.Python.quote_all([Leash.Test.Python.path(), "-S", "-c", code])
      other = start_tree({:sh, "#{hog} & wait"}, guard: [rss: "1GB", every: @every])
      tree = start_tree({:sh, "setsid #{hog} & wait"}, guard: [rss: "64MB", every: @every])
      looked(tree)
      assert_alive(tree)
      File.touch!(go)
      assert %{limit: :rss, max: 64_000_000, value: value} = exceeded(tree)
      assert value in 64_000_001..300_000_000
      looked(other)
      assert_alive(other)
      Worker.stop(other.worker)
      assert_unharmed(decoy)
    end

    test "its lifetime is ended, and a supervisor starts it anew", %{decoy: decoy} do
      carrier = new_carrier()
      guard = [lifetime: 1_000, every: @every]

      options =
        command({:sh, "sleep 60 & echo ready; wait"}, carrier) ++
          [name: __MODULE__.Old, ready: ~r/ready/, guard: guard]

      child = Supervisor.child_spec({Worker, options}, restart: :transient)

      {:ok, supervisor} =
        Supervisor.start_link([child], strategy: :one_for_one, max_restarts: 100)

      first = Leash.Tree.info(__MODULE__.Old)
      old = Carrier.members(carrier)
      assert_eventually(fn -> not Enum.any?(old, &Observer.alive?/1) end)

      assert_eventually(fn ->
        match?(%{last_exit: %{}, os_pid: pid} when pid != nil, Leash.Tree.info(__MODULE__.Old))
      end)

      second = Leash.Tree.info(__MODULE__.Old)
      assert second.os_pid != first.os_pid

      assert %{
               reason: {:guard, %{limit: :lifetime, max: 1_000, value: value}},
               exit: %Exit{cause: :stop}
             } = second.last_exit

      # The guard looks ten times a second.
      assert value >= 1_000
      Supervisor.stop(supervisor)
      assert_gone(carrier)
      assert_unharmed(decoy)
    end

    test "a limit before it is ready fails its start" do
      carrier = new_carrier()

      options =
        command([:fan_out, 6], carrier) ++
          [ready: ~r/never/, guard: [processes: 3, every: @every]]

      assert {:error, {:guard, %{limit: :processes, max: 3}}} = Worker.start_link(options)
      assert_gone(carrier)
    end
  end

  describe "idle is" do
    @idle 800

    # Returns the time from its start to its end, in milliseconds.
    defp lived(tree) do
      began = Leash.Tree.info(tree.worker).age
      from = System.monotonic_time(:millisecond)
      assert %{limit: :idle, max: @idle, value: value} = exceeded(tree)
      assert value in @idle..(@idle + 5_000)
      System.monotonic_time(:millisecond) - from + began
    end

    defp guarded(line, options \\ []),
      do: start_tree({:sh, line}, [guard: [idle: @idle, every: @every]] ++ options)

    test "a program that neither writes nor computes", %{decoy: decoy} do
      tree = guarded("echo ready; sleep 60; :")
      assert lived(tree) >= @idle
      assert_unharmed(decoy)
    end

    # A tick of CPU time is ten milliseconds. A program that only writes now and then uses none
    # for seconds.
    @writes "import time,sys\nprint('ready', flush=True)\nfor _ in range(20): time.sleep(0.1); print('x', file=sys.stderr, flush=True)\ntime.sleep(60)"

    @tag :slow
    test "not a program that writes, and then no more" do
      tree =
        guarded(
          "exec #{Leash.Test.Python.quote_all([Leash.Test.Python.path(), "-S", "-c", @writes])}"
        )

      assert lived(tree) >= 2_000 + @idle - 300
    end

    @tag :slow
    test "not one that computes, in a child that writes nothing" do
      busy = "import time; end = time.monotonic() + 2\nwhile time.monotonic() < end: pass"
      line = Leash.Test.Python.quote_all([Leash.Test.Python.path(), "-S", "-c", busy])
      tree = guarded("(#{line}) > /dev/null & echo ready; sleep 60; :")
      assert lived(tree) >= 2_000 + @idle - 300
    end

    @tag :slow
    test "not one that waits for a slow handler" do
      # This process takes nothing out of its mailbox meanwhile, so the program stands still.
      line = "echo ready; while :; do echo x; done"
      waiting = spawn_link(fn -> Process.sleep(:infinity) end)
      carrier = new_carrier()

      options =
        command({:sh, line}, carrier) ++
          [on_output: waiting, output_window: 1, guard: [idle: @idle, every: @every]]

      {:ok, worker} = Worker.start_link(options)
      tree = %{worker: worker}
      assert_eventually(fn -> elem(Process.info(waiting, :message_queue_len), 1) > 1 end)
      looked(tree, div(3 * @idle, @every))
      assert Process.alive?(worker)
      Worker.stop(worker, kill: true)
      assert_gone(carrier)
    end
  end

  describe "instead of an end" do
    @forks "trap 'kill $p' EXIT; while read l; do case $l in more) sleep 60 & p=$!; echo more;; less) kill $p; wait $p; echo less;; esac; done"

    defp told(tree, word) do
      :ok = Worker.write(tree.worker, word <> "\n")
      number = Leash.Tree.info(tree.worker).worker
      over = if word == "more", do: [:processes], else: []
      assert_eventually(fn -> :sys.get_state(Guard).watches[number].breached == over end)
    end

    defp talking(action) do
      # The subshell is dash's. The test is about one process more or less.
      start_tree({:sh, "echo ready; " <> @forks},
        stdin: :pipe,
        guard: [processes: 1, action: action, every: @every]
      )
    end

    test "a function is told, once until it is within its limit again", %{decoy: decoy} do
      test = self()
      tree = talking(&send(test, {:breach, &1}))
      looked(tree)
      refute_received {:breach, _}
      told(tree, "more")
      looked(tree)
      assert_received {:breach, breach}
      refute_received {:breach, _again}
      info = Leash.Tree.info(tree.worker)

      assert breach == %{
               limit: :processes,
               max: 1,
               value: 2,
               worker: info.worker,
               pid: tree.worker,
               name: nil,
               label: "sh",
               group: nil,
               os_pid: info.os_pid
             }

      told(tree, "less")
      refute_received {:breach, _}
      told(tree, "more")
      assert_receive {:breach, %{value: 2}}
      assert_alive(tree)
      Worker.stop(tree.worker)
      assert_unharmed(decoy)
    end

    test "one line is logged" do
      log =
        capture_log(fn ->
          tree = talking(:log)
          told(tree, "more")
          looked(tree)
          assert_alive(tree)
          Worker.stop(tree.worker)
        end)

      assert [_one] =
               Regex.scan(
                 ~r/\[warning\] Worker \d+ \(sh\) exceeds its limit: processes 2, at most 1/,
                 log
               )
    end

    test "a function that raises or hangs affects nothing else" do
      test = self()

      trees =
        for action <- [
              fn _ -> raise "oops" end,
              fn _ -> Process.sleep(:infinity) end,
              &send(test, {:breach, &1.limit})
            ],
            do:
              start_tree([:fan_out, 3],
                guard: [processes: 1, lifetime: 300, action: action, every: @every]
              )

      guard = Process.whereis(Guard)
      assert_receive {:breach, :processes}, 5_000
      assert_receive {:breach, :lifetime}, 5_000
      assert Process.whereis(Guard) == guard
      for tree <- trees, do: assert_alive(tree)
      for tree <- trees, do: Worker.stop(tree.worker)
    end
  end

  describe "the guard" do
    test "looks once for all of one interval, and not at all without a worker" do
      trees = for _ <- 1..5, do: start_tree(:plain, guard: [processes: 9, every: @every])
      guard = Process.whereis(Guard)
      :erlang.trace_pattern({Leash.Usage, :sums, 1}, true, [])
      :erlang.trace(guard, true, [:call])
      began = System.monotonic_time(:millisecond)
      looked(hd(trees), 10)
      :erlang.trace(guard, false, [:call])
      beats = div(System.monotonic_time(:millisecond) - began, @every) + 1
      assert calls(0) <= beats
      for tree <- trees, do: Worker.stop(tree.worker)

      assert_eventually(fn ->
        match?(%{watches: none, timer: nil} when none == %{}, :sys.get_state(guard))
      end)
    end

    defp calls(count) do
      receive do
        {:trace, _pid, :call, {Leash.Usage, :sums, _}} -> calls(count + 1)
      after
        0 -> count
      end
    end

    @tag :slow
    test "goes on after a crash of its own", %{decoy: decoy} do
      tree = start_tree([:fan_out, 3], guard: [lifetime: 2_500, every: @every])
      other = start_tree(:plain, guard: [processes: 1, every: @every])
      guard = Process.whereis(Guard)
      Process.exit(guard, :kill)
      assert_eventually(fn -> Process.whereis(Guard) not in [nil, guard] end)
      # The time counts from its start, and not from the crash.
      assert %{limit: :lifetime, value: value} = exceeded(tree)
      assert value in 2_500..8_000
      looked(other)
      assert_alive(other)
      Worker.stop(other.worker)
      assert_unharmed(decoy)
    end

    test "leaves to its own reason what ends already" do
      tree = start_tree(:ignores_term, stop: [sigterm: 400])
      worker = tree.worker
      {:ok, _task} = Task.start_link(fn -> Worker.stop(worker) end)
      assert_eventually(fn -> match?(%{tree: :ending}, Leash.Tree.info(worker)) end)
      # This is the state of a guard that looked a moment before.
      send(worker, {:leash, {:doomed, {:guard, %{limit: :processes, max: 1, value: 2}}}})
      assert_receive {:EXIT, ^worker, :normal}, 5_000
      assert_gone(tree)
    end
  end

  describe "a watch" do
    defp spec(limits),
      do: [every: 1_000, action: :stop] |> Keyword.merge(limits) |> Options.spec(nil)

    defp sums(processes, cpu \\ 0), do: %{processes: processes, rss: 10, cpu: cpu}

    test "tells of each breach once, and again after it was within its limit" do
      watch = Watch.new(spec(processes: 2, lifetime: 50), 0, 0)
      assert {[], watch} = Watch.check(watch, sums(2), 49)

      assert {[%{limit: :processes, max: 2, value: 3}, %{limit: :lifetime, value: 60}], watch} =
               Watch.check(watch, sums(3), 60)

      assert {[], watch} = Watch.check(watch, sums(3), 70)
      assert {[], watch} = Watch.check(watch, sums(2), 80)
      assert {[%{limit: :processes}], watch} = Watch.check(watch, sums(3), 90)
      # If no look was possible, nothing is known.
      assert {[], watch} = Watch.check(watch, nil, 100)
      assert {[], _watch} = Watch.check(watch, sums(4), 110)
    end

    test "is on the same beat for every worker" do
      for now <- [-250, -101, -100, -1, 0, 1, 99, 100, 12_345] do
        due = Watch.new(spec(processes: 2, every: 100), 0, now).due
        assert rem(due, 100) == 0 and due > now and due <= now + 100
      end
    end

    test "is idle since the last tick of CPU time" do
      watch = Watch.new(spec(idle: 100), 0, 0)
      assert {[], watch} = Watch.check(watch, sums(1, 10), 50)
      assert {[], watch} = Watch.check(watch, sums(1, 10), 149)
      assert {[], watch} = Watch.check(watch, sums(1, 20), 160)
      assert {[], watch} = Watch.check(watch, sums(1, 20), 259)
      assert {[%{limit: :idle, value: 101}], _watch} = Watch.check(watch, sums(1, 20), 261)
    end
  end

  describe "options" do
    test "sizes have units" do
      for {text, bytes} <- [
            {1, 1},
            {"12B", 12},
            {"3kB", 3_000},
            {"512MB", 512_000_000},
            {"8GB", 8_000_000_000},
            {"8 gb", 8_000_000_000},
            {"1GiB", 1_073_741_824},
            {"2TiB", 2_199_023_255_552}
          ],
          do: assert(Options.bytes(text) == {:ok, bytes})
    end

    test "that are wrong are refused, and nothing is started" do
      refused = fn guard ->
        assert %OptionsError{key: :guard} =
                 error =
                 catch_error(Worker.start_link(command: "sleep", args: ["60"], guard: guard))

        error
      end

      for guard <- [true, [], [:rss], %{rss: 5}] do
        error = refused.(guard)
        assert {[], ^guard} = {error.path, error.value}

        assert Exception.message(error) =~
                 "expected a keyword list with at least one of :processes, :rss, :lifetime, :idle"
      end

      assert refused.(action: :stop).path == []

      for {key, value, expected} <- [
            {:processes, 0, "a positive integer"},
            {:processes, "9", "a positive integer"},
            {:rss, "8", "bytes, or text such as \"512MB\""},
            {:rss, "8XB", "bytes"},
            {:rss, "-1GB", "bytes"},
            {:rss, "1.5GB", "bytes"},
            {:rss, "0GB", "bytes"},
            {:rss, "1GB\n", "bytes"},
            {:rss, 1.5, "bytes"},
            {:lifetime, 0, "milliseconds > 0"},
            {:idle, :infinity, "milliseconds > 0"},
            {:every, 99, "milliseconds (at least 100)"},
            {:action, :kill, ":stop, :log or a function of one argument"},
            {:action, &__MODULE__.module_info/0, ":stop, :log or a function of one argument"}
          ] do
        error = refused.([{key, value}, lifetime: 1])
        assert {[:guard, ^key], ^value} = {error.path, error.value}

        assert Exception.message(error) =~
                 "invalid value for #{inspect(key)} option in :guard: expected #{expected}"

        assert Exception.message(error) =~ "got: #{inspect(value)}"
      end

      assert Exception.message(refused.(processes: 1, memory: 1)) ==
               "invalid options in :guard: expected one of [:processes, :rss, :lifetime, :idle, " <>
                 ":action, :every], got: :memory (did you mean :rss?)"

      assert %{path: [:guard, :processes], value: [1, 2]} = refused.(processes: 1, processes: 2)

      assert Leash.list() == []
      assert_raise OptionsError, fn -> Leash.cmd("true", [], guard: [processes: 1]) end
      assert_raise OptionsError, fn -> Leash.open_port("true", [], guard: [processes: 1]) end
    end
  end
end
