defmodule Leash.Worker.SignalTest do
  use Leash.Test.Case, async: false

  alias Leash.OptionsError
  alias Leash.Test.Name

  setup do
    nothing_is_listed_after()
    %{decoy: start_decoy("beside the signals")}
  end

  # A child in the program's group and one outside of it. Each of the three tells what it gets.
  @three """
  sh -c 'trap "echo member" USR1; echo up; while :; do sleep 60 & wait $!; done' &
  setsid sh -c 'trap "echo other" USR1; echo up; while :; do sleep 60 & wait $!; done' &
  trap "echo leader" USR1
  echo up
  while :; do sleep 60 & wait $!; done
  """

  defp three do
    carrier = new_carrier()
    options = command({:sh, @three}, carrier) ++ [on_output: self()]
    {:ok, worker} = Worker.start_link(options)
    assert told(worker, 3) == ["up", "up", "up"]
    {worker, carrier}
  end

  # So many lines, sorted.
  defp told(worker, count, text \\ "") do
    case String.split(text, "\n", trim: true) do
      lines when length(lines) >= count ->
        Enum.sort(lines)

      _fewer ->
        assert_receive {:leash_output, ^worker, :stdout, more}, 5_000
        told(worker, count, text <> more)
    end
  end

  test "a signal goes to the program alone, to its group, or to the tree", %{decoy: decoy} do
    {worker, carrier} = three()
    assert Worker.signal(worker, :sigusr1) == :ok
    assert told(worker, 1) == ["leader"]
    assert Worker.signal(worker, 10, to: :group) == :ok
    assert told(worker, 2) == ["leader", "member"]
    assert Worker.signal(worker, :sigusr1, to: :tree) == :ok
    assert told(worker, 3) == ["leader", "member", "other"]
    refute_received {:leash_output, _, :stdout, _}
    assert {:ok, %Exit{}} = Worker.stop(worker)
    assert_gone(carrier)
    assert_unharmed(decoy)
  end

  test "a stopped program stays stopped until it is continued, and a ladder ends it", %{
    decoy: decoy
  } do
    for continue? <- [true, false] do
      tree = start_tree(:plain)
      {pid, _ticks} = tree.os
      assert Worker.signal(tree.worker, :sigstop) == :ok
      assert_eventually(fn -> Observer.state(pid) == "T" end)

      if continue? do
        assert Worker.signal(tree.worker, :sigcont) == :ok
        assert_eventually(fn -> Observer.state(pid) != "T" end)
      end

      assert {:ok, %Exit{}} = Worker.stop(tree.worker)
      assert_gone(tree)
    end

    assert_unharmed(decoy)
  end

  test "a signal that ends the program is an end by itself" do
    tree = start_tree(:plain)
    worker = tree.worker
    assert Worker.signal(worker, :sigkill) == :ok
    assert_receive {:EXIT, ^worker, _reason}, 5_000
    assert_gone(tree)
    assert Worker.signal(worker, :sigusr1) == {:error, :noproc}
    assert Worker.signal(:no_such_worker, :sigusr1, to: :tree) == {:error, :noproc}
  end

  test "a program that has ended gets none, while its children linger", %{decoy: decoy} do
    carrier = new_carrier()
    line = "trap '' TERM; sleep 60 & echo ready; exit 0"

    {:ok, worker} =
      Worker.start_link(command({:sh, line}, carrier) ++ [linger: 60_000, ready: ~r/ready/])

    assert_eventually(fn -> Worker.info(worker).state == :ending end)
    assert Worker.signal(worker, :sigkill) == {:error, :noproc}
    assert [child] = Carrier.members(carrier)
    assert Observer.alive?(child)
    assert Worker.signal(worker, :sigkill, to: :group) == :ok
    assert_receive {:EXIT, ^worker, :normal}, 5_000
    assert_gone(carrier)
    assert_unharmed(decoy)
  end

  test "an attached tree gets signals as well", %{decoy: decoy} do
    other = start_decoy("to be attached")
    {pid, _ticks} = identity = other.identity
    {:ok, worker} = Leash.attach(pid, owner: :application)
    assert Worker.signal(worker, :sigkill, to: :tree) == :ok
    assert_eventually(fn -> not Observer.alive?(identity) end)
    assert_eventually(fn -> Worker.signal(worker, :sigusr1) == {:error, :noproc} end)
    assert_unharmed(decoy)
  end

  test "of an adopted tree only the program gets one", %{decoy: decoy} do
    name = Name.unique("signalled")
    carrier = new_carrier()

    options = [on_exit: :detach, name: {:global, name}, stdout: :null, stderr: :null]
    {:ok, first} = Worker.start_link(command({:sh, "exec sleep 60"}, carrier) ++ options)
    pid = Worker.os_pid(first)
    Process.exit(first, :kill)
    assert_receive {:EXIT, ^first, :killed}, 5_000
    assert_eventually(fn -> match?({:ok, _}, Worker.adopt({:global, name})) end)
    [%{pid: worker}] = for row <- Leash.list(usage: false), row.kind == :adopted, do: row

    assert Worker.signal(worker, :sigterm, to: :tree) == {:error, :adopted}
    assert Worker.signal(worker, :sigstop) == :ok
    assert_eventually(fn -> Observer.state(pid) == "T" end)
    assert Worker.restart(worker) == {:error, :no_options}
    assert {:ok, _exit} = Worker.stop(worker)
    assert_gone(carrier)
    assert_unharmed(decoy)
  end

  test "what is no signal or no scope is refused in a sentence" do
    {:ok, worker} = Worker.start_link(command: "sleep", args: ["60"])

    for {wrong, hint} <- [{:term, "did you mean :sigterm?"}, {0, nil}, {65, nil}, {"x", nil}] do
      error = catch_error(Worker.signal(worker, wrong))
      assert %OptionsError{key: :signal, value: ^wrong, hint: ^hint} = error
    end

    assert %OptionsError{key: :to} = catch_error(Worker.signal(worker, :sigterm, to: :all))
    assert %{state: :running} = Worker.info(worker)
    assert {:ok, _exit} = Worker.stop(worker)
  end

  test "Erlang sends signals, too" do
    {worker, carrier} = three()
    assert :leash.signal(worker, :sigusr1) == :ok
    assert told(worker, 1) == ["leader"]
    assert :leash.signal(worker, :sigusr1, %{to: :tree}) == :ok
    assert told(worker, 3) == ["leader", "member", "other"]
    {:ok, _exit} = :leash.stop(worker)
    assert_gone(carrier)
  end
end
