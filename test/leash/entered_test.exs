defmodule Leash.EnteredTest do
  # Counts the files that a reader has to open to follow a call. These are the modules that the
  # call enters, in the calling process and in those that it starts.
  # process and in those that it starts.
  use Leash.Test.Case, async: false

  @entered %{
    cmd: {21, quote(do: Leash.cmd("true", []))},
    start_link: {28, quote(do: Leash.Worker.start_link(command: "sleep", args: ["5"]))}
  }

  for {name, {most, call}} <- @entered do
    test "#{name} enters at most #{most} modules" do
      call = fn -> unquote(call) end
      # Work that is done once, such as loading, does not count.
      call.()
      entered = entered(call)
      assert length(entered) <= unquote(most), "#{length(entered)}: #{inspect(entered)}"
    end
  end

  defp entered(call) do
    Process.flag(:trap_exit, true)
    {:ok, modules} = :application.get_key(:leash, :modules)

    set = fn on? ->
      for module <- modules, do: :erlang.trace_pattern({module, :_, :_}, on?, [:local])
    end

    tracer = spawn_link(fn -> collect(MapSet.new()) end)
    set.(true)
    :erlang.trace(self(), true, [:call, :set_on_spawn, {:tracer, tracer}])
    call.()
    :erlang.trace(self(), false, [:call])
    set.(false)
    delivered = :erlang.trace_delivered(self())
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
