defmodule Leash.Situations.QaRunnerTest do
  @moduledoc """
  A QA runner restarts a server that is a line of shell fifteen times, in every way that happens
  on a bad day.

  Killing a line of shell leaves the processes that the shell started. With a bare port there are
  as many servers afterwards as there were restarts, and all of them write to the same log.
  """

  # Serial: the sweeps of its VMs look at every process.
  use Leash.Test.Case, async: false

  @moduletag :slow

  @moduletag timeout: 120_000

  # The process that writes the log is neither the shell nor its child in the loop.
  defp line(log), do: "while :; do echo line of $$; sleep 0.02; done | tee -a #{log}"

  defp start_runner(context) do
    vm = start_vm([], run_dir: context.dir, carrier: context.carrier)

    code = """
    server = {Leash.Worker, shell: #{inspect(line(context.log))}, name: :server, stdout: :null, stop: [sigterm: 500]}
    {:ok, _supervisor} = Supervisor.start_link([server], strategy: :one_for_one, max_restarts: 20, name: :runner)
    """

    VM.eval(vm, code <> "; :started")
    vm
  end

  defp program(vm), do: VM.eval(vm, "Leash.Worker.os_pid(:server)")

  # A supervisor restarts in three ways. After two others there is another VM.
  defp restart(:by_the_supervisor, vm, _context) do
    code = """
    :ok = Supervisor.terminate_child(:runner, :server)
    {:ok, _pid} = Supervisor.restart_child(:runner, :server)
    :restarted
    """

    VM.eval(vm, code)
    vm
  end

  defp restart(:program_killed, vm, _context) do
    before = program(vm)
    before |> Observer.identity() |> Observer.signal("KILL")
    await_another(vm, before)
  end

  defp restart(:process_killed, vm, _context) do
    before = program(vm)
    VM.eval(vm, "Process.exit(Process.whereis(:server), :kill)")
    await_another(vm, before)
  end

  defp restart(:vm_killed, vm, context) do
    VM.signal(vm, "KILL")
    start_runner(context)
  end

  defp restart(:vm_and_shim_killed, vm, context) do
    shim = vm |> VM.eval("Leash.Worker.shim_pid(:server)") |> Observer.identity()
    server = %{os: vm |> program() |> Observer.identity(), shim: shim}
    kill_all(%{vm | workers: %{"server" => server}})
    start_runner(context)
  end

  defp await_another(vm, before) do
    code = "Process.whereis(:server) && Leash.Worker.os_pid(:server)"
    # The process may go between the two calls.
    code = "try do #{code} catch :exit, _gone -> nil end"
    assert_eventually(fn -> VM.eval(vm, code) not in [nil, before] end)
    vm
  end

  defp instances(log), do: Observer.with_argument(log)

  # The processes that have the log open, and that the kernel therefore lets write.
  defp writers(log) do
    for {pid, _ticks} = process <- Observer.all(),
        {:ok, numbers} <- [File.ls("/proc/#{pid}/fd")],
        number <- numbers,
        File.read_link("/proc/#{pid}/fd/#{number}") == {:ok, log},
        do: process
  end

  test "after fifteen restarts there is one server, and one writer of the log" do
    dir = tmp_dir!()
    log = Path.join(dir, "server.log")
    context = %{dir: dir, log: log, carrier: new_carrier()}
    decoy = start_decoy("beside a QA runner", argv: ["tee", log <> ".other"])

    ways =
      ~w(by_the_supervisor program_killed vm_killed process_killed vm_and_shim_killed)a
      |> Stream.cycle()
      |> Enum.take(15)

    vm =
      for way <- ways, reduce: start_runner(context) do
        vm ->
          assert_eventually(fn -> length(writers(log)) == 1 end)
          old = instances(log)
          vm = restart(way, vm, context)

          # No server starts before the one before is gone. One exception: after the kill of its
          # process, a supervisor does not wait for that.
          grace = if way == :process_killed, do: 1_000, else: 0
          gone = fn -> not Enum.any?(old, &Observer.alive?/1) end
          assert Observer.eventually(grace, gone), "alive after #{way}"
          assert length(instances(log)) <= 1
          vm
      end

    assert_eventually(fn -> length(writers(log)) == 1 end)
    assert [server] = instances(log)
    assert [^server] = writers(log)

    # From now on only that process writes the log.
    size = File.stat!(log).size
    more = fn -> log |> File.read!() |> binary_slice(size, 1_000_000) |> String.split("\n") end
    assert_eventually(fn -> length(more.()) > 20 end)
    # The first and the last line may be cut, and the second may have been on its way.
    assert more.() |> Enum.slice(2..18) |> Enum.uniq() == ["line of #{program(vm)}"]

    VM.stop(vm)
    assert instances(log) == [] and writers(log) == []
    assert_unharmed(decoy)
  end
end
