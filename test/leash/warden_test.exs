defmodule Leash.WardenTest do
  # The run's warden from outside. The fault matrix tests it after VM and shims are killed. Its
  # own rules are in native/shim/tests/shim/warden.rs.
  use Leash.Test.Case, async: false

  import ExUnit.CaptureLog

  @moduletag timeout: 120_000

  setup do
    {:ok, dir: tmp_dir!()}
  end

  @daemon ~s|setsid sh -c 'echo ready $$; exec sleep 60' & wait|

  defp workers, do: [{"w", [command: "sh", args: ["-c", @daemon]]}]

  defp vm(dir, workers, options \\ []), do: start_vm(workers, [run_dir: dir] ++ options)

  defp capability(vm), do: VM.eval(vm, "Leash.capabilities().warden")

  defp await_other_than(vm, former) do
    assert_eventually(fn ->
      length(VM.wardens(vm) -- former) == 1 and capability(vm) == :ok
    end)

    [warden] = VM.wardens(vm) -- former
    warden
  end

  test "is one process, unmarked and small, that no list of workers shows", %{dir: dir} do
    vm = vm(dir, workers())
    assert [{pid, _ticks} = warden] = VM.wardens(vm)
    assert VM.eval(vm, "Leash.Warden.os_pid()") == pid
    assert capability(vm) == :ok
    assert Tag.marked_run(pid) == nil
    assert Observer.parent(pid) != elem(vm.identity, 0), "its parent is the VM's fork server"

    assert VM.eval(vm, "for %{os_pid: os, shim_pid: shim} <- Leash.list(), do: [os, shim]")
           |> List.flatten()
           |> Enum.member?(pid) == false

    refute VM.eval(vm, "inspect(Leash.tree())") =~ "#{pid}"

    rollup = File.read!("/proc/#{pid}/smaps_rollup")
    assert [_, kb] = Regex.run(~r/^Private_Dirty:\s+(\d+) kB/m, rollup)
    assert String.to_integer(kb) <= 50
    assert Observer.alive?(warden)
  end

  test "is replaced when it is killed, and the workers hear nothing of it", %{dir: dir} do
    vm = vm(dir, workers())
    tree = [vm.workers["w"].os, vm.workers["w"].shim | vm.trees["w"]]

    former =
      for _ <- 1..3, reduce: [] do
        former ->
          [warden] = VM.wardens(vm)
          Observer.signal(warden, "KILL")
          await_other_than(vm, [warden | former])
          [warden | former]
      end

    assert length(Enum.uniq(former)) == 3
    assert Enum.all?(tree, &Observer.alive?/1)
  end

  test "is missed in the log when it is killed" do
    former = Leash.Warden.os_pid()
    assert is_integer(former)

    log =
      capture_log(fn ->
        former |> Observer.identity() |> Observer.signal("KILL")
        assert_eventually(fn -> Leash.Warden.os_pid() not in [nil, former] end)
      end)

    assert log =~ "the run's warden, #{former}, was killed"
  end

  test "survives the crash of the process that keeps it, until another is at its post", %{
    dir: dir
  } do
    vm = vm(dir, workers())
    [first] = VM.wardens(vm)
    true = VM.eval(vm, "Process.exit(Process.whereis(Leash.Warden), :kill)")
    second = await_other_than(vm, [first])
    # The first warden stays with its shim to the last.
    assert Observer.alive?(first)

    shim =
      VM.eval(
        vm,
        "Leash.Worker.start_link(command: \"sleep\", args: [\"61\"]) |> elem(1) |> Leash.Worker.shim_pid()"
      )

    assert Observer.parent(shim) == elem(second, 0)
    assert Enum.all?(vm.trees["w"], &Observer.alive?/1)

    kept = [vm.identity | VM.shims(vm)]
    Observer.signal_all(kept, "KILL")

    assert_eventually(fn -> not Enum.any?(vm.trees["w"] ++ VM.wardens(vm), &Observer.alive?/1) end)
  end

  test "is no port's: where all ports are closed, workers go on and others start", %{dir: dir} do
    vm = vm(dir, workers())
    [warden] = VM.wardens(vm)

    # The port of the guest's own stdin and stdout is left.
    closed = """
    for port <- Port.list(), {:os_pid, pid} <- [Port.info(port, :os_pid)], is_integer(pid), do: Port.close(port)
    {Leash.cmd("echo", ["on"]), Leash.capabilities().warden}
    """

    assert VM.eval(vm, closed) == {{"on\n", 0}, :ok}
    assert VM.wardens(vm) == [warden]
    assert Enum.all?([vm.workers["w"].os | vm.trees["w"]], &Observer.alive?/1)
  end

  test "that is stopped is continued by the next start", %{dir: dir} do
    vm = vm(dir, workers())
    [{pid, _ticks} = warden] = VM.wardens(vm)
    Observer.signal(warden, "STOP")
    assert_eventually(fn -> Observer.state(pid) == "T" end)
    assert VM.eval(vm, ~s|Leash.cmd("echo", ["on"])|, 10_000) == {"on\n", 0}
    assert VM.wardens(vm) == [warden]
  end

  @tag needs: :freezer
  @tag :slow
  test "that cannot be continued is replaced, and the starts that wait go on", %{dir: dir} do
    vm = vm(dir, workers())
    [warden] = VM.wardens(vm)
    freezer = freeze(warden)

    code =
      ~s{1..20 |> Task.async_stream(fn _ -> Leash.cmd("echo", ["on"]) end, max_concurrency: 20, timeout: 20_000) |> Enum.uniq()}

    assert VM.eval(vm, code, 20_000) == [ok: {"on\n", 0}]
    assert [_next] = VM.wardens(vm) -- [warden]
    thaw(freezer)
    assert_eventually(fn -> not Observer.alive?(warden) end)
    assert Enum.all?([vm.workers["w"].os | vm.trees["w"]], &Observer.alive?/1)
  end

  @tag :slow
  test "whose socket is full takes what waits when it goes on, and nothing is started twice", %{
    dir: dir
  } do
    vm = vm(dir, [])
    [warden] = VM.wardens(vm)
    log = Path.join(dir, "log")
    Observer.signal(warden, "STOP")

    # More requests than the socket holds.
    code = """
    1..600
    |> Task.async_stream(fn n -> Leash.cmd("sh", ["-c", "echo \#{n} >> #{log}"]) end, max_concurrency: 600, timeout: 60_000)
    |> Enum.frequencies()
    """

    assert VM.eval(vm, code, 60_000) == %{{:ok, {"", 0}} => 600}

    numbers =
      log |> File.read!() |> String.split("\n", trim: true) |> Enum.map(&String.to_integer/1)

    assert Enum.sort(numbers) == Enum.to_list(1..600)
  end

  test "goes with the application, and with a VM that leaves nothing", %{dir: dir} do
    vm = vm(dir, workers())
    [warden] = VM.wardens(vm)
    assert VM.ask(vm, "app_stop") == ":ok"
    assert_eventually(fn -> not Observer.alive?(warden) end)
    assert Observer.alive?(vm.identity)
    assert VM.eval(vm, "Leash.Warden.status()") == {:error, :not_running}

    empty = vm(dir, [])
    [warden] = VM.wardens(empty)
    VM.signal(empty, "KILL")
    assert_eventually(fn -> not Observer.alive?(warden) end)
  end

  test "of a dead run is waited for, and continued, by the next start", %{dir: dir} do
    decoy = start_decoy("beside it")
    vm = vm(dir, workers())
    [warden] = VM.wardens(vm)
    Observer.signal(warden, "STOP")
    Observer.kill_together([vm.identity | VM.shims(vm)])
    assert Enum.all?(vm.trees["w"], &Observer.alive?/1), "it is stopped"

    next = vm(dir, [])
    refute Enum.any?([warden | vm.trees["w"]], &Observer.alive?/1)

    assert_eventually(fn ->
      Path.wildcard(Path.join(dir, "*.json")) == [Path.join(dir, next.run_id <> ".json")]
    end)

    assert_unharmed(decoy)
  end

  test "keeps to its own run", %{dir: dir} do
    neighbour = vm(dir, workers())
    vm = vm(dir, workers())
    theirs = [neighbour.workers["w"].os | neighbour.trees["w"] ++ VM.supervision(neighbour)]
    Observer.signal_all([vm.identity | VM.shims(vm)], "KILL")

    assert_eventually(fn -> not Enum.any?(vm.trees["w"] ++ VM.wardens(vm), &Observer.alive?/1) end)

    assert Enum.all?(theirs, &Observer.alive?/1)
  end
end
