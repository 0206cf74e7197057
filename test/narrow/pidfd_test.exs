defmodule Leash.Narrow.PidfdTest do
  @moduledoc """
  A kernel before 5.3, or a filter of system calls. No process can be held by a descriptor, so
  only its own shim signals a process.
  """

  use Leash.Test.Case, async: false

  @moduletag :slow

  alias Leash.Test.Narrow

  @moduletag needs: :seccomp
  # The slow path takes 11 s. A machine under load needs some time for the rest.
  @soon 6_000

  # A missing call and a forbidden one have the same effect, so each title tests one half of the
  # ends.
  for {title, calls, ends} <- [
        {"pidfd_open is not there", [pidfd_open: :enosys], ["owner_raises", "app_stop"]},
        {"pidfd_open is forbidden", [pidfd_open: :eperm], ["worker_killed", "owner_exits"]},
        {"pidfd_send_signal is not there", [pidfd_send_signal: :enosys], ["worker_killed"]},
        {"pidfd_send_signal is forbidden", [pidfd_send_signal: :eperm],
         ["owner_raises", "owner_killed"]}
      ] do
    describe "where #{title}" do
      @describetag calls: calls, ends: ends

      test "a stop ends the tree, waits for that, and is an ordinary one", %{calls: calls} do
        carrier = new_carrier()
        vm = start_vm([{"one", command(:setsid_child, carrier)}], prefix: Narrow.without(calls))
        assert %{pidfd: false, proc: true} = VM.eval(vm, "Leash.capabilities()")

        code = """
        [%{pid: pid}] = Leash.list()
        monitor = Process.monitor(pid)
        {:ok, exit} = Leash.Worker.stop(pid)
        reason = receive do {:DOWN, ^monitor, :process, _, reason} -> reason end
        {exit.cause, exit.signal, exit.status, reason}
        """

        began = System.monotonic_time(:millisecond)
        assert VM.eval(vm, code) == {:stop, :sigterm, nil, :normal}
        assert_gone(carrier)
        assert System.monotonic_time(:millisecond) - began < @soon
      end

      test "a tree that ignores SIGTERM is gone when stop says so", %{calls: calls} do
        carrier = new_carrier()
        vm = start_vm([{"one", command(:ignores_term, carrier)}], prefix: Narrow.without(calls))
        VM.command(vm, "stop")
        assert VM.await_line(vm, "stopped one ") =~ "{:ok, %Leash.Exit{"
        assert_gone(carrier)
      end

      test "every other end works, too", %{calls: calls, ends: ends} do
        for fault <- ends do
          carrier = new_carrier()
          vm = start_vm([{"one", command(:setsid_child, carrier)}], prefix: Narrow.without(calls))
          VM.command(vm, fault)
          assert_gone(carrier, 30_000)
          VM.stop(vm)
        end
      end

      test "a command has its output and its status", %{calls: calls} do
        vm = start_vm([], prefix: Narrow.without(calls))
        code = ~s|Leash.cmd("sh", ["-c", "setsid sleep 61 >&2 & echo out; exit 3"])|
        assert VM.eval(vm, code) == {"out\n", 3}
        assert_eventually(fn -> VM.eval(vm, "Leash.list()") == [] end, 20_000)
        assert Enum.filter(Carrier.members(vm.carrier), &sleeper?/1) == []
      end

      test "the start says so, and what cannot work there is refused", %{calls: calls} do
        vm = start_vm([], prefix: Narrow.without(calls))
        assert Narrow.logged(vm, Narrow.restart()) =~ "cannot hold processes here"

        code = """
        Process.flag(:trap_exit, true)
        port = Port.open({:spawn, "sleep 62"}, [])
        {:os_pid, pid} = Port.info(port, :os_pid)
        detach = [command: "sleep", args: ["63"], name: :narrow, on_exit: :detach, stdout: :null, stderr: :null]
        {Leash.Worker.start_link(detach), Leash.attach(pid), Leash.OSProcess.kill(pid), Process.alive?(self())}
        """

        assert {{:error, :no_pidfd}, {:error, _}, {:error, _}, true} = VM.eval(vm, code)
        # The process belongs to its port, and to nothing else.
        sleepers = fn -> Enum.filter(Carrier.members(vm.carrier), &sleeper?/1) end
        assert_eventually(fn -> match?([_sleep], sleepers.()) end)
      end
    end
  end

  test "what a crash of VM and shim left is named and kept, and ended where it can be" do
    decoys = Decoys.all()
    dir = tmp_dir!()
    narrow = Narrow.without(pidfd_open: :enosys)
    carrier = new_carrier()

    dead = start_vm([{"one", command(:setsid_child, carrier)}], run_dir: dir, prefix: narrow)

    kill_all(dead)
    assert Carrier.members(carrier) != []

    # The sweep at its start did not wait for processes that it cannot end.
    vm = start_vm([], run_dir: dir, prefix: narrow)
    {:ok, report} = VM.eval(vm, "Leash.sweep()")
    assert %{verdict: :dead} = run_of(report, dead.run_id)
    assert [%{why: :no_pidfd} | _] = report.survivors
    assert report.elapsed_ms < 5_000
    assert Carrier.members(carrier) != []
    assert "#{dead.run_id}.json" in File.ls!(dir)
    VM.stop(vm)

    able = start_vm([], run_dir: dir)
    assert_gone(carrier, 5_000)
    refute "#{dead.run_id}.json" in File.ls!(dir)
    VM.stop(able)
    assert Decoys.harmed(decoys) == []
  end

  test "a record of a dead run of which nothing is left goes, and that of one that lives stays" do
    dir = tmp_dir!()
    narrow = Narrow.without(pidfd_open: :eperm)
    dead = start_vm([], run_dir: dir, prefix: narrow)
    kill_all(dead)
    living = start_vm([], run_dir: dir, prefix: narrow)
    # The VM sweeps at its start.
    vm = start_vm([], run_dir: dir, prefix: narrow)
    {:ok, report} = VM.eval(vm, "Leash.sweep()")
    assert %{verdict: :live} = run_of(report, living.run_id)
    records = for name <- File.ls!(dir), Path.extname(name) == ".json", do: Path.rootname(name)
    assert Enum.sort(records) == Enum.sort([living.run_id, vm.run_id])
  end

  test "a sweep waits for the shim of a dead run that is in its ladder" do
    dir = tmp_dir!()
    narrow = Narrow.without(pidfd_open: :enosys)
    carrier = new_carrier()
    options = Keyword.put(command(:ignores_term, carrier), :stop, sigterm: 2_000)
    dead = start_vm([{"one", options}], run_dir: dir, prefix: narrow)
    Observer.signal(dead.identity, "KILL")
    vm = start_vm([], run_dir: dir, prefix: narrow)
    assert_gone(carrier)
    refute "#{dead.run_id}.json" in File.ls!(dir)
    VM.stop(vm)
  end

  defp sleeper?({pid, _ticks}),
    do: match?(["sleep", seconds] when seconds in ["61", "62", "63"], Observer.argv(pid))
end
