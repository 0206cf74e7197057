defmodule Leash.ClusterTest do
  @moduledoc """
  Three nodes with workers, one node without Leash, and one where Leash is not started. The first
  of them asks all others.

  They find each other without a port mapper. Each has an address of its own on the loopback, and
  all have the same port.
  """

  # Serial: sweeps look at every process.
  use Leash.Test.Case, async: false

  @moduletag :slow

  alias Leash.{Cluster, OptionsError}
  alias Leash.Test.Script

  @moduletag timeout: 120_000

  @shape "trap 'exit 0' TERM; setsid sleep 300 & echo ready $$ $!; while :; do sleep 0.05; done"

  defp free_port do
    {:ok, socket} = :gen_tcp.listen(0, ip: {127, 0, 0, 1})
    {:ok, port} = :inet.port(socket)
    :ok = :gen_tcp.close(socket)
    port
  end

  defp cluster,
    do: %{port: free_port(), cookie: Leash.Test.Name.unique("cookie"), dir: tmp_dir!()}

  defp name(number), do: :"leash#{number}@127.0.1.#{number}"

  defp flags(cluster, number) do
    "-name #{name(number)} -setcookie #{cluster.cookie} -start_epmd false -erl_epmd_port #{cluster.port} " <>
      "-kernel inet_dist_use_interface {127,0,1,#{number}} -kernel prevent_overlapping_partitions false"
  end

  # A VM with workers of a group, and a run directory of its own.
  defp start_node(cluster, number, workers, options \\ []) do
    dir = Path.join(cluster.dir, "#{number}")
    File.mkdir_p!(dir)
    File.chmod!(dir, 0o700)

    workers =
      for label <- workers do
        {label, [command: "sh", args: ["-c", @shape], group: "pool", stop: [sigterm: 2_000]]}
      end

    start_vm(
      workers,
      [run_dir: dir, os_env: %{"ERL_FLAGS" => flags(cluster, number)}, env: [sweep: false]] ++
        options
    )
  end

  defp connect(vm, numbers) do
    for number <- numbers,
        do: assert(VM.eval(vm, "Node.connect(#{inspect(name(number))})") == true)
  end

  defp three(cluster) do
    [one | _others] = vms = for number <- 1..3, do: start_node(cluster, number, ["a", "b"])
    connect(one, 2..3)
    # The second and the third hear of each other from the first.
    for vm <- vms, do: assert_eventually(fn -> length(VM.eval(vm, "Node.list()")) == 2 end)
    vms
  end

  # The signal is sent before it arrives.
  defp suspend({pid, _ticks} = process) do
    Observer.signal(process, "STOP")
    assert_eventually(fn -> Observer.state(pid) == "T" end)
  end

  defp trees(vms) do
    for vm <- vms,
        {label, %{os: os, shim: shim}} <- vm.workers,
        process <- [os, shim | vm.trees[label]],
        do: process
  end

  defp living(processes), do: Enum.filter(processes, &Observer.alive?/1)
  defp ask(vm, code), do: VM.eval(vm, "Leash.Cluster." <> code)
  defp timed(fun), do: with({us, result} <- :timer.tc(fun), do: {div(us, 1_000), result})

  test "list/1 has the workers of every node, whose pids work from here" do
    [one, two, three] = vms = cluster() |> three()

    lists = ask(one, "list()")
    assert lists |> Map.keys() |> Enum.sort() == Enum.map(1..3, &name/1)

    for {vm, number} <- Enum.with_index(vms, 1) do
      assert {:ok, rows} = lists[name(number)]
      seen = rows |> Enum.map(& &1.os_pid) |> Enum.sort()
      there = for {_label, %{os: {pid, _ticks}}} <- vm.workers, do: pid
      assert seen == Enum.sort(there)
      assert Enum.all?(rows, &(&1.group == "pool" and node(&1.pid) == name(number)))
    end

    asked = ask(two, "list(nodes: [#{inspect(name(3))}, #{inspect(name(3))}])")
    assert Map.keys(asked) == [name(3)]

    code = """
    {:ok, [%{pid: pid} | _]} = Leash.Cluster.list()[#{inspect(name(3))}]
    {Leash.Worker.os_pid(pid), Leash.Worker.stop(pid)}
    """

    assert {os_pid, {:ok, %Exit{signal: nil, status: 0}}} = VM.eval(one, code)
    ended = Map.new(three.workers, fn {_label, %{os: {pid, _} = os}} -> {pid, os} end)
    refute Observer.alive?(ended[os_pid])
    assert length(living(trees([three]))) == 4
  end

  test "stop_all/2 ends the group on every node and nothing else" do
    [one, two, three] = vms = cluster() |> three()
    decoy = start_decoy("beside a cluster")
    code = "Leash.Worker.start_link(shell: \"sleep 300\", group: :other)"
    {:ok, _other} = VM.eval(two, code)
    [%{os_pid: other}] = VM.eval(two, "for %{group: :other} = row <- Leash.list(), do: row")
    other = Observer.identity(other)
    processes = trees(vms)
    assert length(processes) == 3 * 2 * 4 and living(processes) == processes

    answers = ask(one, "stop_all(\"pool\", deadline: 5_000)")
    assert living(processes) == []
    assert answers |> Map.keys() |> Enum.sort() == Enum.map(1..3, &name/1)

    for {_node, answer} <- answers do
      assert {:ok, [%{result: {:ok, %Exit{status: 0, step: :sigterm}}}, _other]} = answer
    end

    assert Observer.alive?(other)
    for vm <- [one, two, three], do: assert(Observer.alive?(vm.identity))
    assert_unharmed(decoy)
    assert {:ok, [_one]} = ask(three, "stop_all()")[name(2)]
    refute Observer.alive?(other)
  end

  test "a node without an answer is named and holds up no other" do
    cluster = cluster()
    [one, two, three] = three(cluster)
    start_node(cluster, 4, [], mode: :bare)
    carrier = new_carrier()

    line =
      "exec erl -noshell -noinput #{flags(cluster, 5)} -eval 'io:format(\"ready~n\"), timer:sleep(120000), halt().'"

    {_port, without, []} = Script.start(line, carrier)
    connect(one, [4, 5])
    suspend(two.identity)

    # The second is suspended, and no process listens on the address of the last.
    nodes = inspect(Enum.map(1..6, &name/1))
    listing = "list(nodes: #{nodes}, timeout: 1_500)"
    assert {took, answers} = timed(fn -> ask(one, listing) end)
    assert took < 3_500
    assert {:ok, [_, _]} = answers[name(1)]
    assert {:ok, [_, _]} = answers[name(3)]

    assert Map.take(answers, [name(2), name(4), name(5), name(6)]) == %{
             name(2) => {:error, :timeout},
             name(4) => {:error, :not_running},
             name(5) => {:error, :undef},
             name(6) => {:error, :noconnection}
           }

    assert ask(one, "sweep(timeout: 3_000, mode: :report)")[name(4)] == {:error, :not_running}

    # Two suspended nodes take no longer than one.
    suspend(without)
    assert {took, answers} = timed(fn -> ask(one, listing) end)
    assert took < 2_900
    for number <- [2, 5], do: assert(answers[name(number)] == {:error, :timeout})
    Observer.signal(without, "CONT")

    # It has received the request, and carries it out when it goes on.
    {took, answers} = timed(fn -> ask(one, "stop_all(:all, timeout: 2_500)") end)
    assert took < 5_000
    assert answers[name(2)] == {:error, :timeout}
    assert {:ok, [_, _]} = answers[name(3)]
    assert living(trees([one, three])) == []
    assert length(living(trees([two]))) == 8
    VM.signal(two, "CONT")
    assert_eventually(fn -> living(trees([two])) == [] end, 10_000)
  end

  test "sweep/1 ends what a crashed run left, and a report of it does not" do
    cluster = cluster()
    [one, two, _three] = vms = three(cluster)
    crashed = start_node(cluster, 4, ["gone"])
    kill_all(crashed)
    [_leader, orphan] = crashed.trees["gone"]
    assert Observer.alive?(orphan)

    match = fn answers ->
      for {_node, {:ok, report}} <- answers, match = match_of(report, orphan), do: match.action
    end

    seen = ask(one, "sweep(mode: :report)")
    assert map_size(seen) == 3
    assert match.(seen) == [:kept, :kept, :kept]
    assert Observer.alive?(orphan)

    swept = ask(two, "sweep(deadline: 5_000, stop: [sigterm: 500])")
    assert map_size(swept) == 3 and Enum.all?(swept, &match?({_node, {:ok, _report}}, &1))
    assert :ended in match.(swept)
    refute Observer.alive?(orphan)
    assert length(living(trees(vms))) == 24
  end

  describe "in a VM without distribution:" do
    test "it answers for itself alone, and others have no connection" do
      tree = start_tree(:plain, group: :alone)
      assert %{nonode@nohost: {:ok, rows}} = Cluster.list()
      assert Enum.find(rows, &(&1.pid == tree.worker))
      assert Cluster.list(nodes: []) == %{}
      assert Cluster.list(nodes: [:nobody@nowhere]) == %{nobody@nowhere: {:error, :noconnection}}
      assert_alive(tree)

      assert %{nonode@nohost: {:ok, [%{result: {:ok, %Exit{}}}]}} =
               Cluster.stop_all(:alone, deadline: 2_000)

      assert_gone(tree)
    end

    test "a mistake is reported before any node is asked" do
      tree = start_tree(:plain, group: :asked)

      for {key, bad} <- [
            nodes: :here,
            nodes: ["a@b"],
            nodes: [nil],
            nodes: [:a@b | :c@d],
            timeout: -1,
            timeout: :infinity
          ],
          call <- [
            &Cluster.list/1,
            &Cluster.sweep/1,
            &Cluster.stop_all(:asked, &1)
          ] do
        error = assert_raise OptionsError, fn -> call.([{key, bad}]) end
        assert %{key: ^key, value: ^bad, expected: <<_, _::binary>>} = error
      end

      for {call, key, bad} <- [
            {&Cluster.stop_all/1, :group, nil},
            {&Cluster.stop_all/1, :group, [:asked]},
            {&Cluster.stop_all(:asked, deadline: &1), :deadline, -1},
            {&Cluster.stop_all(:asked, kill: &1), nil, :kill},
            {&Cluster.sweep(scope: &1), :scope, :everything},
            {&Cluster.list(deadline: &1), nil, :deadline}
          ] do
        error = assert_raise OptionsError, fn -> call.(if bad == :kill, do: true, else: bad) end
        assert error.key == key
      end

      assert_alive(tree)
    end
  end
end
