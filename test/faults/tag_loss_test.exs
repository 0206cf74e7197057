defmodule Leash.Faults.TagLossTest do
  @moduledoc """
  FAULTS 25–32: each carrier lost, alone and together with others, by stop and after the shim's
  death.
  """

  use Leash.Test.Case, async: true

  for {number, shape, what} <- [
        {"25", :env_i, "an env -i child"},
        {"26", :overwritten, "a process that overwrote argv and environ"},
        {"28", :undumpable, "a process that made itself undumpable"},
        {"32", :loses_mark, "a process that lost its mark and kept its environment"}
      ] do
    @shape shape
    test "#{number}: #{what} ends by stop" do
      tree = start_tree(@shape)
      assert_alive(tree)
      assert {:ok, %Exit{}} = Worker.stop(tree.worker)
      assert_gone(tree)
    end

    @tag :slow
    test "#{number}: #{what} ends when the shim is killed" do
      tree = start_tree(@shape)
      assert_alive(tree)
      Observer.signal(tree.shim, "KILL")
      assert_gone(tree, 3_000)
    end
  end

  @tag :slow
  test "32: a process without any carrier still ends by its tree" do
    tree = start_tree(:loses_all)
    [child] = tree.tree -- [tree.os]
    assert Tag.marked_run(elem(child, 0)) == nil
    assert {:ok, %Exit{}} = Worker.stop(tree.worker)
    assert_gone(tree)
  end

  test "27: a process with another run's tag ends with its own tree, and by no sweep before" do
    # The run of the tag is dead, so a sweep that believed the tag alone would end the process.
    tag = Tag.env("zzother", 1, Tag.dead_owner())
    tree = start_tree([:other_tag, tag])
    [child] = tree.tree -- [tree.os]
    assert File.read!("/proc/#{elem(child, 0)}/environ") =~ "zzother"

    {:ok, report} = Leash.sweep()
    assert_alive(tree)
    assert %{action: :kept} = match_of(report, child)

    assert {:ok, %Exit{}} = Worker.stop(tree.worker)
    assert_gone(tree)
  end

  test "27: it ends when its shim is killed as well" do
    tag = Tag.env("zzother", 1, Tag.dead_owner())
    tree = start_tree([:other_tag, tag])
    Observer.signal(tree.shim, "KILL")
    assert_gone(tree, 3_000)
  end

  @tag needs: :root
  test "29: a set-uid program ends by stop and when the shim is killed" do
    program = Path.join(tmp_dir!(), "sleep-as-nobody")
    File.cp!(System.find_executable("sleep"), program)
    :ok = File.chown(program, 65_534)
    File.chmod!(program, 0o4755)
    File.chmod!(Path.dirname(program), 0o755)

    for how <- [:stop, :shim] do
      # As the shim's direct child it loses the parent death signal in the exec.
      tree = start_tree({:sh, "exec #{program} 60"}, ready: nil)
      {pid, _ticks} = tree.os
      assert_eventually(fn -> Observer.argv(pid) == [program, "60"] end)
      assert File.read!("/proc/#{pid}/status") =~ ~r/^Uid:\t0\t65534/m

      if how == :stop,
        do: assert({:ok, %Exit{}} = Worker.stop(tree.worker)),
        else: Observer.signal(tree.shim, "KILL")

      assert_gone(tree, 3_000)
    end
  end

  test "30: without a mark a worker starts, the level is said, and its tree ends" do
    for how <- [:stop, :shim] do
      tree = start_tree(:setsid_child, mark: false)
      assert Worker.info(tree.worker).mark == :off
      assert Tag.marked_run(elem(tree.os, 0)) == nil

      if how == :stop,
        do: assert({:ok, %Exit{}} = Worker.stop(tree.worker)),
        else: Observer.signal(tree.shim, "KILL")

      assert_gone(tree, 3_000)
    end
  end

  @tag needs: :no_cap_sys_resource
  test "30: where the mark cannot be set the start goes on and says so" do
    carrier = new_carrier()
    # A hard limit below any mark, which no process here may raise.
    vm = start_vm([{"one", command(:plain, carrier)}], prefix: "prlimit --locks=1000:1000")

    [info] =
      VM.eval(vm, "for w <- Leash.list(), do: Leash.Worker.info(w.pid) |> Map.take([:mark])")

    assert {:error, posix} = info.mark
    assert posix in [:eperm, :einval]
    VM.command(vm, "stop")
    assert_gone(carrier, 3_000)
  end

  @tag :slow
  test "31: a run nested in a worker marks its workers with its own id" do
    inner = new_carrier()
    fifo = Path.join(tmp_dir!(), "stdin")
    {_output, 0} = System.cmd("mkfifo", [fifo])
    env = VM.variables(Decoys.run_dir(), [{"inner", command(:plain, inner)}])

    tree =
      start_tree({:sh, "exec #{VM.command_line()} <>#{fifo}"},
        env: env,
        stderr: :null,
        ready: ~r/^ready$/m,
        ready_timeout: 20_000,
        stop: [sigterm: 1_000]
      )

    [{pid, _ticks}] = Carrier.members(inner)
    assert {Tag.marked_run(pid), Tag.marked_run(elem(tree.os, 0))} != {nil, nil}
    assert Tag.marked_run(elem(tree.os, 0)) == Leash.run_id()
    assert Tag.marked_run(pid) =~ ~r/^[0-9a-z]{7}$/
    assert Tag.marked_run(pid) != Leash.run_id()
    assert {:ok, %Exit{}} = Worker.stop(tree.worker)
    assert_gone(tree)
    assert_gone(inner, 3_000)
  end
end
