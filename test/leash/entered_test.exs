defmodule Leash.EnteredTest do
  # Counts the files that a reader has to open to follow a call. These are the modules that the
  # call enters, in the calling process, in those that it starts and in the worker's.
  use Leash.Test.Case, async: false

  defp start!, do: Leash.Worker.start_link(command: "sleep", args: ["5"])

  test "cmd enters at most 20 modules" do
    assert_entered(20, [], fn -> Leash.cmd("true", []) end)
  end

  test "start_link enters at most 24 modules" do
    assert_entered(24, [], &start!/0)
  end

  test "stop enters at most 16 modules" do
    {:ok, worker} = start!()
    assert_entered(16, [worker], fn -> Leash.Worker.stop(worker) end)
  end

  defp assert_entered(most, others, call) do
    Process.flag(:trap_exit, true)
    # Work that is done once, such as loading, does not count.
    with {:ok, worker} <- start!(), do: Leash.Worker.stop(worker)
    Leash.cmd("true", [])
    entered = entered(call, others)
    assert length(entered) <= most, "#{length(entered)}: #{inspect(entered)}"
  end

  defp entered(call, others) do
    {:ok, modules} = :application.get_key(:leash, :modules)

    set = fn on? ->
      for module <- modules, do: :erlang.trace_pattern({module, :_, :_}, on?, [:local])
    end

    tracer = spawn_link(fn -> collect(MapSet.new()) end)
    set.(true)

    for pid <- [self() | others],
        do: :erlang.trace(pid, true, [:call, :set_on_spawn, {:tracer, tracer}])

    call.()
    :erlang.trace(self(), false, [:call])
    set.(false)
    delivered = :erlang.trace_delivered(:all)
    assert_receive {:trace_delivered, _pid, ^delivered}
    send(tracer, {:entered, self()})
    assert_receive {:entered, entered}
    Enum.sort(entered)
  end

  defp collect(modules) do
    receive do
      {:trace, _pid, :call, {module, _function, _args}} -> collect(MapSet.put(modules, module))
      {:entered, from} -> send(from, {:entered, MapSet.to_list(modules)})
      _other -> collect(modules)
    end
  end
end
