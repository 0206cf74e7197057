defmodule Leash.Cli.StopTest do
  # Serial: where no VM lives it sweeps, which looks at every process.
  use Leash.Test.Case, async: false

  @moduletag :slow

  @moduletag timeout: 120_000

  @moduletag needs: :cli

  setup do
    {:ok, dir: tmp_dir!()}
  end

  defp cli(dir, args), do: Leash.Test.Cli.run(dir, args)

  @family ~s|setsid sh -c 'echo ready $$; exec sleep 90' & sleep 91 & wait|
  @stubborn ~s|trap '' TERM; echo ready $$; while :; do sleep 0.2; done|

  defp worker(label, more, line \\ @family),
    do: {label, [command: "sh", args: ["-c", line], stop: [sigterm: 30_000]] ++ more}

  defp live(dir, workers), do: start_vm(workers, run_dir: dir, env: [sweep: false, app: "shop"])

  # The leader, the shim and the daemon that left their group.
  defp tree(vm, label) do
    %{os: os, shim: shim} = vm.workers[label]
    [os, shim | vm.trees[label]]
  end

  defp assert_alive!(identities), do: for(one <- identities, do: assert(Observer.alive?(one)))
  defp refute_alive!(identities), do: for(one <- identities, do: refute(Observer.alive?(one)))

  test "a group ends with everything below it, and nothing else does", %{dir: dir} do
    decoy = start_decoy("sleeps beside it", argv: ["--group", "gpu"])
    neighbour = live(dir, [worker("n", group: "cpu")])

    vm =
      live(dir, [
        worker("a", group: "gpu"),
        worker("b", group: "gpu"),
        worker("c", group: :gpu_too),
        worker("d", [])
      ])

    for label <- ~w(a b c d), do: assert_alive!(tree(vm, label))
    assert {output, 0} = cli(dir, ["stop", "gpu"])
    for label <- ~w(a b), do: refute_alive!(tree(vm, label))

    for label <- ~w(a b) do
      {pid, _ticks} = vm.workers[label].os
      assert output =~ ~r/^ended +#{vm.run_id} +\d +#{pid} +sh +"gpu" +SIGTERM, .* ms$/m
    end

    assert output =~ ~r/^ended 2 workers$/m
    for label <- ~w(c d), do: assert_alive!(tree(vm, label))
    assert_alive!([vm.identity | tree(neighbour, "n")])
    assert_unharmed(decoy)

    # A run without anything of that name reports this and changes nothing.
    assert {output, 1} = cli(dir, ["stop", "gpu"])
    assert output =~ ~s|2 living runs have no worker or group gpu; there are "cpu", :gpu_too|
    for label <- ~w(c d), do: assert_alive!(tree(vm, label))
  end

  test "a worker is called what it is registered as", %{dir: dir} do
    vm =
      live(dir, [
        worker("a", name: Kennel.Embedder),
        worker("b", name: :embedder),
        worker("c", name: {:global, {:embedder, 3}}),
        # It has only the label of its program, which does not name it.
        worker("d", [])
      ])

    assert {_output, 1} = cli(dir, ["stop", "sh"])
    assert {_output, 1} = cli(dir, ["stop", "Embedder"])
    for label <- ~w(a b c d), do: assert_alive!(tree(vm, label))

    for {label, name} <- [
          {"a", "Elixir.Kennel.Embedder"},
          {"b", "embedder"},
          {"c", "{:global, {:embedder, 3}}"}
        ] do
      assert {_output, 0} = cli(dir, ["stop", name])
      refute_alive!(tree(vm, label))
    end

    assert_alive!(tree(vm, "d"))
  end

  test "what does not end is killed at the deadline", %{dir: dir} do
    vm =
      live(dir, [worker("a", [group: :deaf], @stubborn), worker("b", [name: :deaf], @stubborn)])

    assert {output, 0} = cli(dir, ["stop", ":deaf", "--deadline", "300"])
    for label <- ~w(a b), do: refute_alive!(tree(vm, label))
    assert length(Regex.scan(~r/SIGKILL, the last of it by SIGKILL/, output)) == 2
    assert Observer.alive?(vm.identity)
  end

  test "where several runs have it, nothing is stopped before one is chosen", %{dir: dir} do
    [one, two, other] = for _ <- 1..3, do: live(dir, [worker("w", group: :pool)])
    alone = live(dir, [worker("w", group: :another)])

    assert {output, 3} = cli(dir, ["stop", "pool"])
    for vm <- [one, two, other], do: assert(output =~ vm.run_id)
    refute output =~ alone.run_id
    for vm <- [one, two, other, alone], do: assert_alive!(tree(vm, "w"))

    assert {_output, 0} = cli(dir, ["stop", "pool", "--run", one.run_id])
    refute_alive!(tree(one, "w"))
    for vm <- [two, other, alone], do: assert_alive!(tree(vm, "w"))

    assert {output, 0} = cli(dir, ["stop", "pool", "--all-runs"])
    assert output =~ "ended 2 workers"
    for vm <- [two, other], do: refute_alive!(tree(vm, "w"))
    assert_alive!([alone.identity | tree(alone, "w")])
    assert {_output, 1} = cli(dir, ["stop", "pool", "--run", "zzzzzzz"])
  end

  test "with no living VM what dead ones left is swept, and else that, too", %{dir: dir} do
    vm = live(dir, [worker("w", group: :pool)])
    socket = Path.join(dir, vm.run_id <> ".sock")
    assert File.exists?(socket)
    :ok = kill_all(vm)
    [orphan] = vm.trees["w"]
    assert Observer.alive?(orphan)

    # `--run` means that run and no other.
    assert {output, 1} = cli(dir, ["stop", "pool", "--run", vm.run_id])
    assert output =~ "`leash kill #{vm.run_id}`"
    assert Observer.alive?(orphan)

    assert {output, 0} = cli(dir, ["stop", "pool"])
    refute Observer.alive?(orphan)
    assert_gone(vm.carrier)
    assert output =~ "records dropped: #{vm.run_id}"
    assert File.ls!(dir) == []
    assert {_output, 0} = cli(dir, ["stop", "pool"])

    dead = live(dir, [worker("w", group: :pool)])
    :ok = kill_all(dead)
    alive = live(dir, [worker("w", group: :other)])
    [orphan] = dead.trees["w"]
    assert {output, 1} = cli(dir, ["stop", "pool", "--run", alive.run_id])
    assert output =~ "1 living run has no worker or group pool"
    assert Observer.alive?(orphan)
    assert {output, 1} = cli(dir, ["stop", "pool"])
    assert output =~ "1 living run has no worker or group pool; there are :other"
    refute Observer.alive?(orphan)
    assert_alive!(tree(alive, "w"))
  end

  test "a VM that does not answer is named, and the others are not guessed at", %{dir: dir} do
    hung = live(dir, [worker("w", group: :pool)])
    VM.signal(hung, "STOP")
    assert_eventually(fn -> Observer.state(elem(hung.identity, 0)) == "T" end)
    assert {output, 1} = cli(dir, ["stop", "pool"])
    assert output =~ "#{hung.run_id}: its VM has not answered within 2000 ms"
    assert_alive!(tree(hung, "w"))

    well = live(dir, [worker("w", group: :pool)])
    assert {output, 3} = cli(dir, ["stop", "pool"])
    assert output =~ well.run_id and output =~ "choose with --run"
    assert_alive!(tree(well, "w"))
    assert {_output, 0} = cli(dir, ["stop", "pool", "--run", well.run_id])
    refute_alive!(tree(well, "w"))
    VM.signal(hung, "CONT")
    assert {_output, 0} = cli(dir, ["stop", "pool"])
    refute_alive!(tree(hung, "w"))
  end

  test "a VM that hangs after it was found costs the deadline and no more", %{dir: dir} do
    # The VM's own worker stops the VM when the worker gets SIGTERM.
    line =
      ~s|trap 'kill -STOP $VM; exec sleep 30' TERM; echo ready $$; while :; do sleep 0.1; done|

    vm = live(dir, [])
    {pid, _ticks} = vm.identity
    carrier = vm.carrier

    code = """
    {:ok, worker} = Leash.Worker.start_link(command: "sh", args: ["-c", #{inspect(line)}], group: :pool,
      env: %{"VM" => "#{pid}"}, stop: [sigterm: 30_000], ready: ~r/ready/)
    Process.unlink(worker)
    Leash.Worker.os_pid(worker)
    """

    os = vm |> VM.eval(code) |> Observer.identity()
    assert Observer.alive?(os)
    began = System.monotonic_time(:millisecond)
    assert {output, 1} = cli(dir, ["stop", "pool", "--deadline", "500"])
    assert (System.monotonic_time(:millisecond) - began) in 2_400..6_000
    assert output =~ "#{vm.run_id}: its VM has not answered within 2500 ms"
    VM.signal(vm, "CONT")
    # The stop that the VM had begun goes on.
    assert_eventually(fn -> not Observer.alive?(os) end)
    assert Observer.alive?(vm.identity)
    assert carrier == vm.carrier
  end

  test "a worker under a supervisor that restarts it is there again", %{dir: dir} do
    vm = live(dir, [])

    code = """
    child = {Leash.Worker, command: "sleep", args: ["90"], name: :again}
    {:ok, supervisor} = Supervisor.start_link([child], strategy: :one_for_one)
    Process.unlink(supervisor)
    Leash.Worker.os_pid(:again)
    """

    os = vm |> VM.eval(code) |> Observer.identity()
    assert {_output, 0} = cli(dir, ["stop", "again"])
    refute Observer.alive?(os)
    assert_eventually(fn -> VM.eval(vm, "is_pid(Process.whereis(:again))") end)
    other = VM.eval(vm, "Leash.Worker.os_pid(:again)")
    assert other != elem(os, 0)
  end

  test "the socket is there while the application runs, and its path has an end", %{dir: dir} do
    vm = live(dir, [worker("w", group: :pool)])
    socket = Path.join(dir, vm.run_id <> ".sock")
    assert VM.eval(vm, "Leash.capabilities().control") == :ok

    # The process that serves the socket comes back, on the same path.
    VM.eval(vm, "Process.exit(Process.whereis(Leash.Control), :kill)")
    assert_eventually(fn -> VM.eval(vm, "Leash.capabilities().control") == :ok end)
    assert {_output, 0} = cli(dir, ["stop", "pool"])
    refute_alive!(tree(vm, "w"))
    assert VM.ask(vm, "app_stop") == ":ok"
    refute File.exists?(socket)
    assert VM.eval(vm, "Leash.Control.status()") == {:error, :not_running}

    long = Path.join(dir, String.duplicate("x", 120))
    File.mkdir!(long)
    File.chmod!(long, 0o700)
    vm = live(long, [worker("w", group: :pool)])
    assert VM.eval(vm, "Leash.capabilities().control") == {:error, :enametoolong}
    assert_alive!(tree(vm, "w"))
    assert {output, 1} = cli(long, ["stop", "pool"])
    assert output =~ "#{vm.run_id}: its VM lives and has no socket"
    assert_alive!(tree(vm, "w"))
  end
end
