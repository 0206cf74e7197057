defmodule Leash.Narrow.LimitsTest do
  @moduledoc "Without marks, trees end as ever, and the environment finds what a crash leaves."

  use Leash.Test.Case, async: false

  @moduletag :slow

  alias Leash.Test.Narrow

  @moduletag needs: :seccomp

  for error <- [:enosys, :eperm] do
    test "prlimit64 says #{error}: starts and stops are as ever, and each says that it has no mark" do
      carrier = new_carrier()
      dir = tmp_dir!()
      narrow = Narrow.without(prlimit64: unquote(error))
      vm = start_vm([{"one", command(:setsid_child, carrier)}], run_dir: dir, prefix: narrow)
      assert %{mark: false, pidfd: true, record: :ok} = VM.eval(vm, "Leash.capabilities()")

      code = """
      [%{pid: pid}] = Leash.list()
      mark = Leash.Worker.info(pid).mark
      {:ok, exit} = Leash.Worker.stop(pid)
      {mark, exit.cause, exit.signal}
      """

      assert VM.eval(vm, code) == {{:error, unquote(error)}, :stop, :sigterm}
      assert_gone(carrier)
      assert VM.ask(vm, "app_stop") == ":ok"
      assert File.ls!(dir) == []
    end

    test "prlimit64 says #{error}: what VM and shim left is swept by its environment, and nothing else is" do
      decoys = Decoys.all()
      carrier = new_carrier()
      dir = tmp_dir!()
      narrow = Narrow.without(prlimit64: unquote(error))
      dead = start_vm([{"one", command(:setsid_child, carrier)}], run_dir: dir, prefix: narrow)
      kill_all(dead)
      assert Carrier.members(carrier) != []
      vm = start_vm([], run_dir: dir, prefix: narrow)
      assert_gone(carrier)

      assert File.ls!(dir) |> Enum.filter(&String.ends_with?(&1, ".json")) == [
               "#{vm.run_id}.json"
             ]

      VM.stop(vm)
      assert Decoys.harmed(decoys) == []
    end
  end

  test "a shim that is killed: its tree is found by the environment where there is no mark" do
    carrier = new_carrier()
    narrow = Narrow.without(prlimit64: :enosys)
    vm = start_vm([{"one", command(:setsid_child, carrier)}], prefix: narrow)
    Observer.signal(vm.workers["one"].shim, "KILL")
    assert_gone(carrier, 10_000)
  end

  test "older calls take the place of clone3, close_range and memfd_create" do
    carrier = new_carrier()
    narrow = Narrow.without(clone3: :enosys, close_range: :enosys, memfd_create: :enosys)
    vm = start_vm([{"one", command(:setsid_child, carrier)}], prefix: narrow)
    shim = vm.workers["one"].shim
    leader = vm.workers["one"].os

    # Nothing of the VM is open in them.
    for {pid, _ticks} <- [shim, leader], fd <- File.ls!("/proc/#{pid}/fd") do
      assert {:ok, target} = File.read_link("/proc/#{pid}/fd/#{fd}")
      refute target =~ ~r/\.beam|\.app|eventpoll|timerfd/
    end

    VM.command(vm, "stop")
    assert VM.await_line(vm, "stopped one ") =~ "cause: :stop"
    assert_gone(carrier)
  end

  for {call, error} <- [waitid: {:fork, :enosys}, signalfd4: :no_warden] do
    test "without #{call} nothing is started, and that is said at once" do
      carrier = new_carrier()
      vm = start_vm([], prefix: Narrow.without([{unquote(call), :enosys}]))

      code = """
      Process.flag(:trap_exit, true)
      Leash.Worker.start_link(#{inspect(command(:plain, carrier))})
      """

      {us, said} = :timer.tc(fn -> VM.eval(vm, code) end)
      assert said == {:error, unquote(error)}
      assert us < 5_000_000
      assert_gone(carrier)
      assert VM.eval(vm, "Leash.list()") == []
    end
  end

  describe "few processes" do
    @describetag needs: :setpriv

    test "a start that cannot fork says so, nothing stays, and the next one may succeed" do
      dir = tmp_dir!()
      File.chown!(dir, Narrow.nobody())
      options = [run_dir: dir, prefix: Narrow.as_nobody(), os_env: %{"HOME" => "/tmp"}]
      vm = start_vm([], options)
      [{warden, _ticks}] = VM.wardens(vm)

      # The limit applies to its own user. A limit on another user takes a capability.
      user = ~w(--reuid=#{Narrow.nobody()} --regid=#{Narrow.nobody()} --clear-groups prlimit)

      limit = fn most ->
        {_, 0} = System.cmd("setpriv", user ++ ["--pid=#{warden}", "--nproc=#{most}:"])
      end

      start = """
      Process.flag(:trap_exit, true)
      with {:ok, pid} <- Leash.Worker.start_link(command: "sleep", args: ["64"]), do: Leash.Worker.stop(pid)
      """

      limit.(1)
      assert {:error, {stage, :eagain}} = VM.eval(vm, start)
      assert stage in [:shim, :fork]
      assert_eventually(fn -> VM.eval(vm, "Leash.list()") == [] end)
      limit.(4_000)
      assert {:ok, %Exit{signal: :sigterm}} = VM.eval(vm, start)
    end
  end
end
