defmodule Leash.Worker.AwaitTest do
  use Leash.Test.Case, async: false

  alias Leash.Test.Name

  setup do
    nothing_is_listed_after()
    %{decoy: start_decoy("beside what is awaited")}
  end

  defp awaiting(worker, timeout \\ :infinity),
    do: Task.async(fn -> Worker.await(worker, timeout) end)

  test "every process that waits learns how the program ended", %{decoy: decoy} do
    tree = start_tree({:sh, "echo ready $$; read line; exit 3"}, stdin: :pipe)
    tasks = for _ <- 1..3, do: awaiting(tree.worker)
    assert Task.yield(hd(tasks), 50) == nil
    assert_alive(tree)
    :ok = Worker.close_stdin(tree.worker)
    exits = Task.await_many(tasks)
    assert Enum.all?(exits, &match?({:ok, %Exit{status: 3, cause: :exited}}, &1))
    assert_gone(tree)
    assert Worker.await(tree.worker) == {:error, :noproc}
    assert_unharmed(decoy)
  end

  test "a wait that takes too long ends nothing, and leaves nothing in worker or caller", %{
    decoy: decoy
  } do
    tree = start_tree(:plain)
    assert for(_ <- 1..50, do: Worker.await(tree.worker, 1)) |> Enum.uniq() == [error: :timeout]
    assert_alive(tree)

    assert_eventually(fn ->
      :sys.get_state(tree.worker).machine.awaiters == %{} and
        late() == []
    end)

    assert {:links, links} = Process.info(self(), :links)
    assert tree.worker in links
    {:ok, _exit} = Worker.stop(tree.worker)
    assert_gone(tree)
    assert_unharmed(decoy)
  end

  # Answers that came after the wait was over.
  defp late do
    {:messages, messages} = Process.info(self(), :messages)
    Enum.reject(messages, &match?({:EXIT, _port, :normal}, &1))
  end

  test "the end of a process that waits ends nothing" do
    tree = start_tree(:plain)
    task = awaiting(tree.worker)
    assert_eventually(fn -> :sys.get_state(tree.worker).machine.awaiters != %{} end)
    Task.shutdown(task, :brutal_kill)
    assert_alive(tree)
    {:ok, _exit} = Worker.stop(tree.worker)
    assert_gone(tree)
  end

  for {title, options, result} <- [
        {"stopped", [], {:ok, :stop}},
        {"killed", [kill: true], {:ok, :kill}}
      ] do
    test "a tree that is #{title} is reported with that cause" do
      tree = start_tree(:plain)
      task = awaiting(tree.worker)
      assert_eventually(fn -> :sys.get_state(tree.worker).machine.awaiters != %{} end)
      assert {:ok, exit} = Worker.stop(tree.worker, unquote(options))
      assert Task.await(task) == {:ok, exit}
      assert {:ok, exit.cause} == unquote(result)
      assert_gone(tree)
    end
  end

  test "a process that is killed cannot say how its tree ended" do
    tree = start_tree(:plain)
    task = awaiting(tree.worker)
    assert_eventually(fn -> :sys.get_state(tree.worker).machine.awaiters != %{} end)
    Process.exit(tree.worker, :kill)
    assert Task.await(task) == {:error, :noproc}
    assert_gone(tree, 5_000)
  end

  test "a shutdown answers those that wait" do
    tree = start_tree(:plain, name: name = :"#{Name.unique("awaited")}")
    task = awaiting(name)
    assert_eventually(fn -> :sys.get_state(name).machine.awaiters != %{} end)
    Process.exit(tree.worker, :shutdown)
    assert {:ok, %Exit{cause: :stop}} = Task.await(task)
    assert_gone(tree)
  end

  test "Erlang waits, too" do
    {:ok, worker} = :leash.start_link(%{shell: "exec sleep 60"})
    assert :leash.await(worker, 1) == {:error, :timeout}
    task = Task.async(fn -> :leash.await(worker) end)
    assert_eventually(fn -> :sys.get_state(worker).machine.awaiters != %{} end)
    {:ok, exit} = :leash.stop(worker)
    assert Task.await(task) == {:ok, exit}
  end
end
