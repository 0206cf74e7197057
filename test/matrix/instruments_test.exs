defmodule Leash.FaultMatrix.InstrumentsTest do
  @moduledoc "The instruments of the other tests work: each is shown what it has to notice."

  use Leash.Test.Case, async: true

  @moduletag :slow

  alias Leash.Test.Script

  test "a signalled, stopped or killed decoy is harmed, an untouched one is not" do
    for {signal, word} <- [
          {"TERM", "got signals 15"},
          {"CONT", "got signals 18"},
          {"STOP", "stopped"},
          {"KILL", "dead"}
        ] do
      decoy = start_decoy("decoy")
      assert Decoy.harm(decoy) == nil
      Observer.signal(decoy.identity, signal)
      assert_eventually(fn -> to_string(Decoy.harm(decoy)) =~ ~r{^decoy \(\d+\): #{word}$} end)
    end
  end

  @tag needs: :set_tid
  test "a decoy can be given any free number" do
    {pid, _ticks} = Tag.dead_owner()
    decoy = start_decoy("reused", pid: pid)
    assert {^pid, _start} = decoy.identity
    assert Decoy.harm(decoy) == nil
  end

  test "a decoy's mark and environment are those of the documented layout" do
    decoy =
      start_decoy("marked",
        locks: Tag.locks("s59m65f", 3),
        env: Tag.env("s59m65f", 3, Tag.dead_owner())
      )

    {pid, _ticks} = decoy.identity
    assert Tag.marked_run(pid) == "s59m65f"
    assert File.read!("/proc/#{pid}/environ") =~ "LEASH_RUN=s59m65f.3."
    assert {:ok, %{run: %{run_id: "s59m65f", worker: 3}}} = Leash.OSProcess.info(pid)
  end

  test "a carrier holds what left its session, its parent, its environment and its argv" do
    for shape <- ["daemon", "env_i", "setsid_child", "overwritten"] do
      carrier = new_carrier()
      line = "exec " <> Python.quote_all(Python.argv("shapes.py", [shape]))
      {port, leader, words} = Script.start(line, carrier)
      pids = Enum.map(words, &String.to_integer/1)
      # A parent that forked and exits may still be there.
      held = fn -> Enum.sort(for {pid, _ticks} <- Carrier.members(carrier), do: pid) end
      assert_eventually(fn -> held.() == Enum.sort(pids) end)
      assert elem(leader, 0) in pids
      Port.close(port)
      # A bare port leaves them all.
      assert Observer.eventually(50, fn -> Carrier.members(carrier) == [] end) == nil
      Carrier.clear(carrier)
      assert Enum.filter(pids, &(Observer.state(&1) not in [nil, "Z"])) == []
    end
  end

  test "a carrier holds a process that goes from number to number" do
    for {carrier, pause_ms} <- [{new_carrier(), 1}, {Carrier.pipe(), 20}] do
      line = "exec " <> Python.quote_all(Python.argv("odd.py", ["hops", "10", "#{pause_ms}"]))
      {_port, _leader, _words} = Script.start(line, carrier)
      missing = fn -> Carrier.members(carrier) == [] end
      # On a machine under load one look may take seconds. The process hops for longer than that.
      assert Observer.eventually(1_000, missing) == nil
      assert Observer.eventually(25_000, missing)
      Carrier.clear(carrier)
    end
  end

  test "a zombie is dead, and a process whose main thread has ended is not" do
    carrier = new_carrier()
    zombie = "exec " <> Python.quote_all(Python.argv("odd.py", ["zombie"]))
    {_port, parent, [_parent, pid]} = Script.start(zombie, carrier)
    assert {_pid, _ticks} = dead = Observer.identity(String.to_integer(pid))
    refute Observer.alive?(dead)
    assert Carrier.members(carrier) == [parent]

    carrier = new_carrier()
    threads = "exec " <> Python.quote_all(Python.argv("odd.py", ["leader_thread_exits"]))
    {_port, leader, _words} = Script.start(threads, carrier)
    assert_eventually(fn -> Observer.state(elem(leader, 0)) == "Z" end)
    assert Observer.alive?(leader)
  end

  test "an identity is not met by another start of the same number" do
    {pid, ticks} = Observer.identity(String.to_integer(System.pid()))
    assert Observer.alive?({pid, ticks})
    refute Observer.alive?({pid, ticks - 1})
  end
end
