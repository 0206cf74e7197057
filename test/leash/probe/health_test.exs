defmodule Leash.Probe.HealthTest do
  use Leash.Test.Case, async: false

  alias Leash.OptionsError
  alias Leash.Test.Ports

  setup do
    nothing_is_listed_after()
    %{decoy: start_decoy("lives beside them"), port: Ports.free()}
  end

  defp unhealthy(tree, ms \\ 5_000) do
    worker = tree.worker
    assert_receive {:EXIT, ^worker, {:unhealthy, reason}}, ms
    assert_gone(tree)
    reason
  end

  # Waits until the probe has asked so many times more.
  defp asked(counter, times) do
    from = :counters.get(counter, 1)
    assert_eventually(fn -> :counters.get(counter, 1) >= from + times end)
  end

  test "a supervisor restarts what is not well any more, and nothing of the old tree is left", %{
    port: port,
    decoy: decoy
  } do
    well = Path.join(tmp_dir!(), "well")
    File.touch!(well)
    carrier = new_carrier()
    line = "sleep 60 & #{Ports.http(port, [:while_file, well])}"

    options =
      command({:sh, line}, carrier) ++
        [
          name: __MODULE__.Http,
          ready: {:http, port},
          health: [check: {:http, port}, every: 50, failures: 2]
        ]

    {:ok, supervisor} = Supervisor.start_link([{Worker, options}], strategy: :one_for_one)
    first = Leash.Tree.info(__MODULE__.Http)
    old = Carrier.members(carrier)
    assert length(old) == 2

    File.rm!(well)
    assert_eventually(fn -> not Enum.any?(old, &Observer.alive?/1) end)
    File.touch!(well)

    assert_eventually(fn ->
      match?(%{last_exit: %{}, os_pid: pid} when pid != nil, Leash.Tree.info(__MODULE__.Http))
    end)

    second = Leash.Tree.info(__MODULE__.Http)
    assert second.os_pid != first.os_pid
    assert %{reason: {:unhealthy, {:status, 503}}, exit: %Exit{cause: :stop}} = second.last_exit
    assert_eventually(fn -> length(Carrier.members(carrier)) == 2 end)
    Supervisor.stop(supervisor)
    assert_gone(carrier)
    assert_unharmed(decoy)
  end

  test "one that is well lives; failures count only in a row", %{decoy: decoy} do
    counter = :counters.new(1, [])

    check = fn ->
      :counters.add(counter, 1, 1)
      # Two of three checks are failures.
      rem(:counters.get(counter, 1), 3) == 0
    end

    tree = start_tree(:plain, health: [check: check, every: 10, failures: 3])
    asked(counter, 20)
    assert_alive(tree)
    Worker.stop(tree.worker)
    assert_unharmed(decoy)
  end

  for {title, check, reason} <- [
        {"says no", quote(do: fn -> false end), quote(do: {:returned, false})},
        {"says an error", quote(do: fn -> {:error, :full} end),
         quote(do: {:returned, {:error, :full}})},
        {"raises", quote(do: fn -> raise "oops" end),
         quote(do: {:raised, %RuntimeError{message: "oops"}})},
        {"throws", quote(do: fn -> throw(:x) end), quote(do: {:raised, {:throw, :x}})},
        {"exits", quote(do: fn -> exit(:x) end), quote(do: {:raised, {:exit, :x}})},
        {"is killed", quote(do: fn -> Process.exit(self(), :kill) end),
         quote(do: {:raised, {:exit, :killed}})},
        {"is called by name", quote(do: {Enum, :at, [[:no], 0]}), quote(do: {:returned, :no})},
        {"does not exist", quote(do: {:no_such_module, :x, []}),
         quote(do: {:raised, %UndefinedFunctionError{}})}
      ] do
    test "a check that #{title} is a failure", %{decoy: decoy} do
      tree =
        start_tree({:sh, "sleep 60 & echo ready $$ $!; wait"},
          health: [check: unquote(check), every: 10]
        )

      other = start_tree(:plain, health: [check: fn -> {:ok, 1} end, every: 10, failures: 1])
      assert unquote(reason) = unhealthy(tree)
      assert_alive(other)
      Worker.stop(other.worker)
      assert_unharmed(decoy)
    end
  end

  test "a check that hangs is killed after its time, and is a failure" do
    test = self()

    check = fn ->
      send(test, {:asked_in, self()})
      receive do: (:never -> :ok)
    end

    tree = start_tree(:plain, health: [check: check, every: 10, timeout: 100, failures: 2])
    assert_receive {:asked_in, first}, 5_000
    assert_receive {:asked_in, second}, 5_000
    assert first != second and not Process.alive?(first)
    assert unhealthy(tree) == :timeout
    assert_eventually(fn -> not Process.alive?(second) end)
    refute_received {:asked_in, _third}
  end

  test "a check that hangs ends with its worker" do
    test = self()

    check = fn ->
      send(test, {:asked_in, self()})
      receive do: (:never -> :ok)
    end

    tree = start_tree(:plain, health: [check: check, every: 10, timeout: 60_000])
    assert_receive {:asked_in, pid}, 5_000
    Process.exit(tree.worker, :kill)
    assert_eventually(fn -> not Process.alive?(pid) end)
    assert_gone(tree, 5_000)
  end

  test "HTTP that hangs, and a port that is closed, are failures", %{port: port} do
    carrier = new_carrier()
    line = Ports.http(port, [:hangs_after, 1])
    health = [check: {:http, "http://127.0.0.1:#{port}/"}, every: 50, timeout: 100, failures: 1]

    {:ok, worker} =
      Worker.start_link(command({:sh, line}, carrier) ++ [ready: {:http, port}, health: health])

    assert_receive {:EXIT, ^worker, {:unhealthy, :timeout}}, 5_000
    assert_gone(carrier)

    tree = start_tree(:plain, health: [check: {:tcp, Ports.free()}, every: 10])
    assert unhealthy(tree) == :econnrefused
  end

  test "a port that is open is well", %{port: port} do
    {:ok, listener} = :gen_tcp.listen(port, ip: {127, 0, 0, 1}, active: false)
    tree = start_tree(:plain, health: [check: {:tcp, port}, every: 10, failures: 1])
    for _ <- 1..10, do: assert({:ok, _socket} = :gen_tcp.accept(listener, 5_000))
    assert_alive(tree)
    :gen_tcp.close(listener)
    assert unhealthy(tree) == :econnrefused
  end

  test "nothing is asked before it is ready, nor of what is being ended" do
    counter = :counters.new(1, [])

    check = fn ->
      :counters.add(counter, 1, 1)
      true
    end

    test = self()

    ready = fn ->
      assert_no_more(counter)
      send(test, :not_asked)
      true
    end

    first = start_tree(:plain, ready: ready, health: [check: check, every: 10])
    assert_received :not_asked
    asked(counter, 3)
    Worker.stop(first.worker)

    tree = start_tree(:ignores_term, health: [check: check, every: 10], stop: [sigterm: 400])
    asked(counter, 3)
    {:ok, task} = Task.start_link(fn -> Worker.stop(tree.worker) end)
    assert_eventually(fn -> match?(%{tree: :ending}, Leash.Tree.info(tree.worker)) end)
    # One check may be under way.
    Process.sleep(20)
    assert_no_more(counter)
    assert Process.alive?(task)
    assert_receive {:EXIT, ^task, :normal}, 5_000
    assert_gone(tree)
  end

  # Waits ten times as long as one question takes, and expects none.
  defp assert_no_more(counter) do
    before = :counters.get(counter, 1)
    Process.sleep(100)
    assert :counters.get(counter, 1) == before
  end

  test "a program's end by itself is its own reason, though its rest is still being asked" do
    name = __MODULE__.Exits
    test = self()

    check = fn ->
      well? = Observer.state(Leash.Tree.info(name).os_pid) not in ["Z", nil]
      send(test, {:well?, well?})
      well?
    end

    tree =
      start_tree({:sh, "(trap '' TERM; sleep 60) & echo ready $$ $!; sleep 0.3; exit 3"},
        name: name,
        linger: 500,
        health: [check: check, every: 50, failures: 2]
      )

    worker = tree.worker
    assert_receive {:EXIT, ^worker, {:exit_status, 3}}, 5_000
    assert_received {:well?, false}
    assert_gone(tree)
  end

  test "wrong options are refused, and nothing is started" do
    check = fn -> true end

    for {health, path, value, text} <- [
          {true, [], true, "a keyword list of :check, :every, :timeout, :failures, got: true"},
          {[], [:health, :check], nil, "(it is required), got: nil"},
          {[every: 5], [:health, :check], nil, "{:unix, \"/absolute/path\"}, {:http, target}"},
          {[check: 8080], [:health, :check], 8080,
           "{:unix, \"/absolute/path\"}, {:http, target}"},
          {[check: {:tcp, 0}], [:health, :check], {:tcp, 0}, "got: {:tcp, 0}"},
          {[check: {:http, "ftp://x"}], [:health, :check], {:http, "ftp://x"}, "http://host"},
          {[check: &Atom.to_string/1], [:health, :check], &Atom.to_string/1,
           "a function without arguments"},
          {[check: check, every: 0], [:health, :every], 0, "expected milliseconds > 0, got: 0"},
          {[check: check, timeout: :infinity], [:health, :timeout], :infinity,
           "milliseconds > 0"},
          {[check: check, failures: 0], [:health, :failures], 0, "expected a number > 0, got: 0"},
          {[check: check, colour: 1], [:health, nil], :colour, "one of [:check, :every"},
          {[check: check, check: check], [:health, :check], [check, check], "one value"}
        ] do
      options = [command: "sleep", args: ["60"], health: health]

      assert %OptionsError{key: :health, path: ^path, value: ^value} =
               error = catch_error(Worker.start_link(options))

      assert Exception.message(error) =~ text
    end

    assert Leash.list() == []
    assert_raise OptionsError, fn -> Leash.cmd("true", [], health: [check: check]) end
  end
end
