defmodule Leash.Situations.PythonPoolTest do
  @moduledoc """
  A pool of Python programs whose VM is killed together with its shims, as by the OOM killer or a
  `docker kill`. The next start finds the orphans and ends them before its own pool starts. The
  pool of a neighbour works on.
  """

  # Serial: the sweeps of its VMs look at every process.
  use Leash.Test.Case, async: false

  @moduletag :slow

  @moduletag timeout: 120_000

  defp pool(labels) do
    [python | args] = Python.argv("pool.py", ["--port", "0"])
    options = [command: python, args: args, run_id_flag: "--run-id", stop: [sigterm: 500]]
    for label <- labels, do: {label, options}
  end

  defp processes(vm), do: vm.trees |> Map.values() |> Enum.concat()

  test "the next start sweeps the orphans of a crashed run, and nothing else" do
    dir = tmp_dir!()
    neighbour = start_vm(pool(["n"]), run_dir: dir)
    crashed = start_vm(pool(["a", "b", "c"]), run_dir: dir)
    decoys = Decoys.of_run(crashed.run_id)
    on_exit(fn -> Enum.each(decoys, &Decoy.stop/1) end)

    assert length(processes(crashed)) == 15 and length(processes(neighbour)) == 5
    for process <- processes(crashed), do: assert(Observer.alive?(process))

    kill_all(crashed)
    orphans = Enum.filter(processes(crashed), &Observer.alive?/1)
    # The programs themselves go with their shims. The processes that they started do not.
    assert length(orphans) == 12

    next = start_vm(pool(["a"]), run_dir: dir)
    assert Enum.filter(orphans, &Observer.alive?/1) == []
    assert_gone(crashed.carrier)

    for vm <- [neighbour, next], process <- processes(vm) ++ VM.shims(vm) do
      assert Observer.alive?(process), "ended: #{Observer.describe(process)}"
    end

    assert Decoys.harmed(decoys) == []
    assert VM.eval(neighbour, "length(Leash.list())") == 1
    assert Observer.with_argument(crashed.run_id) |> length() == 1
  end
end
