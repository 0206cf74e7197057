defmodule Leash.LoggerTest do
  # Uses a stand-in with the functions of `:telemetry` that Leash calls. Serial: there is one
  # Logger.
  use Leash.Test.Case, async: false

  import ExUnit.CaptureLog

  @stand_in """
  defmodule :telemetry do
    def attach_many(id, events, function, config) do
      if :ets.insert_new(:telemetry_stand_in, {id, events, function, config}),
        do: :ok,
        else: {:error, :already_exists}
    end

    def detach(id) do
      if :ets.take(:telemetry_stand_in, id) == [], do: {:error, :not_found}, else: :ok
    end

    def execute(event, measurements, metadata) do
      for {_id, events, function, config} <- :ets.tab2list(:telemetry_stand_in),
          event in events,
          do: function.(event, measurements, metadata, config)

      :ok
    end
  end
  """

  defp stand_in(_context) do
    refute function_exported?(:telemetry, :execute, 3)
    :ets.new(:telemetry_stand_in, [:named_table, :public])
    [{:telemetry, _binary}] = Code.compile_string(@stand_in)

    on_exit(fn ->
      :code.delete(:telemetry)
      :code.purge(:telemetry)
    end)
  end

  # The lines of this library, without the colours and times of the console.
  defp lines(options \\ [level: :debug], function) do
    for line <- options |> capture_log(function) |> String.split("\n"),
        [_all, level, text] <- [Regex.run(~r/\[(\w+)\] +(leash .*|Leash .*)$/u, clean(line))],
        do: {level, text}
  end

  defp clean(line), do: String.replace(line, ~r/\e\[\d*m/, "")

  defp run_worker(options) do
    tree = start_tree(:ignores_term, [stop: [sigterm: 50]] ++ options)
    {:ok, _exit} = Worker.stop(tree.worker)
    assert_gone(tree)
    tree
  end

  describe "with :telemetry" do
    setup :stand_in

    test "each event is a line of its level" do
      decoy = start_decoy("sleeps beside it")
      assert Leash.Logger.attach() == :ok
      test = self()

      lines =
        lines(fn ->
          send(test, run_worker(name: __MODULE__.Named, group: :pool))
          {"", 0} = Leash.cmd("true")
          {:ok, _report} = Leash.sweep(mode: :report)
        end)

      assert_received %{os: {pid, _ticks}, worker: _pid}
      of = ~r/^leash worker \d+ Leash.LoggerTest.Named \(group :pool, pid #{pid}\): (.*)$/
      own = for {level, text} <- lines, [_all, rest] <- [Regex.run(of, text)], do: {level, rest}

      assert [
               {"info", "started"},
               {"debug", "ready after " <> _},
               {"info", "SIGTERM after 0 ms (stop)"},
               {"warn" <> _, killed},
               {"info", "ended by SIGKILL after " <> _}
             ] = own

      assert killed =~ ~r/^SIGKILL after \d+ ms \(stop\)$/
      assert Enum.any?(lines, &match?({"info", "leash command " <> _}, &1))
      assert {"debug", "leash sweep (report) begins"} in lines
      assert Enum.any?(lines, &match?({"info", "leash sweep (report): " <> _}, &1))
      assert_unharmed(decoy)
    end

    test "of the events and on the level that were asked for, and none when detached" do
      assert Leash.Logger.attach(level: :error, events: [[:leash, :worker, :stop]]) == :ok
      assert [{"error", line}] = lines(fn -> run_worker([]) end)
      assert line =~ ~r/: ended by SIGKILL/

      # They take the place of those before, and do not come beside them.
      assert Leash.Logger.attach(level: :notice, events: [[:leash, :worker, :start]]) == :ok
      assert [{_notice, line}] = lines(fn -> run_worker([]) end)
      assert line =~ ~r/: started$/
      assert Leash.Logger.detach() == :ok
      assert lines(fn -> run_worker([]) end) == []
      assert Leash.Logger.detach() == :ok
    end

    test "wrong options change nothing" do
      assert Leash.Logger.attach(events: [[:leash, :worker, :start]]) == :ok

      for {options, key} <- [
            {[level: :loud], :level},
            {[events: [[:leash, :dance]]], :events},
            {[events: :all], :events},
            {[colour: true], nil}
          ] do
        assert %Leash.OptionsError{key: ^key} = catch_error(Leash.Logger.attach(options))
      end

      assert [{"info", _started}] = lines(fn -> run_worker([]) end)
    end

    test "a sweep that killed says each one, and a line of any text is one line" do
      lines =
        lines(fn ->
          metadata = %{run_id: "s59m65f", mode: :end, complete: false}
          measurements = %{duration: 1_000_000, matches: 2, survivors: 1}
          match = %{pid: 7, command: "a\nb\e[2J", run_id: "s59m65g", verdict: :dead, why: "gone"}

          for {action, by} <- [ended: "SIGTERM", survived: nil] do
            match = Map.merge(match, %{action: action, ended_by: by})
            Leash.Logger.handle([:leash, :sweep, :match], %{count: 1}, %{match: match}, nil)
          end

          Leash.Logger.handle([:leash, :sweep, :stop], measurements, metadata, nil)
          Leash.Logger.handle([:leash, :later, :event], %{at: 5}, %{what: 1}, nil)

          worker = %{worker: 3, kind: :worker, label: "sh", group: nil, os_pid: 7, shim_pid: 6}
          breach = Map.put(worker, :limit, :processes)
          Leash.Logger.handle([:leash, :guard, :breach], %{value: 2, max: 1}, breach, nil)

          step = Map.merge(worker, %{signal: nil, command: ["docker", "rm"], cause: :stop})
          Leash.Logger.handle([:leash, :kill, :step], %{elapsed: 0}, step, nil)
        end)

      assert [
               {"info",
                "leash sweep: ended by SIGTERM: process 7 (a␊b␛[2J) of run s59m65g: dead, gone"},
               {"warn" <> _, "leash sweep: survived: process 7 " <> _},
               {"warn" <> _, "leash sweep (end): 2 tagged processes, 1 left after " <> rest},
               {"warn" <> _, "leash later event: at: 5, what: 1"},
               {"warn" <> _,
                "leash worker 3 sh (pid 7): guard breach limit: :processes, max: 1, value: 2"},
               {"info", ~S|leash worker 3 sh (pid 7): ["docker", "rm"] after 0 ms (stop)|}
             ] = lines

      assert rest =~ "not everything could be seen"
    end
  end

  test "without :telemetry it says so" do
    assert Leash.Logger.attach() == {:error, :no_telemetry}
    assert Leash.Logger.detach() == {:error, :no_telemetry}
  end

  test "the library itself logs nothing, whatever happens to workers, but what a sweep killed" do
    quiet = fn ->
      run_worker(group: :quiet)
      tree = start_tree(:plain)
      Observer.signal(tree.shim, "KILL")
      assert_gone(tree, 5_000)
      tree = start_tree(:plain)
      Process.exit(tree.worker, :kill)
      assert_gone(tree, 5_000)
      {_output, :timeout} = Leash.cmd("sleep", ["60"], timeout: 50)
      {:ok, _none} = Leash.stop_all(:quiet)
      {:ok, report} = Leash.sweep(mode: :report)
      Leash.Sweep.log(report)
    end

    # OTP, and not this library, reports a GenServer that ends abnormally.
    assert lines(quiet) == []

    dir = tmp_dir!()
    line = "setsid sh -c 'echo ready $$; exec sleep 90' & wait"
    vm = start_vm([{"w", [command: "sh", args: ["-c", line]]}], run_dir: dir)
    :ok = kill_all(vm)
    [orphan] = vm.trees["w"]
    next = VM.boot(dir, [])
    on_exit(fn -> VM.stop(next) end)
    said = until_ready(next, [])
    refute Observer.alive?(orphan)
    assert [line] = for(line <- said, line =~ "Leash", do: clean(line))

    assert line =~
             ~r/\[warn(ing)?\] +Leash swept 1 processes of 1 dead runs \(#{vm.run_id}\) in \d+ ms/
  end

  # The console of a VM is its stdout.
  defp until_ready(vm, said) do
    case VM.line(vm, 60_000) do
      "ready" -> said
      line -> until_ready(vm, [line | said])
    end
  end
end
