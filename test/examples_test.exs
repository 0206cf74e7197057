defmodule Leash.ExamplesTest do
  @moduledoc "The examples do what they say, each in a VM of its own, and nothing is left of them however it ends."

  use Leash.Test.Case, async: true

  alias Leash.Test.Script

  @root Path.expand("..", __DIR__)

  # In a carrier, until it says that it is ready.
  defp run(example, carrier) do
    ebin = Application.app_dir(:leash, "ebin")
    path = Path.join([@root, "examples", example])
    line = "exec elixir --no-halt -pa #{ebin} --erl '+sbwt none +sbwtdcpu none' #{path}"
    {port, vm, pids} = Script.start(line, carrier, [{"LEASH_RUN_DIR", Decoys.run_dir()}])
    {port, vm, Enum.map(pids, &(&1 |> String.to_integer() |> Observer.identity()))}
  end

  defp said(port, ms \\ 10_000) do
    receive do
      {^port, {:data, {:eol, line}}} -> [line | said(port, ms)]
      {^port, {:exit_status, status}} -> [status]
    after
      ms -> flunk("the example goes on")
    end
  end

  for example <- ~w(pool.exs dynamic_supervisor.exs) do
    @example example

    test "#{example}: a VM that stops in order ends its programs in prep_stop" do
      decoy = start_decoy("beside an example")
      carrier = new_carrier()
      {port, vm, workers} = run(@example, carrier)
      assert length(workers) == 4 and Enum.all?(workers, &Observer.alive?/1)
      # Shims, and a child in a session of its own each.
      assert length(Carrier.members(carrier)) >= 1 + 3 * 4
      Observer.signal(vm, "TERM")
      assert port |> said() |> Enum.take(-2) == ["stopped 4", 0]
      # The VM's own fork server ends a moment after it.
      assert_gone(carrier, 2_000)
      assert_unharmed(decoy)
    end

    test "#{example}: nor is anything left when the VM is killed" do
      decoy = start_decoy("beside an example")
      carrier = new_carrier()
      {port, vm, workers} = run(@example, carrier)
      assert length(workers) == 4
      Observer.signal(vm, "KILL")
      assert said(port) == [128 + 9]
      # By their ladders, the longest of which has three seconds.
      assert_gone(carrier, 6_000)
      assert_unharmed(decoy)
    end
  end
end
