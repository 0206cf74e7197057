defmodule Leash.Faults.OtherUserTest do
  @moduledoc """
  A worker of another user ends on every path on which a worker of the VM's user ends. Other
  processes of that user live.
  """

  use Leash.Test.Case, async: false

  @moduletag needs: :root
  @moduletag timeout: 60_000

  # A child in a session of its own outlives the shim's death signal, and only the tags tell.
  @line "setsid sleep 8140 & sleep 8141 & echo ready; exec sleep 8142"

  setup do
    %{
      decoys: [
        start_decoy("a process of the user", uid: 65_534),
        start_decoy("a process of the user with a copied environment",
          uid: 65_534,
          env: Tag.env("zzother", 1, Tag.dead_owner())
        )
      ]
    }
  end

  # SIGKILL to the VM, to its shims, or to both ends the tree, and no decoy.
  defp assert_ends(vm, killed, decoys) do
    tree = sleeps(vm)
    shims = VM.shims(vm)
    Observer.kill_together(Enum.flat_map(killed, &if(&1 == :vm, do: [vm.identity], else: shims)))
    assert_eventually(fn -> gone?(shims ++ tree) end)
    assert unharmed(decoys) == []
  end

  defp unharmed(decoys) do
    assert Decoys.harmed(decoys) == []
    Decoys.harmed(Decoys.all())
  end

  # A VM with a worker of that user, in a run directory of its own.
  defp vm(options \\ [], boot \\ []) do
    dir = tmp_dir!()
    own = boot[:uid] || 0
    :ok = File.chown(dir, own)
    options = Keyword.merge([user: "nobody", no_new_privs: true, ready: ~r/ready/], options)
    worker = {"one", [command: "sh", args: ["-c", @line]] ++ options}
    vm = start_vm([worker], [run_dir: dir] ++ boot)
    assert_eventually(fn -> length(sleeps(vm)) == 3 end)
    for {pid, _ticks} <- sleeps(vm), do: assert(Enum.uniq(uids(pid)) == ["65534"])
    [shim] = VM.shims(vm)
    assert Enum.uniq(uids(elem(shim, 0))) == ["#{own}"], "the shim stays what it is"
    {vm, dir}
  end

  # As a unit with `User=` and `AmbientCapabilities=` starts a VM.
  defp ambient do
    sets = for set <- ["inh", "ambient"], do: "--#{set}-caps=-all,+setuid,+setgid,+kill"

    [
      uid: 64_319,
      prefix: "setpriv --reuid=64319 --regid=64319 --clear-groups #{Enum.join(sets, " ")}",
      os_env: %{"HOME" => "/tmp"}
    ]
  end

  defp uids(pid) do
    [_line, ids] = Regex.run(~r/^Uid:\s(.*)$/m, File.read!("/proc/#{pid}/status"))
    String.split(ids)
  end

  defp sleeps(vm) do
    for {pid, _ticks} = process <- Carrier.members(vm.carrier),
        match?(["sleep", "814" <> _digit], Observer.argv(pid)),
        do: process
  end

  defp gone?(tree), do: not Enum.any?(tree, &Observer.alive?/1)

  test "it ends when it is stopped", %{decoys: decoys} do
    {vm, _dir} = vm()
    tree = sleeps(vm)

    code = """
    [%{pid: worker}] = Leash.list()
    {:ok, exit} = Leash.Worker.stop(worker)
    exit.signal
    """

    assert VM.eval(vm, code) == :sigterm
    assert gone?(VM.shims(vm) ++ tree)
    assert unharmed(decoys) == []
  end

  test "it ends when stop_all/2 ends its group, and when it must be killed", %{decoys: decoys} do
    {vm, _dir} = vm(group: :others, stop: [])
    tree = sleeps(vm)
    assert {:ok, [_stopped]} = VM.eval(vm, "Leash.stop_all(:others)")
    assert gone?(VM.shims(vm) ++ tree)
    assert unharmed(decoys) == []
  end

  for {what, killed} <- [
        {"the VM is killed", [:vm]},
        {"the shim is killed", [:shim]},
        {"VM and shim are killed", [:vm, :shim]}
      ] do
    test "it ends when #{what}", %{decoys: decoys} do
      {vm, _dir} = vm()
      assert_ends(vm, unquote(killed), decoys)
    end
  end

  test "it ends at the next start when VM, warden and shim are killed", %{decoys: decoys} do
    {vm, dir} = vm()
    tree = sleeps(vm)
    kill_all(vm)
    left = Enum.filter(tree, &Observer.alive?/1)
    assert left != [], "the session of its own is left"

    # Without the record of the run, another user's process is nothing but a claim.
    assert {:ok, report} = Leash.sweep()
    assert Enum.all?(left, &Observer.alive?/1)

    for {pid, _ticks} <- left do
      assert %{action: :kept, verdict: :foreign_user, uid: 65_534} =
               Enum.find(report.matches, &(&1.pid == pid))
    end

    start_vm([], run_dir: dir)
    assert gone?(tree)
    assert unharmed(decoys) == []
  end

  @tag needs: :setpriv
  test "it ends when a VM that is not root, and may change users, stops it", %{decoys: decoys} do
    {vm, _dir} = vm([], ambient())
    assert %{set_user: true} = VM.eval(vm, "Leash.capabilities()")
    tree = sleeps(vm)
    code = "[%{pid: worker}] = Leash.list(); {:ok, exit} = Leash.Worker.stop(worker); exit.signal"
    assert VM.eval(vm, code) == :sigterm
    assert gone?(VM.shims(vm) ++ tree)
    assert unharmed(decoys) == []
  end

  for {what, killed} <- [{"the VM", [:vm]}, {"the VM and its shim", [:vm, :shim]}] do
    @tag needs: :setpriv
    test "it ends when #{what} is killed that is not root, and may change users", %{
      decoys: decoys
    } do
      {vm, _dir} = vm([], ambient())
      assert_ends(vm, unquote(killed), decoys)
    end
  end

  @tag needs: :setpriv
  test "it ends at the next start when all are killed, and the VM is not root", %{decoys: decoys} do
    {vm, dir} = vm([], ambient())
    tree = sleeps(vm)
    kill_all(vm)
    assert Enum.any?(tree, &Observer.alive?/1)
    start_vm([], [run_dir: dir] ++ ambient())
    assert gone?(tree)
    assert unharmed(decoys) == []
  end

  test "it is adopted and stopped by the next VM if it is detached", %{decoys: decoys} do
    dir = tmp_dir!()
    vm = start_vm([], run_dir: dir)

    code = """
    {:ok, worker} =
      Leash.Worker.start_link(command: "sh", args: ["-c", #{inspect(@line)}], user: "nobody",
        name: :other_user, on_exit: :detach, stdout: :null, stderr: :null)
    Process.unlink(worker)
    Leash.Worker.shim_pid(worker)
    """

    shim = vm |> VM.eval(code) |> Observer.identity()
    assert_eventually(fn -> length(sleeps(vm)) == 3 end)
    tree = sleeps(vm)
    Observer.kill_together([vm.identity])
    assert_eventually(fn -> VM.wardens(vm) == [] end)
    assert Enum.all?([shim | tree], &Observer.alive?/1)
    next = start_vm([], run_dir: dir)

    code = """
    {:ok, worker} = Leash.Worker.adopt(:other_user)
    {:ok, _exit} = Leash.Worker.stop(worker)
    :stopped
    """

    assert VM.eval(next, code) == :stopped
    assert gone?([shim | tree])
    assert unharmed(decoys) == []
  end

  test "it ends with its port", %{decoys: decoys} do
    {vm, _dir} = vm()

    code = """
    port = Leash.open_port("sh", ["-c", #{inspect(@line)}], [:binary, user: "daemon", gid: "nogroup"])
    receive do {^port, {:data, "ready" <> _}} -> :persistent_term.put(:port, port) end
    """

    assert VM.eval(vm, code) == :ok
    assert_eventually(fn -> length(sleeps(vm)) == 6 end)
    tree = for {pid, _ticks} = process <- sleeps(vm), hd(uids(pid)) == "1", do: process
    assert length(tree) == 3
    Observer.kill_together([vm.identity])
    assert_eventually(fn -> gone?(tree) end)
    assert unharmed(decoys) == []
  end
end
