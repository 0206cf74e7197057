defmodule Leash.TelemetryTest do
  # Uses a stand-in with the one function of `:telemetry` that Leash calls.
  use Leash.Test.Case, async: false

  alias Leash.Telemetry

  @stand_in """
  defmodule :telemetry do
    def execute(event, measurements, metadata) do
      for {_, pid} <- :ets.lookup(:telemetry_stand_in, :pid),
          do: send(pid, {:event, event, measurements, metadata})

      :ok
    end
  end
  """

  setup do
    refute function_exported?(:telemetry, :execute, 3)
    :ets.new(:telemetry_stand_in, [:named_table, :public, :bag])
    :ets.insert(:telemetry_stand_in, {:pid, self()})
    [{:telemetry, _binary}] = Code.compile_string(@stand_in)

    on_exit(fn ->
      :code.delete(:telemetry)
      :code.purge(:telemetry)
    end)
  end

  # Returns the events of workers with this label, in their order, until one of this name.
  defp until(name, label, seen \\ []) do
    receive do
      {:event, event, measurements, %{label: ^label} = metadata} ->
        seen = seen ++ [{event, measurements, metadata}]
        if List.last(event) == name, do: seen, else: until(name, label, seen)
    after
      5_000 -> flunk("no #{name}, only #{inspect(seen)}")
    end
  end

  test "a worker: start, ready, the steps of its end, stop" do
    tree = start_tree(:ignores_term, stop: [sigterm: 50], name: __MODULE__.Worker, group: :pool)
    info = Worker.info(tree.worker)
    {:ok, exit} = Worker.stop(tree.worker)
    events = until(:stop, inspect(__MODULE__.Worker))

    assert [
             {[:leash, :worker, :start], %{system_time: _}, metadata},
             {[:leash, :worker, :ready], %{duration: ready}, _},
             {[:leash, :kill, :step], %{elapsed: 0}, %{signal: :sigterm, cause: :stop}},
             {[:leash, :kill, :step], %{elapsed: elapsed}, %{signal: :sigkill, cause: :stop}},
             {[:leash, :worker, :stop], %{duration: lived}, %{exit: ^exit}}
           ] = events

    assert %{kind: :worker, group: :pool, pid: worker} = metadata
    assert worker == tree.worker
    assert {metadata.os_pid, metadata.shim_pid} == {info.os_pid, info.shim_pid}
    assert {metadata.worker, metadata.run_id} == {info.worker, Leash.run_id()}
    assert System.convert_time_unit(elapsed, :native, :millisecond) >= 50
    assert 0 < ready and ready < lived
    for {event, _, _} <- events, do: assert(event in Telemetry.events())
  end

  test "a command as a step is named" do
    tree =
      start_tree(:plain, stop: [{:cmd, ["false", "x"], 5_000}, sigterm: 100], name: __MODULE__.Cmd)

    {:ok, _exit} = Worker.stop(tree.worker)

    steps =
      for {[:leash, :kill, :step], _, metadata} <- until(:stop, inspect(__MODULE__.Cmd)),
          do: metadata

    program = System.find_executable("false")
    assert [%{signal: nil, command: [^program, "x"], cause: :stop}, %{signal: :sigterm}] = steps
  end

  test "a breach of a guard, and failures of a check" do
    name = __MODULE__.Guarded

    {worker, _tree} =
      doomed(name, guard: [processes: 1, every: 100], shell: "sleep 60 & echo ready; wait")

    events = until(:stop, inspect(name))

    assert {[:leash, :guard, :breach], %{value: 2, max: 1}, metadata} =
             List.keyfind(events, [:leash, :guard, :breach], 0)

    assert %{limit: :processes, action: :stop, pid: ^worker, kind: :worker} = metadata

    name = __MODULE__.Checked

    doomed(name,
      health: [check: fn -> :no end, every: 20, failures: 2],
      shell: "echo ready; sleep 60; :"
    )

    events = until(:stop, inspect(name))

    assert [{%{count: 1}, first}, {%{count: 2}, _second}] =
             for(
               {[:leash, :health, :failure], counts, metadata} <- events,
               do: {counts, metadata}
             )

    assert first.reason == {:returned, :no}

    assert [:leash, :health, :failure] in Telemetry.events() and
             [:leash, :guard, :breach] in Telemetry.events()
  end

  defp doomed(name, options) do
    {:ok, worker} = Worker.start_link([name: name, ready: ~r/ready/] ++ options)
    assert_receive {:EXIT, ^worker, reason}, 5_000
    {worker, reason}
  end

  test "commands and streams" do
    {"", 3} = Leash.cmd("exit 3", [], shell: true)

    assert [{[:leash, :worker, :start], _, %{kind: :command}}, _ready, {_, _, %{exit: exit}}] =
             until(:stop, "sh")

    assert %Exit{status: 3, cause: :exited} = exit
    ["y\n" <> _] = Leash.stream!("yes") |> Enum.take(1)
    assert {_, _, %{exit: %Exit{}}} = "yes" |> then(&until(:stop, &1)) |> List.last()
  end

  test "ports, whose end looks the same as a kill" do
    port = Leash.open_port("sleep", ["60"], [])
    Port.close(port)

    assert [{_, _, %{kind: :port, os_pid: nil}}, {_, _, %{exit: nil}}] = until(:stop, "sleep")
  end

  test "a Worker that was killed: the Reaper says it" do
    tree = start_tree(:plain, name: __MODULE__.Killed)
    Process.exit(tree.worker, :kill)
    assert {_, _, %{exit: nil}} = until(:stop, inspect(__MODULE__.Killed)) |> List.last()
    assert_gone(tree, 2_000)
  end

  test "a start that fails is no event" do
    assert {:error, {:exec, :enoexec}} = Worker.start_link(command: not_a_program())
    assert {"", 0} = Leash.cmd("true")
    assert [{[:leash, :worker, :start], _, %{label: "true"}} | _] = until(:stop, "true")
    refute_received {:event, _, _, %{label: "not-a-program"}}
  end

  defp not_a_program do
    path = Path.join(tmp_dir!(), "not-a-program")
    File.write!(path, "no interpreter")
    File.chmod!(path, 0o755)
    path
  end

  test "a sweep: start, each match, stop" do
    decoy = start_decoy("names this run", argv: ["--run-id=#{Leash.run_id()}"])
    {:ok, report} = Leash.sweep(mode: :report)
    run_id = Leash.run_id()

    assert_received {:event, [:leash, :sweep, :start], %{system_time: _},
                     %{run_id: ^run_id, mode: :report}}

    for match <- report.matches,
        do: assert_received({:event, [:leash, :sweep, :match], %{count: 1}, %{match: ^match}})

    count = length(report.matches)

    assert_received {:event, [:leash, :sweep, :stop],
                     %{matches: ^count, survivors: 0, duration: _}, %{complete: true}}

    assert_unharmed(decoy)
  end

  test "the table of the documentation names every event" do
    {:docs_v1, _, _, _, %{"en" => text}, _, _} = Code.fetch_docs(Telemetry)
    for event <- Telemetry.events(), do: assert(text =~ inspect(event))
  end
end
