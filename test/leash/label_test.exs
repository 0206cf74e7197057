defmodule Leash.LabelTest do
  use Leash.Test.Case, async: true

  defp listed(pid), do: Enum.find(Leash.list(), &(&1.pid == pid))

  test "a worker's label is in the list, in the tree, and in what is said of it" do
    name = :"label_test_#{System.unique_integer([:positive])}"
    label = "Embedder #{System.unique_integer([:positive])}"
    options = [command: "sleep", args: ["60"], name: name, label: label, group: label]
    {:ok, worker} = Worker.start_link(options)
    {:ok, plain} = Worker.start_link(command: "sleep", args: ["60"])
    assert %{label: ^label, name: ^name} = listed(worker)
    assert %{label: "sleep"} = listed(plain)
    assert Leash.tree(name) =~ "worker #{Worker.info(worker).worker} #{label} in "
    assert {:ok, [%{label: ^label}]} = Leash.stop_all(label)
    assert {:ok, _} = Worker.stop(plain)
  end

  test "commands, streams and ports have one as well" do
    label = "Job #{System.unique_integer([:positive])}"
    find = fn -> Enum.find(Leash.list(usage: false), &(&1.label == label)) end
    task = Task.async(fn -> Leash.cmd("sleep", ["60"], label: label, group: label) end)
    assert_eventually(fn -> match?(%{kind: :command, os_pid: pid} when pid != nil, find.()) end)
    Leash.stop_all(label)
    assert {"", 143} = Task.await(task)

    port = Leash.open_port("cat", [], label: String.to_charlist(label))
    assert %{kind: :port} = find.()
    Port.close(port)
    assert_eventually(fn -> find.() == nil end)

    stream = Leash.stream!("sh", ["-c", "echo x; exec sleep 60"], label: label)
    assert [%{kind: :command}] = stream |> Stream.map(fn "x\n" -> find.() end) |> Enum.take(1)
  end

  test "a label that is no text is refused" do
    for label <- ["", :x, "a\0"] do
      assert_raise Leash.OptionsError, ~r/:label/, fn ->
        Worker.start_link(command: "true", label: label)
      end
    end
  end
end
