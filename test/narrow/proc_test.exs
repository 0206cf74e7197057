defmodule Leash.Narrow.ProcTest do
  @moduledoc """
  A /proc that shows less, or none: losses are reported, nothing is guessed, and every end works.
  """

  use Leash.Test.Case, async: false

  @moduletag :slow

  alias Leash.Test.Narrow

  # Runs as an ordinary user, which cannot enter the control group itself. The VM is in one
  # already.
  @command [
    command: "sh",
    args: ["-c", "setsid sleep 65 & echo ready; wait"],
    stop: [sigterm: 300]
  ]

  for level <- [1, 2, 4] do
    describe "with hidepid=#{level} as an ordinary user" do
      @describetag needs: if(level == 4, do: :hidepid_4, else: :hidepid), level: level

      test "an orderly stop takes its record away", %{level: level} do
        {vm, dir} = start_hidden(level, [{"one", @command}])
        assert %{hidepid: true, record: :ok} = VM.eval(vm, "Leash.capabilities()")
        VM.command(vm, "stop")
        assert VM.await_line(vm, "stopped one ") =~ "cause: :stop"
        assert sleepers(vm.carrier) == []
        assert VM.ask(vm, "app_stop") == ":ok"
        assert File.ls!(dir) == []
      end

      test "what VM and shim left is swept, nothing else, and the record goes", %{level: level} do
        decoys = Decoys.all()
        {dead, dir} = start_hidden(level, [{"one", @command}])
        kill_all(dead)
        assert sleepers(dead.carrier) != []
        {vm, ^dir} = start_hidden(level, [], dir)
        assert sleepers(dead.carrier) == []
        assert records(dir) == [vm.run_id]
        {:ok, report} = VM.eval(vm, "Leash.sweep()")
        assert {report.complete, report.incomplete_because} == {false, [:hidepid]}
        VM.stop(vm)
        assert Decoys.harmed(decoys) == []
      end
    end
  end

  describe "with hidepid=2, what is hidden although it is ours" do
    @describetag needs: :perl

    test "is swept like the rest of its dead run, and then the record goes" do
      {dead, dir, hidden} = start_with_hidden([])
      decoys = Decoys.all()
      kill_all(dead)
      assert Observer.alive?(hidden)
      {vm, ^dir} = start_hidden(2, [], dir)
      refute Observer.alive?(hidden)
      assert records(dir) == [vm.run_id]
      assert Decoys.harmed(decoys) == []
    end

    test "ends when its shim is killed, and by its descent is known to be gone" do
      {vm, _dir, hidden} = start_with_hidden([])
      assert VM.eval(vm, kill_shim(vm)) == :shim_died
      refute Observer.alive?(hidden)
    end

    test "is proven gone where no descendant can become another user" do
      {vm, _dir, hidden} = start_with_hidden(["--no-new-privs"])
      decoys = Decoys.all()
      assert {:shim_died, _exit} = VM.eval(vm, kill_shim(vm)) |> died()
      refute Observer.alive?(hidden)
      assert Decoys.harmed(decoys) == []
    end
  end

  defp died(%Leash.Exit{cause: cause} = exit), do: {cause, exit}
  defp died({:shutdown, reason}), do: died(reason)
  defp died(other), do: {other, nil}

  defp start_with_hidden(rights) do
    # After prctl(PR_SET_DUMPABLE, 0), its files in /proc belong to root.
    number =
      if to_string(:erlang.system_info(:system_architecture)) =~ "aarch64", do: 167, else: 157

    hide = "setsid perl -e 'syscall(#{number}, 4, 0, 0, 0, 0) == 0 or die; sleep 66' hidden"
    options = Keyword.put(@command, :args, ["-c", "#{hide} & echo ready; wait"])
    {vm, dir} = start_hidden(2, [{"one", options}], nil, rights)

    hidden? = fn {pid, _ticks} ->
      "hidden" in Observer.argv(pid) and File.stat!("/proc/#{pid}/environ").uid == 0
    end

    hidden = fn -> Enum.filter(Carrier.members(vm.carrier), hidden?) end
    assert_eventually(fn -> match?([_one], hidden.()) end)
    [hidden] = hidden.()
    {vm, dir, hidden}
  end

  defp kill_shim(vm) do
    """
    [%{pid: pid}] = Leash.list()
    monitor = Process.monitor(pid)
    {_, 0} = System.cmd("kill", ["-KILL", "#{elem(vm.workers["one"].shim, 0)}"])
    receive do {:DOWN, ^monitor, :process, _, reason} -> reason after 20_000 -> :none end
    """
  end

  describe "with subset=pid" do
    @describetag needs: :subset_pid

    test "there is no record, no run is judged, others' records stay, and stops are as ever" do
      decoys = Decoys.all()
      dir = tmp_dir!()
      left = new_carrier()
      dead = start_vm([{"one", command(:setsid_child, left)}], run_dir: dir)
      kill_all(dead)
      carrier = new_carrier()

      vm =
        start_vm([{"one", command(:setsid_child, carrier)}],
          run_dir: dir,
          prefix: Narrow.mounted(["mount -t proc -o subset=pid proc /proc"])
        )

      capabilities = VM.eval(vm, "Leash.capabilities()")

      assert %{proc: true, pidfd: true, identity: false, record: {:error, :no_proc}} =
               capabilities

      {:ok, report} = VM.eval(vm, "Leash.sweep()")
      assert {report.complete, report.incomplete_because} == {false, [:no_identity]}
      assert %{verdict: :unknown_owner} = run_of(report, dead.run_id)
      assert Enum.map(report.matches, & &1.action) |> Enum.uniq() == [:kept]
      assert Carrier.members(left) != []
      assert records(dir) == [dead.run_id]

      VM.command(vm, "stop")
      assert VM.await_line(vm, "stopped one ") =~ "cause: :stop"
      assert_gone(carrier)
      assert Narrow.logged(vm, Narrow.restart()) =~ "without a record"
      VM.stop(vm)

      start_vm([], run_dir: dir)
      assert_gone(left)
      assert Decoys.harmed(decoys) == []
    end
  end

  for {title, line} <- [
        {"without /proc", "umount -l /proc"},
        {"with an empty directory for /proc", "mount -t tmpfs none /proc"}
      ] do
    describe title do
      @describetag needs: :mounts, taken: line

      test "a stop is through when the tree is gone", %{taken: line} do
        decoys = Decoys.all()
        carrier = new_carrier()

        vm = start_vm([{"one", command(:setsid_child, carrier)}], prefix: Narrow.mounted([line]))

        assert %{proc: false, record: {:error, _}} = VM.eval(vm, "Leash.capabilities()")
        {:ok, report} = VM.eval(vm, "Leash.sweep()")
        assert {report.complete, report.incomplete_because} == {false, [:no_proc]}
        VM.command(vm, "stop")
        assert VM.await_line(vm, "stopped one ") =~ "{:ok, %Leash.Exit{"
        assert_gone(carrier)
        assert Narrow.logged(vm, Narrow.restart()) =~ "there is no /proc of this pid namespace"
        VM.stop(vm)
        assert Decoys.harmed(decoys) == []
      end

      test "every other end works, too", %{taken: line} do
        for fault <- ["owner_raises", "worker_killed", "app_stop"] do
          carrier = new_carrier()

          vm =
            start_vm([{"one", command(:setsid_child, carrier)}], prefix: Narrow.mounted([line]))

          VM.command(vm, fault)
          assert_gone(carrier, 15_000)
          VM.stop(vm)
        end
      end

      test "a killed shim's rest is ended by descent, and known to be gone", %{taken: line} do
        decoys = Decoys.all()
        carrier = new_carrier()

        vm = start_vm([{"one", command(:setsid_child, carrier)}], prefix: Narrow.mounted([line]))

        assert VM.eval(vm, kill_shim(vm)) == :shim_died
        assert Carrier.members(carrier) == []
        assert Decoys.harmed(decoys) == []
      end
    end
  end

  defp start_hidden(level, workers, dir \\ nil, rights \\ []) do
    dir = dir || tmp_dir!()
    File.chown!(dir, Narrow.nobody())
    mounted = Narrow.mounted(["mount -t proc -o hidepid=#{level} proc /proc"])
    prefix = Enum.join([mounted, Narrow.as_nobody() | rights], " ")
    {start_vm(workers, run_dir: dir, prefix: prefix, os_env: %{"HOME" => "/tmp"}), dir}
  end

  defp sleepers(carrier) do
    Enum.filter(Carrier.members(carrier), fn {pid, _ticks} ->
      match?(["sleep", "65"], Observer.argv(pid))
    end)
  end

  defp records(dir),
    do: for(name <- File.ls!(dir), Path.extname(name) == ".json", do: Path.rootname(name))
end
