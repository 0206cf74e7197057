defmodule Leash.Faults.WrongProcessTest do
  @moduledoc """
  FAULTS 48–62: each process that only looks like one of ours lives and gets no signal.
  """

  use Leash.Test.Case, async: false

  alias Leash.Test.Script

  @moduletag timeout: 60_000

  describe "a worker's number" do
    test "48, 50: no other process has it while anything of its tree lives" do
      tree = start_tree(:stdin_leaves_child, stdin: :pipe, linger: 30_000, stop: [])
      assert :ok = Worker.close_stdin(tree.worker)
      {pid, _ticks} = tree.os
      assert_eventually(fn -> not Observer.alive?(tree.os) end)
      # A zombie holds the number, so that no other process or group can have it.
      assert Observer.state(pid) == "Z"
      assert {:ok, %Exit{status: 0}} = Worker.stop(tree.worker)
      assert_gone(tree)
    end

    @tag needs: :set_tid
    test "48, 50: in other hands after the end is not signalled by a second stop" do
      tree = start_tree(:setsid_child)
      assert {:ok, %Exit{}} = Worker.stop(tree.worker)
      # It has a session and a group of its own, so its group also has the worker's former number.
      decoys = for {pid, _ticks} <- [tree.os, tree.shim], do: start_decoy("the next", pid: pid)
      assert {:error, :noproc} = Worker.stop(tree.worker)
      assert {:ok, _report} = Leash.sweep()
      Enum.each(decoys, &assert_unharmed/1)
    end

    @tag needs: :set_tid
    @tag :slow
    test "48, 50: in other hands before the VM hears of the shim's death is not signalled" do
      for how <- ["CONT", "KILL"] do
        {vm, carrier} = vm_with("reused", [:setsid_child, :ignores_term])
        shims = VM.shims(vm)
        leaders = for {_label, %{os: os}} <- vm.workers, do: os
        VM.signal(vm, "STOP")
        Observer.signal_all(shims, "KILL")
        numbers = for {pid, _ticks} <- shims ++ leaders, do: pid
        # Their new parent has reaped them: init, or the fork server once the VM goes on.
        VM.signal(vm, how)
        free = Enum.filter(numbers, &freed?/1)
        decoys = for pid <- free, do: start_decoy("the next", pid: pid)
        assert {:ok, _report} = Leash.sweep()
        assert_gone(carrier, 3_000)
        assert decoys != []
        Enum.each(decoys, &assert_unharmed/1)
      end
    end

    @tag needs: :set_tid
    test "49: with the same start tick is another process's to a handle" do
      first = Decoy.start("the first bearer")
      {:ok, handle} = Leash.OSProcess.identify(elem(first.identity, 0))
      Decoy.stop(first)
      assert freed?(handle.pid)
      second = start_decoy("the second bearer", pid: handle.pid)
      # The other process gets the same start tick. Then only the inode of the pidfd differs.
      twin =
        if handle.pidfs_inode, do: %{handle | start_ticks: elem(second.identity, 1)}, else: handle

      assert {:error, :reused} = Leash.OSProcess.signal(twin, :sigterm)
      assert {:error, :reused} = Leash.OSProcess.kill(twin)
      refute Leash.OSProcess.alive?(twin)
      assert_unharmed(second)
    end

    defp freed?(pid),
      do: Observer.eventually(3_000, fn -> not File.exists?("/proc/#{pid}") end) != nil
  end

  describe "51, 52: what merely mentions a dead run" do
    test "in its argv or in another variable is kept, also when the run's record is here" do
      {run_id, _vm} = dead_run()
      tag = Tag.env(run_id, 1, Tag.dead_owner())

      decoys = [
        start_decoy("a grep", argv: ["grep", "--", "--run-id=#{run_id}"]),
        start_decoy("an editor", argv: ["vi", "/tmp/leash-0/#{run_id}.json"]),
        start_decoy("a log tailer", argv: ["tail", "-f", "#{run_id}.log", "--run-id", run_id]),
        start_decoy("the flag and the id as two words", argv: ["--run-id", run_id, "--worker=1"]),
        start_decoy("a variable that contains it", env: "LEASH_RUNS=" <> tag),
        start_decoy("a value that contains it", env: "NOTE=was " <> tag),
        start_decoy("an id of which it is a prefix",
          env: String.replace(tag, run_id, run_id <> "9")
        ),
        start_decoy("the id in capitals", env: String.replace(tag, run_id, String.upcase(run_id)))
      ]

      assert {:ok, report} = Leash.sweep()
      Enum.each(decoys, &assert_unharmed/1)

      for decoy <- decoys,
          match = match_of(report, decoy.identity),
          do: assert(match.action == :kept)
    end
  end

  test "51: an id in an argv convicts only the very command that the record names" do
    # A foreign process with the worker's own argv, by the same flag.
    {vm, carrier} = vm_with("run_id_flag", [:setsid_child], run_id_flag: "--run-id")

    decoy = start_decoy("the same flag", argv: ["--run-id", vm.run_id])
    kill_all(vm)
    assert length(Carrier.members(carrier)) == 1
    assert {:ok, %{survivors: []}} = Leash.sweep()
    assert_gone(carrier)
    assert_unharmed(decoy)
  end

  test "53: what is no run id is refused, and a sweep with such a tag ends nothing" do
    bad = [
      "",
      "0",
      "-1",
      "ABCDEFG",
      "abcdef",
      "abcdefgh",
      String.duplicate("a", 300),
      "abc\0def",
      "abcdef\n"
    ]

    for id <- bad do
      refute Leash.RunId.valid?(id)
      assert {:error, :invalid_run_id} = Leash.kill_run(id)
    end

    decoys =
      for id <- ["0", "-1", "ABCDEFG", "abcdefgh"] do
        start_decoy("a tag with #{id}", env: Tag.env(id, 1, Tag.dead_owner()))
      end

    assert {:ok, _report} = Leash.sweep()
    Enum.each(decoys, &assert_unharmed/1)
    assert {:error, :own} = Leash.kill_run(Leash.run_id())
  end

  describe "54: a forged tag" do
    @tag needs: :root
    test "of another user harms no process without a record here" do
      id = "zzforge"

      decoys = [
        start_decoy("another user's", uid: 65_534, env: Tag.env(id, 1, Tag.dead_owner())),
        start_decoy("another user's, marked",
          uid: 65_534,
          env: Tag.env(id, 1, Tag.dead_owner()),
          locks: Tag.locks(id, 1)
        )
      ]

      assert {:ok, report} = Leash.sweep()
      Enum.each(decoys, &assert_unharmed/1)

      assert %{verdict: :foreign_user, action: :kept} =
               match_of(report, List.last(decoys).identity)
    end

    test "with a mark of a live run and a number of ours ends, and no worker with it" do
      tree = start_tree(:setsid_child)

      # A process that marks itself as a worker of a live run invites its own end. No other
      # process ends.
      other = start_decoy("unmarked", env: Tag.env(Leash.run_id(), 32_766, own()))
      assert {:ok, _report} = Leash.sweep()
      assert_unharmed(other)
      assert_alive(tree)
    end

    test "with a living owner is kept by every sweep" do
      decoy =
        start_decoy("a living owner",
          env: Tag.env("zzlives", 1, own()),
          locks: Tag.locks("zzlives", 1)
        )

      assert {:ok, report} = Leash.sweep()
      assert_unharmed(decoy)
      assert %{verdict: :live, action: :kept} = match_of(report, decoy.identity)
    end

    test "with a mark and nothing that says which process owned it is kept" do
      decoy = start_decoy("only a mark", locks: Tag.locks("zzalone", 1))
      assert {:ok, report} = Leash.sweep()
      assert_unharmed(decoy)
      assert %{verdict: :unknown_owner, action: :kept} = match_of(report, decoy.identity)
      assert {:error, :unknown_owner} = Leash.kill_run("zzalone")
    end
  end

  describe "55: another live instance" do
    @tag :slow
    test "of the same application keeps all, also without its record or its directory" do
      decoys = Decoys.all()
      Decoys.lose_records()
      dir = tmp_dir!()
      {vm, carrier} = vm_with("gone", [:env_i, :setsid_child], [], run_dir: dir)
      File.rm_rf!(dir)
      before = Carrier.members(carrier)

      assert {:ok, _report} = Leash.sweep()
      # A VM that starts now keeps it, too, in either directory.
      start_vm([])
      start_vm([], run_dir: dir)

      assert Decoys.harmed(decoys) == []
      assert Carrier.members(carrier) == before
      assert Observer.alive?(vm.identity)
    end

    @tag needs: :another_user
    @tag :slow
    test "of another user keeps everything, alive and dead" do
      dir = tmp_dir!()
      :ok = File.chown(dir, 65_534)
      carrier = new_carrier()

      options = [
        command: "sh",
        args: ["-c", "setsid sleep 60 & echo ready; wait"],
        stop: [sigterm: 300]
      ]

      vm =
        start_vm([{"one", options}],
          run_dir: dir,
          carrier: carrier,
          prefix: "setpriv --reuid=65534 --regid=65534 --clear-groups",
          os_env: %{"HOME" => "/tmp"}
        )

      before = Carrier.members(carrier)
      assert {:ok, report} = Leash.sweep()
      assert Carrier.members(carrier) == before
      # Their tags for their own run do not count, because they belong to another user.
      theirs = for match <- report.matches, match.run_id == vm.run_id, do: match
      assert [_shim, _worker | _rest] = theirs
      assert Enum.all?(theirs, &match?(%{verdict: :foreign_user, action: :kept}, &1))

      # Only that user may sweep the orphan of the dead run: its record is not in our run
      # directory.
      kill_all(vm)

      [orphan] =
        Enum.filter(
          Carrier.members(carrier),
          &match?(["sleep", "60"], Observer.argv(elem(&1, 0)))
        )

      assert {:ok, report} = Leash.sweep()
      assert Observer.alive?(orphan)
      assert %{verdict: :foreign_user, action: :kept} = match_of(report, orphan)

      start_vm([],
        run_dir: dir,
        prefix: "setpriv --reuid=65534 --regid=65534 --clear-groups",
        os_env: %{"HOME" => "/tmp"}
      )

      refute Observer.alive?(orphan)
    end

    @tag needs: :pid_namespace
    test "in the host's namespace is none of a container's business" do
      decoys = Decoys.all()
      inside = start_vm([], prefix: "unshare --pid --fork --kill-child --mount-proc")
      assert {:ok, _report} = VM.eval(inside, "Leash.sweep()")
      assert Decoys.harmed(decoys) == []
    end
  end

  test "56: a VM whose record is written and not locked yet is kept while it lives" do
    decoy =
      start_decoy("a starting VM's worker",
        env: Tag.env("zzstart", 1, own()),
        locks: Tag.locks("zzstart", 1)
      )

    write_record("zzstart", own())
    on_exit(fn -> File.rm(Path.join(Decoys.run_dir(), "zzstart.json")) end)
    assert {:ok, report} = Leash.sweep()
    assert_unharmed(decoy)
    assert %{verdict: :live} = run_of(report, "zzstart")
    assert File.exists?(Path.join(Decoys.run_dir(), "zzstart.json"))
  end

  @tag :slow
  test "57: a VM that is a worker of a dead run keeps its siblings" do
    sibling = new_carrier()
    fifo = Path.join(tmp_dir!(), "stdin")
    {_output, 0} = System.cmd("mkfifo", [fifo])
    vm_carrier = new_carrier()
    inner = new_carrier()
    env = VM.variables(Decoys.run_dir(), [{"inner", command(:plain, inner)}])
    # Its output has no reader once the outer VM is dead.
    background = "#{VM.command_line()} <>#{fifo} >/dev/null & echo ready; wait"

    options = [
      command: "sh",
      args: ["-c", Carrier.enter(vm_carrier) <> background],
      env: env,
      stderr: :null
    ]

    # Siblings in the same run. The inner VM is not the shim's direct child.
    outer = start_vm([{"outer", options}, {"sibling", command(:env_i, sibling)}])
    assert_eventually(fn -> length(Carrier.members(inner)) == 1 end, 15_000)
    [beam] = Enum.filter(Carrier.members(vm_carrier), &beam?/1)
    kill_all(outer)
    assert_eventually(fn -> length(Carrier.members(sibling)) == 1 end)

    # The inner VM starts its application again, and sweeps.
    {:ok, fd} = File.open(fifo, [:write, :raw])
    code = "Application.stop(:leash); Application.start(:leash); Leash.sweep()"
    :ok = :file.write(fd, "eval #{Base.encode64(code)}\n")
    assert_gone(inner, 5_000)
    assert Observer.eventually(1_500, fn -> Carrier.members(sibling) == [] end) == nil
    assert Observer.alive?(beam)

    # For every other VM the sibling is an orphan. The inner VM, which owns a live run, is none.
    assert {:ok, report} = Leash.sweep()
    assert_gone(sibling)
    assert Observer.alive?(beam)
    assert %{verdict: :live_run_owner, action: :kept} = match_of(report, beam)
    :file.close(fd)
  end

  defp beam?({pid, _ticks}), do: pid |> Observer.argv() |> hd() |> Path.basename() == "beam.smp"

  describe "58, 59: a record of another boot or host" do
    test "whose pid is an innocent process's now ends nothing, and is dropped" do
      decoy = start_decoy("sshd")
      {pid, ticks} = decoy.identity

      path =
        write_record("zzreboo", {pid, ticks}, boot_id: "00000000-0000-0000-0000-000000000000")

      assert {:ok, _report} = Leash.sweep()
      assert_unharmed(decoy)
      refute File.exists?(path)
    end

    test "is no witness against processes of this boot" do
      decoy = start_decoy("marked by an image's run", locks: Tag.locks("zzimage", 1))
      write_record("zzimage", {4_711, 1}, boot_id: "00000000-0000-0000-0000-000000000000")
      on_exit(fn -> File.rm(Path.join(Decoys.run_dir(), "zzimage.json")) end)
      assert {:ok, _report} = Leash.sweep()
      assert_unharmed(decoy)
    end
  end

  describe "60: a record that is" do
    for {what, make} <- [
          {"empty", quote(do: &File.write!(&1, ""))},
          {"truncated",
           quote(do: &File.write!(&1, ~s({"format":1,"run_id":"zzbroke","owner":{"pid":)))},
          {"not JSON", quote(do: &File.write!(&1, :crypto.strong_rand_bytes(4_096)))},
          {"of a later format", quote(do: &File.write!(&1, ~s({"format":99}\n)))},
          {"a directory", quote(do: &File.mkdir!/1)},
          {"a symbolic link", quote(do: &File.ln_s!("/etc/passwd", &1))},
          {"a pipe", quote(do: &System.cmd("mkfifo", [&1]))}
        ] do
      test "#{what} ends nothing on its word, and no sweep fails on it" do
        path = Path.join(Decoys.run_dir(), "zzbroke.json")
        unquote(make).(path)
        on_exit(fn -> File.rm_rf!(path) end)
        decoy = start_decoy("a mark of that run", locks: Tag.locks("zzbroke", 1))
        assert {:ok, report} = Leash.sweep()
        assert_unharmed(decoy)
        assert %{action: :kept} = match_of(report, decoy.identity)
      end
    end

    test "that every user may write ends nothing on its word" do
      path = write_record("zzbroke", Tag.dead_owner())
      File.chmod!(path, 0o666)
      on_exit(fn -> File.rm(path) end)
      decoy = start_decoy("a mark of that run", locks: Tag.locks("zzbroke", 1))
      assert {:ok, _report} = Leash.sweep()
      assert_unharmed(decoy)
    end
  end

  test "61: a child that a shim had before it became one is not its to end" do
    carrier = new_carrier()

    line =
      "sleep 60 >/dev/null & echo ready $!; " <>
        "exec #{Script.shim()} --run-id=zzbyhnd --linger=50 -- sh -c 'setsid sleep 50 >/dev/null & exit 4'"

    {port, _shim, [before]} = Script.start(line, carrier)
    before = Observer.identity(String.to_integer(before))
    assert Script.await_exit(port, 5_000) == 4
    assert Observer.alive?(before)
    assert Carrier.members(carrier) == [before]
  end

  @tag needs: :time_namespace
  test "62: in a time namespace a VM's processes are known from outside, and from inside" do
    carrier = new_carrier()
    prefix = "unshare --time --boottime 100000 --fork --kill-child"
    vm = start_vm([{"one", command(:setsid_child, carrier)}], prefix: prefix)
    {:ok, report} = Leash.sweep()
    assert %{verdict: :live} = run_of(report, vm.run_id)
    assert length(Carrier.members(carrier)) == 2

    assert {:ok, _report} = VM.eval(vm, "Leash.sweep()")
    assert length(Carrier.members(carrier)) == 2
    VM.command(vm, "stop")
    assert_gone(carrier, 3_000)
  end

  ## Helpers

  defp own, do: System.pid() |> String.to_integer() |> Observer.identity()

  # Makes a run whose VM and shims were killed; returns its id and its VM.
  defp dead_run do
    {vm, carrier} = vm_with("dead", [:setsid_child])
    kill_all(vm)
    assert length(Carrier.members(carrier)) == 1
    {vm.run_id, vm}
  end

  defp vm_with(label, shapes, worker_options \\ [], options \\ []) do
    carrier = new_carrier()

    workers =
      for shape <- shapes, do: {"#{label}_#{shape}", command(shape, carrier) ++ worker_options}

    {start_vm(workers, options), carrier}
  end

  defp write_record(run_id, {pid, ticks}, options \\ []) do
    %{inode: pid_ns} = File.stat!("/proc/self/ns/pid")
    boot = String.trim(File.read!("/proc/sys/kernel/random/boot_id"))

    line =
      ~s({"format":1,"run_id":"#{run_id}","owner":{"pid":#{pid},"start_ticks":#{ticks},) <>
        ~s("boot_id":"#{options[:boot_id] || boot}","pid_ns":#{pid_ns}},"node":"a@b","app":"app",) <>
        ~s("started_at":"2026-01-01T00:00:00Z","version":"0.1.0"}\n)

    path = Path.join(Decoys.run_dir(), "#{run_id}.json")
    File.write!(path, line)
    File.chmod!(path, 0o600)
    path
  end
end
