defmodule Leash.RunTest do
  # Serial: each test boots VMs of its own and looks at their records.
  use Leash.Test.Case, async: false

  @moduletag timeout: 60_000

  setup do: {:ok, dir: tmp_dir!()}

  defp start(dir, workers \\ []), do: start_vm(workers, run_dir: dir)

  defp record(vm, dir), do: Path.join(dir, vm.run_id <> ".json")

  # Tests flock(2) as other processes see it.
  defp locked?(path), do: match?({_, 1}, System.cmd("flock", ["-s", "-n", path, "true"]))

  test "what the machine gives is said while the application is stopped as well", %{dir: dir} do
    vm = start(dir)
    assert %{record: :ok, control: :ok, pidfd: pidfd} = VM.eval(vm, "Leash.capabilities()")
    assert VM.ask(vm, "app_stop") == ":ok"

    assert %{record: {:error, :not_running}, control: {:error, :not_running}, pidfd: ^pidfd} =
             VM.eval(vm, "Leash.capabilities()")
  end

  test "four VMs that boot at once have four ids, and a record each, locked", %{dir: dir} do
    vms = for _ <- 1..4, do: VM.boot(dir, [])
    vms = Enum.map(vms, &VM.await/1)
    on_exit(fn -> Enum.each(vms, &VM.stop/1) end)

    ids = Enum.map(vms, & &1.run_id)
    assert ids |> Enum.uniq() |> length() == 4
    assert Enum.all?(ids, &Leash.RunId.valid?/1)
    files = for id <- ids, ending <- [".json", ".sock"], do: id <> ending
    assert Enum.sort(File.ls!(dir)) == Enum.sort(files)
    for vm <- vms, do: assert(locked?(record(vm, dir)))
  end

  test "the run stays locked whatever process of the application is killed", %{dir: dir} do
    vm = start(dir, [{"w", [command: "sh", args: ["-c", "echo ready; exec sleep 60"]]}])
    worker = vm.workers["w"].os

    for name <- ["Leash.Reaper", "Leash.RecordKeeper", "Leash.Control", "Leash.Reaper"] do
      killed? =
        VM.eval(vm, """
        old = Process.whereis(#{name})
        Process.exit(old, :kill)
        wait = fn wait -> if Process.whereis(#{name}) in [nil, old], do: wait.(wait), else: true end
        wait.(wait)
        """)

      assert killed?
      assert locked?(record(vm, dir))
      assert Observer.alive?(worker)
    end

    # The new Reaper knows its workers: a worker that is killed now does not leave its tree.
    VM.command(vm, "worker_killed")
    assert Observer.eventually(5_000, fn -> not Observer.alive?(worker) end)
  end

  @tag :slow
  test "a record that is removed or replaced comes back, locked", %{dir: dir} do
    vm = start(dir)
    path = record(vm, dir)
    original = File.read!(path)

    # It takes a second. A busy machine gets more time.
    back? = fn ->
      Observer.eventually(10_000, fn -> File.read(path) == {:ok, original} and locked?(path) end)
    end

    File.rm!(path)
    assert back?.()

    File.write!(path, String.duplicate("x", byte_size(original)))
    assert back?.()

    File.cp!(path, path <> ".copy")
    refute locked?(path <> ".copy")
    File.rename!(path <> ".copy", path)
    assert back?.()
  end

  test "stopping the application ends the run: a new one begins, the record goes", %{dir: dir} do
    vm = start(dir, [{"w", [command: "sh", args: ["-c", "echo ready; exec sleep 60"]]}])
    worker = vm.workers["w"].os
    assert Observer.alive?(worker)

    assert VM.eval(vm, "Application.stop(:leash)") == :ok
    refute Observer.alive?(worker)
    assert File.ls!(dir) == []

    assert {:error, :not_running} = VM.eval(vm, "Leash.sweep()")
    assert {:ok, [:leash]} = VM.eval(vm, "Application.ensure_all_started(:leash)")
    id = VM.eval(vm, "Leash.run_id()")
    assert id != vm.run_id
    assert Enum.sort(File.ls!(dir)) == [id <> ".json", id <> ".sock"]
  end

  test "a run directory that is not ours alone is refused as the record's place, and said so", %{
    dir: dir
  } do
    File.mkdir_p!(dir)
    File.chmod!(dir, 0o777)
    vm = VM.boot(dir, [{"w", [command: "sh", args: ["-c", "echo ready; exec sleep 60"]]}])
    on_exit(fn -> VM.stop(vm) end)
    assert VM.await_line(vm, "") =~ ~r/^$/
    assert VM.line(vm) =~ "Leash runs without a record, because #{dir} cannot be used"
    vm = VM.await(vm)

    assert {:error, reason} = VM.eval(vm, "Leash.capabilities().record")
    assert VM.eval(vm, "Leash.capabilities().control") == {:error, reason}
    assert File.ls!(dir) == []
    assert Observer.alive?(vm.workers["w"].os)

    VM.signal(vm, "KILL")
    assert Observer.eventually(5_000, fn -> not Observer.alive?(vm.workers["w"].os) end)
  end

  test "record: :required does not start without one", %{dir: dir} do
    dir = Path.join(dir, "run")
    File.write!(dir, "a file, not a directory")
    vm = VM.boot(dir, [], env: [record: :required])
    assert_raise RuntimeError, ~r/the VM exited with 1.*record/s, fn -> VM.await(vm) end
    VM.stop(vm)
  end

  test "a wrong configuration is an error that names key, expectation and value", %{dir: dir} do
    vm = VM.boot(dir, [], env: [stop_timeout: :never])
    assert_raise RuntimeError, ~r/stop_timeout.*milliseconds/s, fn -> VM.await(vm) end
    VM.stop(vm)
  end
end
