defmodule Leash.Command.CallerTest do
  # A command has no process of its own: its caller holds it, and may be busy, or end.
  use Leash.Test.Case, async: false

  alias Leash.Registry

  # A stream whose consumer has its first element and takes no other. `release` lets it go on.
  defp busy_consumer(carrier, options) do
    test = self()

    Task.async(fn ->
      line = Carrier.enter(carrier) <> "echo x; setsid sleep 90 & exec sleep 90"

      elements =
        Leash.stream("sh", ["-c", line], options)
        |> Stream.each(fn element ->
          send(test, {:element, element})
          if element == "x\n", do: receive(do: (:release -> :ok))
        end)
        |> Enum.to_list()

      {elements, Process.info(self(), :messages)}
    end)
  end

  test "a stream whose consumer is busy ends with its group" do
    carrier = new_carrier()
    decoy = start_decoy("of no group")
    task = busy_consumer(carrier, group: :busy)
    assert_receive {:element, "x\n"}, 10_000
    pid = task.pid

    assert {:ok, [%{pid: ^pid, result: {:ok, :gone}}]} = Leash.stop_all(:busy, deadline: 5_000)
    assert_gone(carrier)
    assert Process.alive?(pid)
    send(pid, :release)
    assert Task.await(task) == {["x\n", {:exit, {:signal, :sigterm}}], {:messages, []}}
    assert_unharmed(decoy)
  end

  test "a stream whose consumer is busy has its tree when its shim is killed, until it reads on" do
    carrier = new_carrier()
    task = busy_consumer(carrier, [])
    assert_receive {:element, "x\n"}, 10_000
    assert [%{shim_pid: shim, kind: :command}] = Leash.list()
    Observer.signal(Observer.identity(shim), "KILL")
    # The warden ends it by descent, whatever the caller does.
    assert_gone(carrier, 5_000)
    send(task.pid, :release)
    assert Task.await(task) == {["x\n", {:exit, {:signal, :sigkill}}], {:messages, []}}
  end

  test "one process may hold several streams at once, and leaves no message behind" do
    streams = for n <- 1..5, do: Leash.stream!("seq", ["#{n}00"])
    taken = streams |> Enum.zip() |> Enum.take(1)
    assert [{"1\n2" <> _, "1\n2" <> _, "1\n2" <> _, "1\n2" <> _, "1\n2" <> _}] = taken
    assert Process.info(self(), :messages) == {:messages, []}
    assert_eventually(fn -> Leash.list() == [] end)
  end

  @tag :slow
  test "a process that ends between its row and its request to be watched leaves no number taken" do
    {dead, monitor} = spawn_monitor(fn -> :ok end)
    assert_receive {:DOWN, ^monitor, :process, ^dead, _reason}
    description = %{kind: :command, label: "cut off", group: nil, stop: [], claims: []}
    {:ok, number} = Registry.register(dead, description)
    assert Registry.taken?(number)
    # The next look, a second after the next end of anything.
    {"", 0} = Leash.cmd("true", [])
    assert_eventually(fn -> not Registry.taken?(number) end, 10_000)
  end

  test "a closed group gives no number, and the one that was taken for a moment is free again" do
    Registry.close(:test, :closed_here)
    assert Leash.Worker.start_link(command: "true", group: :closed_here) == {:error, :stopping}
    assert_raise Leash.Error, ~r/stop_all/, fn -> Leash.cmd("true", [], group: :closed_here) end
    Registry.open(:test)
    assert {"", 0} = Leash.cmd("true", [], group: :closed_here)
    assert_eventually(fn -> Registry.all() == [] end, 10_000)
  end

  test "the end of the application ends a command, and its caller is told" do
    vm = start_vm([])

    code = """
    task = Task.async(fn -> Leash.cmd("sleep", ["88"]) end)
    wait = fn wait -> if match?([%{os_pid: pid}] when pid != nil, Leash.list()), do: :ok, else: wait.(wait) end
    wait.(wait)
    Process.exit(Process.whereis(Leash.Supervisor), :kill)
    Task.await(task, 10_000)
    """

    assert {"", status} = VM.eval(vm, code)
    assert status in [137, 143]
    assert_eventually(fn -> Observer.with_argument("88") == [] end)
  end
end
