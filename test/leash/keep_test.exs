defmodule Leash.KeepTest do
  # on_exit: :keep - the processes that a program leaves when it exits by itself.
  use Leash.Test.Case, async: false

  # Processes of the test before may still be ending. A port's tree is listed until it is proven
  # gone.
  setup do
    assert_eventually(fn -> Leash.list() == [] end)
    :ok
  end

  # A daemon in a session of its own. The first line of output is its number.
  @daemon "setsid sleep 90 >/dev/null 2>&1 & echo $!; "

  defp words(carrier, text), do: ["sh", ["-c", Carrier.enter(carrier) <> text]]

  defp pid(output), do: output |> String.split() |> hd() |> String.to_integer()

  test "cmd: goes on, and is no worker any more" do
    carrier = new_carrier()
    {output, 4} = apply(Leash, :cmd, words(carrier, @daemon <> "exit 4") ++ [[on_exit: :keep]])
    daemon = Observer.identity(pid(output))
    assert Carrier.members(carrier) == [daemon]
    assert Leash.list() == []
    # Neither the look after an orderly end nor a sweep of this run ends it.
    assert_eventually(fn -> Leash.Registry.all() == [] end)
    {:ok, report} = Leash.sweep()
    assert report.survivors == []
    assert Carrier.members(carrier) == [daemon]
    assert Tag.marked_run(elem(daemon, 0)) == Leash.run_id()
  end

  test "cmd: without it, the same is ended" do
    carrier = new_carrier()
    {_output, 4} = apply(Leash, :cmd, words(carrier, @daemon <> "exit 4"))
    assert_gone(carrier)
  end

  test "cmd: a process that holds stdout is waited for, and goes on after timeout" do
    carrier = new_carrier()
    line = "(sleep 0.3; echo late) & echo early"
    assert {"early\nlate\n", 0} = apply(Leash, :cmd, words(carrier, line) ++ [[on_exit: :keep]])

    line = "sleep 90 & echo $!"
    options = [on_exit: :keep, timeout: 500]
    {output, 0} = apply(Leash, :cmd, words(carrier, line) ++ [options])
    assert Carrier.members(carrier) == [Observer.identity(pid(output))]
  end

  test "stream: goes on" do
    carrier = new_carrier()
    stream = apply(Leash, :stream!, words(carrier, @daemon) ++ [[on_exit: :keep]])
    daemon = stream |> Enum.join() |> pid() |> Observer.identity()
    assert Carrier.members(carrier) == [daemon]
  end

  test "Worker: goes on, and how it ended says so" do
    carrier = new_carrier()
    [program, args] = words(carrier, @daemon)
    test = self()

    {:ok, worker} =
      Worker.start_link(
        command: program,
        args: args,
        on_exit: :keep,
        on_output: fn :stdout, text -> send(test, {:said, text}) end,
        exit_reason: fn exit -> {:ended, exit} end
      )

    assert_receive {:EXIT, ^worker, {:ended, %Exit{status: 0, cause: :kept, steps: []}}}, 5_000
    assert_receive {:said, output}
    assert Carrier.members(carrier) == [Observer.identity(pid(output))]
  end

  test "with nothing left it is an exit like any other" do
    assert {"x\n", 0} = Leash.cmd("echo", ["x"], on_exit: :keep)
  end

  test "a program that did not end by itself takes all others along" do
    for {options, expected} <- [
          {[timeout: 300], :timeout},
          {[max_output: 3], :max_output}
        ] do
      carrier = new_carrier()
      call = words(carrier, @daemon <> "sleep 90") ++ [[on_exit: :keep] ++ options]
      assert {_output, ^expected} = apply(Leash, :cmd, call)
      assert_gone(carrier)
    end

    carrier = new_carrier()
    stream = apply(Leash, :stream!, words(carrier, @daemon <> "sleep 90") ++ [[on_exit: :keep]])
    assert [_pid] = Enum.take(stream, 1)
    assert_gone(carrier)

    carrier = new_carrier()
    [program, args] = words(carrier, @daemon <> "echo ready; exec sleep 90")

    {:ok, worker} =
      Worker.start_link(
        command: program,
        args: args,
        on_exit: :keep,
        ready: ~r/ready/,
        on_output: self()
      )

    assert {:ok, %Exit{cause: :stop}} = Worker.stop(worker)
    assert_gone(carrier)
  end

  test "no later run ends it when its own is killed, but ends the unkept" do
    run_dir = tmp_dir!()
    [kept, other] = [new_carrier(), new_carrier()]
    vm = start_vm([], run_dir: run_dir)

    code = fn carrier, options ->
      [program, args] = words(carrier, @daemon)
      "Leash.cmd(#{inspect(program)}, #{inspect(args)}, #{inspect(options)})"
    end

    assert {_output, 0} = VM.eval(vm, code.(kept, on_exit: :keep))
    daemon = Carrier.members(kept)
    assert [_one] = daemon

    # Nothing of a command is kept yet if it is killed with its VM and its shim.
    [program, args] = words(other, @daemon <> "sleep 90")

    VM.eval(
      vm,
      "spawn(fn -> Leash.cmd(#{inspect(program)}, #{inspect(args)}, on_exit: :keep) end) && :ok"
    )

    assert_eventually(fn -> length(Carrier.members(other)) == 3 end)
    [%{shim_pid: shim}] = VM.eval(vm, "Leash.list()")
    Observer.kill_together([vm.identity, Observer.identity(shim) | VM.wardens(vm)])
    assert Carrier.members(other) != []

    next = start_vm([], run_dir: run_dir)
    assert_gone(other, 5_000)
    assert Carrier.members(kept) == daemon
    {:ok, report} = VM.eval(next, "Leash.sweep(mode: :report)")
    assert %{verdict: :outlives} = match_of(report, hd(daemon))
  end

  test "without a mark it is refused" do
    error =
      assert_raise Leash.OptionsError, fn ->
        Leash.cmd("true", [], on_exit: :keep, mark: false)
      end

    assert error.key == :mark

    assert %{key: :mark} =
             catch_error(Worker.start_link(command: "true", on_exit: :keep, mark: false))

    assert %{key: :on_exit} = catch_error(Worker.start_link(command: "true", on_exit: :maybe))
  end
end
