defmodule Leash.Faults.StopPathTest do
  @moduledoc "FAULTS 1–11: what stop does to workers that obey, hesitate, stop, or have ended."

  use Leash.Test.Case, async: true

  test "1: a worker that ends on TERM is gone at once, without KILL and with its status" do
    tree = start_tree([:ends_on_term, 0, 3])
    assert_alive(tree)
    monitor = Process.monitor(tree.worker)
    assert {:ok, %Exit{} = exit} = Worker.stop(tree.worker)
    assert_gone(tree)
    assert exit.status == 3
    assert exit.step == :sigterm
    assert Enum.map(exit.steps, & &1.signal) == [:sigterm]
    assert_receive {:DOWN, ^monitor, :process, _, :normal}
    assert Worker.stop(tree.worker) == {:error, :noproc}
  end

  test "2: a worker that ignores TERM is killed after its grace, and the result says so" do
    tree = start_tree(:ignores_term)
    assert {:ok, exit} = Worker.stop(tree.worker)
    assert_gone(tree)
    assert exit.step == :sigkill
    assert exit.signal == :sigkill
    assert exit.duration in 290..2_000
  end

  test "3: a worker that needs nearly all of its grace ends by itself" do
    tree = start_tree([:ends_on_term, 900, 5], stop: [sigterm: 1_500])
    assert {:ok, exit} = Worker.stop(tree.worker)
    assert_gone(tree)
    assert exit.status == 5
    assert exit.step == :sigterm
    assert exit.duration in 850..1_500
  end

  test "4: a stopped worker that is willing to end does, and one that is not is killed" do
    willing = start_tree(:stopped_then_ends)
    unwilling = start_tree(:stopped, stop: [sigterm: 200])
    assert_eventually(fn -> Observer.state(elem(willing.os, 0)) == "T" end)
    assert {:ok, %Exit{status: 7, step: :sigterm}} = Worker.stop(willing.worker)
    assert_gone(willing)
    assert {:ok, %Exit{}} = Worker.stop(unwilling.worker)
    assert_gone(unwilling)
  end

  test "5: a worker that stops itself again after each CONT is killed after its grace" do
    tree = start_tree(:stops_again)
    assert_eventually(fn -> Observer.state(elem(tree.os, 0)) == "T" end)
    assert {:ok, %Exit{signal: :sigkill, step: :sigkill}} = Worker.stop(tree.worker)
    assert_gone(tree)
  end

  test "6: stop after a worker's end returns its real status, although children go on" do
    tree = start_tree([:leaves_child, 9], linger: 20_000)
    assert_eventually(fn -> not Observer.alive?(tree.os) end)
    assert {:ok, exit} = Worker.stop(tree.worker)
    assert exit.status == 9
    assert_gone(tree)
  end

  test "7: any number of callers get the same answer of one ending" do
    tree = start_tree(:ignores_term)
    tasks = for _ <- 1..4, do: Task.async(fn -> Worker.stop(tree.worker) end)
    assert [{:ok, exit}, {:ok, exit}, {:ok, exit}, {:ok, exit}] = Task.await_many(tasks, 8_000)
    assert [:sigterm | _] = Enum.map(exit.steps, & &1.signal)
    assert_gone(tree)
  end

  test "8: a start whose caller dies in the middle leaves nothing" do
    # The time runs from before the fork to after the exec, so that the kill can hit any instant.
    for delay <- 0..14 do
      carrier = new_carrier()
      options = command({:sh, "sleep 60 & echo ready; wait"}, carrier)
      starter = spawn(fn -> Worker.start_link([ready: ~r/ready/] ++ options) end)
      spin(delay * 700)
      Process.exit(starter, :kill)
      assert_gone(carrier, 3_000)
    end

    # The carrier does not hold every process yet. The library's table counts those, and must
    # become empty.
    assert_eventually(fn ->
      not Enum.any?(Leash.list(), &(&1.label == "sh" and &1.tree == :alive))
    end)
  end

  test "9: a failed exec is an error with its errno and leaves nothing" do
    dir = tmp_dir!()
    bad_interpreter = Path.join(dir, "interpreter")
    File.write!(bad_interpreter, "#!/nowhere/at-all\n")
    File.chmod!(bad_interpreter, 0o755)
    no_format = Path.join(dir, "format")
    File.write!(no_format, <<0, 1, 2, 3>>)
    File.chmod!(no_format, 0o755)

    assert %Leash.OptionsError{} =
             catch_error(Worker.start_link(command: Path.join(dir, "missing")))

    assert {:error, {:exec, :enoent}} = Worker.start_link(command: bad_interpreter)
    assert {:error, {:exec, :enoexec}} = Worker.start_link(command: no_format)
    assert Observer.with_argument(bad_interpreter) == []
    assert Observer.with_argument(no_format) == []
  end

  test "9: arguments beyond the system's limit are an error that says so" do
    huge = List.duplicate(String.duplicate("x", 130_000), 20)
    assert {:error, {:exec, :e2big}} = Worker.start_link(command: "true", args: huge)
  end

  test "10: what a worker leaves behind when it exits with 0 ends after the linger time" do
    tree = start_tree([:leaves_child, 0], linger: 1_000)
    monitor = Process.monitor(tree.worker)
    assert_receive {:DOWN, ^monitor, :process, _, reason}, 3_000
    assert reason in [:normal, :noproc]
    assert_gone(tree)
  end

  test "11: without a grace the end is immediate" do
    tree = start_tree(:ignores_term, stop: [])
    assert {:ok, %Exit{signal: :sigkill, duration: ms}} = Worker.stop(tree.worker)
    assert ms < 250
    assert_gone(tree)
  end

  @tag :slow
  test "11: with an infinite grace stop waits, and an application stop is bounded all the same" do
    carrier = new_carrier()
    options = Keyword.merge(command(:ignores_term, carrier), stop: [sigterm: :infinity])
    vm = start_vm([{"endless", options}], env: [stop_timeout: 500])
    VM.command(vm, "stop")
    assert Observer.eventually(700, fn -> Carrier.members(carrier) == [] end) == nil
    assert VM.ask(vm, "app_stop", 8_000) == ":ok"
    assert_gone(carrier)
  end

  # Busy, since no sleep is as short.
  defp spin(microseconds) do
    until = System.monotonic_time(:microsecond) + microseconds
    spin_until(until)
  end

  defp spin_until(until),
    do: if(System.monotonic_time(:microsecond) < until, do: spin_until(until), else: :ok)
end
