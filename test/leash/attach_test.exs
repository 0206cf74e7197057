defmodule Leash.AttachTest do
  use Leash.Test.Case, async: false

  alias Leash.OSProcess
  alias Leash.Test.Script

  @moduletag timeout: 60_000

  # A program that another process started. On a line of input it does what its name says.
  defp target(what, carrier \\ new_carrier()) do
    {port, os, _words} = Script.start("echo ready; read go; " <> body(what), carrier)
    %{port: port, os: os, pid: elem(os, 0), carrier: carrier}
  end

  defp body({:sh, line}), do: line

  defp body(shape),
    do: "exec " <> Python.quote_all(Python.argv("shapes.py", [to_string(shape)]))

  defp go(%{port: port} = target) do
    Port.command(port, "go\n")

    receive do
      {^port, {:data, {:eol, "ready" <> words}}} ->
        for pid <- String.split(words), do: pid |> String.to_integer() |> Observer.identity()
    after
      10_000 -> flunk("#{inspect(target)} did not go")
    end
  end

  defp attach!(target, options \\ []) do
    {:ok, attachment} = Leash.attach(target.pid, [stop: [sigterm: 300]] ++ options)
    info = Worker.info(attachment)
    assert info.os_pid == target.pid
    on_exit(fn -> assert_eventually(fn -> not listed?(attachment) end) end)

    %{
      worker: attachment,
      info: info,
      shim: Observer.identity(info.shim_pid),
      monitor: Process.monitor(attachment)
    }
  end

  # Other tests expect to be alone.
  defp listed?(attachment), do: Enum.any?(Leash.list(), &(&1.pid == attachment))

  defp reason(%{monitor: monitor}) do
    assert_receive {:DOWN, ^monitor, :process, _pid, reason}, 5_000
    reason
  end

  defp assert_ended(target, attachment, ms \\ 3_000) do
    assert_gone(target.carrier, ms)
    assert_eventually(fn -> not Observer.alive?(attachment.shim) end)
  end

  describe "the tree ends" do
    test "on stop, whatever its shape; a sibling that had left before is named and lives" do
      for shape <- [:setsid_child, :daemon, :env_i, :ignores_term, :forks, :stopped, :overwritten] do
        target = target(shape)
        decoy = start_decoy("beside #{shape}")
        attachment = attach!(target)
        assert attachment.info.not_covered == []
        tree = go(target)
        assert Enum.all?(tree, &Observer.alive?/1)
        assert {:ok, %Exit{status: nil, signal: nil} = exit} = Worker.stop(attachment.worker)
        assert exit.os_pid == target.pid
        assert_ended(target, attachment, 0)
        assert reason(attachment) == :normal
        assert_unharmed(decoy)
      end
    end

    test "that was there before: all below is covered, a process that left is named" do
      # The orphan is in the target's session, and no longer in the tree.
      carrier = new_carrier()

      body =
        "sleep 92 & (setsid sleep 93 &) ; sh -c 'sleep 94 & echo orphan $!'; setsid sh -c 'sleep 95; sleep 96' & " <>
          "while [ $(ps --no-headers --ppid $$ | wc -l) -lt 2 ]; do :; done; echo ready; wait"

      {port, os, _words} = Script.start(body, carrier)
      target = %{port: port, os: os, pid: elem(os, 0), carrier: carrier}

      # The tree has its final shape, and those two have left it.
      assert_eventually(fn ->
        members = sleeps(carrier)

        left =
          for seconds <- ~w(93 94), {pid, _ticks} <- [members[seconds]], do: Observer.parent(pid)

        map_size(members) == 4 and length(left) == 2 and left -- pids(carrier) == left
      end)

      members = sleeps(carrier)
      attachment = attach!(target)
      {orphan, _ticks} = members["94"]

      assert [%{pid: ^orphan, command: "sleep 94", why: :escaped}] = attachment.info.not_covered

      assert {:ok, %Exit{}} = Worker.stop(attachment.worker)
      left = Carrier.members(carrier)
      # The other daemon has a session of its own and may belong to any tree.
      assert Enum.sort(left) == Enum.sort([members["93"], members["94"]])
      assert Enum.all?(left, fn {pid, _ticks} -> Tag.marked_run(pid) == nil end)
    end

    defp sleeps(carrier) do
      for {pid, _ticks} = it <- Carrier.members(carrier),
          ["sleep", seconds] <- [Observer.argv(pid)],
          into: %{},
          do: {seconds, it}
    end

    defp pids(carrier), do: for({pid, _ticks} <- Carrier.members(carrier), do: pid)

    @tag :slow
    test "in order when its owner ends, and at once when it crashes with on_crash: :kill" do
      for {how, on_crash, cause} <- [
            {:normal, :kill, 300},
            {:shutdown, :kill, 300},
            {:kill, :ladder, 300},
            {:crash, :ladder, 300},
            {:kill, :kill, 0},
            {:crash, :kill, 0}
          ] do
        target = target(:ignores_term)
        owner = spawn(fn -> receive(do: (:go -> :ok)) end)
        attachment = attach!(target, owner: owner, on_crash: on_crash)
        tree = go(target)
        assert Enum.all?(tree, &Observer.alive?/1)
        began = System.monotonic_time(:millisecond)
        if how == :normal, do: send(owner, :go), else: Process.exit(owner, how)
        assert_ended(target, attachment)
        took = System.monotonic_time(:millisecond) - began
        assert took >= cause
        if cause == 0, do: assert(took < 300)
        assert reason(attachment) == :normal
      end
    end

    test "when the calling process exits, whose it is by default" do
      target = target(:setsid_child)
      test = self()

      caller =
        spawn(fn ->
          send(test, {:attached, Leash.attach(target.pid)})
          receive(do: (:go -> :ok))
        end)

      assert_receive {:attached, {:ok, attachment}}, 5_000
      on_exit(fn -> assert_eventually(fn -> not listed?(attachment) end) end)
      go(target)
      shim = Observer.identity(Worker.shim_pid(attachment))
      send(caller, :go)
      assert_ended(target, %{shim: shim})
    end

    test "when an owner outside of the VM ends" do
      for how <- [:handle, :number] do
        client = target(:plain)
        target = target(:daemon)
        {:ok, handle} = OSProcess.identify(client.pid)
        owner = if how == :handle, do: handle, else: client.pid
        attachment = attach!(target, owner: {:os_pid, owner})
        go(target)
        assert Carrier.members(target.carrier) != []
        Observer.signal(client.os, "KILL")
        assert_ended(target, attachment)
        assert reason(attachment) == :normal
      end
    end

    test "when what stands for it is killed" do
      target = target(:ignores_term)
      attachment = attach!(target, stop: [sigterm: 20_000])
      go(target)
      Process.exit(attachment.worker, :kill)
      assert_ended(target, attachment)
      assert reason(attachment) == :killed
      assert_eventually(fn -> Leash.list() == [] end)
    end

    test "with its group" do
      targets = for _ <- 1..3, do: target(:daemon)
      attachments = Enum.map(targets, &attach!(&1, group: {:attached, 1}))
      other = target(:plain)
      kept = attach!(other, group: {:attached, 2})
      Enum.each(targets, &go/1)
      assert {:ok, stopped} = Leash.stop_all({:attached, 1})

      assert Enum.sort(for row <- stopped, do: row.os_pid) ==
               Enum.sort(for t <- targets, do: t.pid)

      for {target, attachment} <- Enum.zip(targets, attachments),
          do: assert_ended(target, attachment, 0)

      assert Observer.alive?(other.os) and Observer.alive?(kept.shim)
      assert {:ok, _exit} = Worker.stop(kept.worker)
    end

    test "by the linger and the ladder of what it leaves, when it ends by itself" do
      target = target({:sh, "setsid sleep 91 & sh -c 'setsid sleep 92 & echo ready'; read go"})
      attachment = attach!(target, linger: 300)
      go(target)
      assert_eventually(fn -> length(Carrier.members(target.carrier)) == 3 end)
      Port.command(target.port, "go\n")
      assert_eventually(fn -> not Observer.alive?(target.os) end)
      assert length(Carrier.members(target.carrier)) == 2
      assert_ended(target, attachment)
      assert reason(attachment) == :normal
    end

    test "when the shim is killed" do
      for shape <- [:daemon, :forks, :stopped] do
        target = target(shape)
        attachment = attach!(target)
        go(target)
        Observer.signal(attachment.shim, "KILL")
        assert_ended(target, attachment)
        assert reason(attachment) == :shim_died
      end
    end

    test "also when the Reaper was restarted meanwhile" do
      target = target(:daemon)
      attachment = attach!(target, owner: :application)
      go(target)
      reaper = Process.whereis(Leash.Reaper)
      Process.exit(reaper, :kill)
      assert_eventually(fn -> Process.whereis(Leash.Reaper) not in [nil, reaper] end)
      assert listed?(attachment.worker)
      assert {:ok, _exit} = Worker.stop(attachment.worker)
      assert_ended(target, attachment, 0)
    end
  end

  describe "another VM" do
    # The other VM attaches a process that is older than itself, since this test started it.
    defp guest_with(target) do
      vm = start_vm([])

      code =
        "{:ok, it} = Leash.attach(#{target.pid}, owner: :application, stop: [sigterm: 300]); Leash.Worker.shim_pid(it)"

      shim = Observer.identity(VM.eval(vm, code))
      {vm, %{shim: shim}}
    end

    test "that is killed takes it along, and so does the stop of its application" do
      for act <- [:kill, :app_stop] do
        target = target(:daemon)
        decoy = start_decoy("beside")
        {vm, attachment} = guest_with(target)
        go(target)
        if act == :kill, do: VM.signal(vm, "KILL"), else: assert(VM.ask(vm, "app_stop") == ":ok")
        assert_ended(target, attachment)
        assert_unharmed(decoy)
      end
    end

    test "ends it when the shim is killed" do
      target = target(:daemon)
      decoy = start_decoy("beside")
      {_vm, attachment} = guest_with(target)
      go(target)
      Observer.signal(attachment.shim, "KILL")
      assert_ended(target, attachment)
      assert_unharmed(decoy)
    end

    test "that is killed with the shim leaves it to the next start's sweep" do
      target = target(:daemon)
      decoy = start_decoy("beside")
      {vm, attachment} = guest_with(target)
      tree = go(target)
      Observer.kill_together([vm.identity, attachment.shim | VM.wardens(vm)])
      assert Enum.all?(tree, &Observer.alive?/1), "nobody was there to end it"
      assert {:ok, %{survivors: []} = report} = Leash.sweep(stop: [sigterm: 300])
      assert_gone(target.carrier)
      assert match_of(report, target.os).action == :ended
      assert_unharmed(decoy)
    end

    test "whose record was lost leaves it alive, and the sweep says so" do
      target = target(:daemon)
      {vm, attachment} = guest_with(target)
      go(target)
      Observer.kill_together([vm.identity, attachment.shim | VM.wardens(vm)])
      File.rm!(Path.join(Decoys.run_dir(), vm.run_id <> ".json"))
      assert {:ok, report} = Leash.sweep(stop: [sigterm: 300])
      assert %{action: :kept, verdict: :unknown_owner} = match_of(report, target.os)
      assert Observer.alive?(target.os)
    end
  end

  describe "nothing happens" do
    test "when target or option are wrong" do
      target = target(:plain)

      for wrong <- [0, 1, -5, 0x80000000, "7", nil, :application, {:os_pid, target.pid}],
          do: assert(%Leash.OptionsError{key: :target} = catch_error(Leash.attach(wrong)))

      for {key, value} <- [
            owner: 5,
            owner: {:os_pid, 1},
            owner: :me,
            group: :all,
            name: "name",
            stop: :now,
            linger: -1
          ],
          do:
            assert(
              %Leash.OptionsError{key: ^key, value: ^value} =
                catch_error(Leash.attach(target.pid, [{key, value}]))
            )

      for option <- [mark: false, stdin: :pipe],
          do:
            assert(
              %Leash.OptionsError{key: nil} = catch_error(Leash.attach(target.pid, [option]))
            )

      assert_untouched(target)
    end

    test "to a target whose owner has ended before" do
      target = target(:plain)
      {dead, monitor} = spawn_monitor(fn -> :ok end)
      assert_receive {:DOWN, ^monitor, :process, ^dead, _reason}
      gone = target(:plain)
      {:ok, handle} = OSProcess.identify(gone.pid)
      Observer.signal(gone.os, "KILL")
      assert_eventually(fn -> not Observer.alive?(gone.os) end)
      assert Leash.attach(target.pid, owner: dead) == {:error, :noproc}
      assert Leash.attach(target.pid, owner: {:os_pid, handle}) == {:error, :noproc}
      assert_untouched(target)
      refute Enum.any?(Leash.list(), &(&1.pid in [dead, self()])), "nor is there anything to list"
    end

    test "to a target that no process may end" do
      own = String.to_integer(System.pid())
      assert Leash.attach(own) == {:error, {:refused, :vm}}

      case Observer.parent(own) do
        1 -> assert catch_error(Leash.attach(1)).key == :target
        parent -> assert Leash.attach(parent) == {:error, {:refused, :ancestor}}
      end

      # The VM's own fork server, whose children are the shims.
      target = target(:plain)
      server = Observer.parent(target.pid)
      assert Observer.parent(server) == own
      assert Leash.attach(server) == {:error, {:refused, :ancestor}}
      assert Tag.marked_run(server) == nil and Tag.marked_run(own) == nil
    end

    test "to a target that has its supervisor already" do
      tree = start_tree(:plain)
      {worker, _ticks} = tree.os
      {shim, _ticks} = tree.shim
      port = Leash.open_port("sleep", ["90"], [])
      target = target(:plain)
      attachment = attach!(target)

      for marked <- [worker, shim, port, target.pid],
          do: assert(Leash.attach(marked) == {:error, {:refused, :marked}})

      assert_alive(tree)
      assert Observer.alive?(target.os) and Observer.alive?(attachment.shim)
      Port.close(port)
      assert {:ok, _exit} = Worker.stop(attachment.worker)
      assert {:ok, _exit} = Worker.stop(tree.worker)
    end

    test "to a target that has ended" do
      target = target(:plain)
      {:ok, handle} = OSProcess.identify(target.pid)
      Observer.signal(target.os, "KILL")
      port = target.port
      assert_receive {^port, {:exit_status, _status}}, 5_000
      for gone <- [target.pid, handle, port], do: assert(Leash.attach(gone) == {:error, :esrch})
    end

    @tag needs: :set_tid
    test "to a process that has the number next" do
      target = target(:plain)
      {:ok, handle} = OSProcess.identify(target.pid)
      Observer.signal(target.os, "KILL")
      assert_eventually(fn -> not File.exists?("/proc/#{target.pid}") end)
      next = start_decoy("the next", pid: target.pid)
      assert Leash.attach(handle) == {:error, :reused}
      assert Tag.marked_run(target.pid) == nil
      assert_unharmed(next)
    end

    @tag needs: :set_tid
    test "to a process that gets the number between the look and the shim's" do
      target = target(:plain)
      {:ok, handle} = OSProcess.identify(target.pid)

      {:ok, option} =
        Leash.Native.attach_option(handle.pid, handle.start_ticks, handle.pidfs_inode)

      Observer.signal(target.os, "KILL")
      assert_eventually(fn -> not File.exists?("/proc/#{target.pid}") end)
      next = start_decoy("the next", pid: target.pid)

      {output, 125} =
        System.cmd(
          Script.shim(),
          ["--run-id=#{Leash.RunId.generate()}", "--worker=1", "--attach=" <> option],
          stderr_to_stdout: true
        )

      assert output =~ "no such process"
      assert Tag.marked_run(target.pid) == nil
      assert_unharmed(next)
    end

    @tag needs: :root
    test "to another user's where it may not be marked, and to no other's" do
      decoy = start_decoy("another user's", uid: 65_534)
      {pid, _ticks} = decoy.identity

      case Leash.attach(pid, stop: []) do
        {:error, :eperm} -> assert_unharmed(decoy)
        {:ok, attachment} -> assert {:ok, _exit} = Worker.stop(attachment)
      end
    end

    defp assert_untouched(target) do
      assert Observer.alive?(target.os)
      assert Tag.marked_run(target.pid) == nil
      assert Leash.list() |> Enum.filter(&(&1.tree == :alive)) |> Enum.all?(&(&1.shim_pid == nil))
      :ok
    end
  end

  test "it is listed, described and named like a Worker" do
    target = target(:plain)
    {:ok, attachment} = Leash.attach(target.port, name: :an_attachment, group: "g")
    assert Process.whereis(:an_attachment) == attachment

    assert {:error, {:already_started, ^attachment}} =
             Leash.attach(target(:plain).pid, name: :an_attachment)

    assert [row] = for(row <- Leash.list(), row.pid == attachment, do: row)
    assert %{group: "g", label: ":an_attachment", tree: :alive} = row
    assert row.os_pid == target.pid
    info = Worker.info(:an_attachment)
    assert %{command: "/bin/sh", args: ["-c" | _], state: :running, mark: :set} = info
    assert Tag.marked_run(target.pid) == Leash.run_id()
    assert Worker.write(attachment, "x") == {:error, :not_piped}
    assert {:ok, _exit} = Worker.stop(attachment, kill: true)
    assert_gone(target.carrier)
    # The owner keeps the port unchanged.
    port = target.port
    assert_receive {^port, {:exit_status, 137}}, 5_000
  end
end
