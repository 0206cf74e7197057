defmodule Leash.ExamplesTest do
  @moduledoc """
  The examples do what they say, each in a VM of its own. However a VM ends, nothing of it is
  left.
  """

  use Leash.Test.Case, async: true

  @moduletag :slow

  alias Leash.Test.Script

  @root Path.expand("..", __DIR__)

  @emulator "+sbwt none +sbwtdcpu none"

  defp path(example), do: Path.expand(example, Path.join(@root, "examples"))

  # Runs an example in a carrier, until it prints that it is ready.
  defp run(example, carrier) do
    ebin = Application.app_dir(:leash, "ebin")
    start("exec elixir --no-halt -pa #{ebin} --erl '#{@emulator}' #{path(example)}", carrier)
  end

  defp run_erlang(example, carrier) do
    dir = tmp_dir!()
    {"", 0} = System.cmd("erlc", ["-Werror", "-o", dir, path(example)], stderr_to_stdout: true)

    code =
      for app <- [:leash, :elixir, :logger],
          into: "-pa #{dir}",
          do: " -pa #{:code.lib_dir(app)}/ebin"

    start("exec erl -noshell #{@emulator} #{code} -s #{Path.basename(example, ".erl")}", carrier)
  end

  defp start(line, carrier) do
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
      # The shims, and for each program a child in a session of its own.
      assert length(Carrier.members(carrier)) >= 1 + 3 * 4
      Observer.signal(vm, "TERM")
      assert port |> said() |> Enum.take(-2) == ["stopped 4", 0]
      # The VM's own fork server ends a moment after the VM.
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
      # Each ends by its ladder, the longest of which has three seconds.
      assert_gone(carrier, 6_000)
      assert_unharmed(decoy)
    end
  end

  describe "erlang/my_app.erl:" do
    test "an Erlang application that stops in order ends its programs in prep_stop" do
      decoy = start_decoy("beside an example")
      carrier = new_carrier()
      {port, vm, workers} = run_erlang("erlang/my_app.erl", carrier)
      assert [_, _] = workers
      assert Enum.all?(workers, &Observer.alive?/1)
      Observer.signal(vm, "TERM")
      assert port |> said() |> Enum.take(-2) == ["stopped 2", 0]
      assert_gone(carrier, 2_000)
      assert_unharmed(decoy)
    end

    test "nor is anything left when its VM is killed" do
      decoy = start_decoy("beside an example")
      carrier = new_carrier()
      {port, vm, workers} = run_erlang("erlang/my_app.erl", carrier)
      assert Enum.all?(workers, &Observer.alive?/1)
      Observer.signal(vm, "KILL")
      assert said(port) == [128 + 9]
      assert_gone(carrier, 6_000)
      assert_unharmed(decoy)
    end
  end

  describe "port_owner.exs:" do
    test "nothing is left when the VM is killed, or stops" do
      decoy = start_decoy("beside an example")

      for {signal, status} <- [{"KILL", 128 + 9}, {"TERM", 0}] do
        carrier = new_carrier()
        {port, vm, workers} = run("port_owner.exs", carrier)
        assert [_, _] = workers
        assert Enum.all?(workers, &Observer.alive?/1)
        Observer.signal(vm, signal)
        assert port |> said() |> List.last() == status
        assert_gone(carrier, 6_000)
      end

      assert_unharmed(decoy)
    end

    test "with the line that was there before, the program and its child stay" do
      text = File.read!(path("port_owner.exs"))
      assert [_all, before] = Regex.run(~r/^ +# (port = Port\.open\(.*)$/m, text)
      assert [_one] = Regex.scan(~r/^ +port = Leash\.open_port\(.*$/m, text)
      example = Path.join(tmp_dir!(), "port_owner.exs")
      File.write!(example, String.replace(text, ~r/^ +port = Leash\.open_port\(.*$/m, before))

      carrier = new_carrier()
      {port, vm, [program, child]} = run(example, carrier)
      Observer.signal(vm, "KILL")
      assert said(port) == [128 + 9]
      # The longest time that everything above may take.
      refute Observer.eventually(3_000, fn -> Carrier.members(carrier) == [] end)
      assert Observer.alive?(program) and Observer.alive?(child)
    end
  end
end
