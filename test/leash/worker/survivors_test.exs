defmodule Leash.Worker.SurvivorsTest do
  @moduledoc "A program that ends by itself and leaves a frozen process, which nothing can end."

  use Leash.Test.Case, async: false

  @moduletag :slow

  alias Leash.Test.Name

  @moduletag needs: :freezer

  # Prints the number of its child, and ends with 3 when its stdin ends. The child holds nothing
  # of that stdin.
  @leaves "sleep 300 >/dev/null 2>&1 </dev/null & echo ready $$ $!; read line; exit 3"
  @options [linger: 100, stop: [sigterm: 200]]

  # The time that a whole escalation may take on a busy machine: 0.1 + 0.2 + 3 seconds and the
  # hunt's time.
  @bound 20_000

  defp child(tree, os_pid), do: Enum.find(tree, &(elem(&1, 0) != os_pid))

  test "the Worker exits with what is left, in the time of linger, ladder and kill" do
    tree = start_tree({:sh, @leaves}, [stdin: :pipe] ++ @options)
    other = start_tree(:plain)
    worker = tree.worker
    child = child(tree.tree, elem(tree.os, 0))
    freezer = freeze(child)

    :ok = Worker.close_stdin(worker)
    assert_eventually(fn -> not Observer.alive?(tree.os) end)
    assert_eventually(fn -> Worker.info(worker).state == :ending end)

    assert_receive {:EXIT, ^worker, {:survivors, [survivor]}}, @bound
    assert survivor.pid == elem(child, 0)
    assert survivor.why == :uninterruptible
    assert_alive(other)

    thaw(freezer)
    assert_gone(tree, 5_000)
    assert {:ok, %Exit{}} = Worker.stop(other.worker)
  end

  test "its supervisor starts the next" do
    tree_of = fn supervisor ->
      [{_id, worker, :worker, _modules}] = Supervisor.which_children(supervisor)
      worker
    end

    carrier = new_carrier()
    test = self()
    said = fn _stream, text -> send(test, {:said, text}) end
    options = [stdin: :pipe, on_output: said] ++ @options ++ command({:sh, @leaves}, carrier)
    {:ok, supervisor} = Supervisor.start_link([{Worker, options}], strategy: :one_for_one)
    worker = tree_of.(supervisor)

    assert_receive {:said, "ready" <> pids}, 5_000
    [_program, child] = pids |> String.split() |> Enum.map(&String.to_integer/1)
    freezer = freeze(Observer.identity(child))
    :ok = Worker.close_stdin(worker)

    assert_receive {:said, "ready" <> _pids}, @bound
    refute tree_of.(supervisor) == worker
    thaw(freezer)
    Supervisor.stop(supervisor)
    assert_gone(carrier, 5_000)
  end

  test "what is attached is reported as well" do
    carrier = new_carrier()
    {port, os, pids} = Leash.Test.Script.start(@leaves, carrier)
    [_program, child] = Enum.map(pids, &(&1 |> String.to_integer() |> Observer.identity()))
    {:ok, attachment} = Leash.attach(elem(os, 0), @options)
    monitor = Process.monitor(attachment)
    freezer = freeze(child)
    Port.command(port, "go\n")

    assert_receive {:DOWN, ^monitor, :process, _pid, {:survivors, survivors}}, @bound
    assert Enum.map(survivors, & &1.pid) == [elem(child, 0)]
    thaw(freezer)
    assert_gone(carrier, 5_000)
  end

  test "what was adopted is reported as well" do
    dir = tmp_dir!()
    carrier = new_carrier()
    name = String.to_atom(Name.unique("survivors"))
    file = Path.join(dir, "output")

    wait =
      "sleep 300 >/dev/null 2>&1 & echo ready $$ $!; until [ -e #{dir}/go ]; do sleep 0.05; done"

    options =
      [name: name, on_exit: :detach, stdout: {:file, file}, stderr: :null] ++
        @options ++ command({:sh, wait}, carrier)

    {:ok, first} = Worker.start_link(options)
    said = fn -> Regex.run(~r/^ready (\d+) (\d+)$/m, File.read!(file)) end
    assert_eventually(fn -> said.() end)
    child = said.() |> List.last() |> String.to_integer() |> Observer.identity()
    Process.exit(first, :kill)
    assert_receive {:EXIT, ^first, :killed}, 5_000
    assert_eventually(fn -> Process.whereis(name) == nil end)

    {:ok, adopted} = Worker.start_link(options)
    assert %{adopted?: true, state: :running} = Worker.info(adopted)
    freezer = freeze(child)
    File.touch!(Path.join(dir, "go"))

    assert_receive {:EXIT, ^adopted, {:survivors, survivors}}, @bound
    assert Enum.map(survivors, & &1.pid) == [elem(child, 0)]
    thaw(freezer)
    assert_gone(carrier, 5_000)
  end
end
