defmodule Leash.OpenPort.VMTest do
  @moduledoc "The trees of ports when their VM, or the application in it, ends."

  use Leash.Test.Case, async: true

  # Starts a VM whose ports hold these trees. Each has data waiting that its program never reads.
  @shapes [:plain, :ignores_term, :daemon, :env_i]

  defp vm_with_ports(options \\ [], flood? \\ true) do
    vm = start_vm([], options)
    carrier = Carrier.new(vm.carrier)
    on_exit(fn -> Carrier.clear(carrier) end)
    trees = for shape <- @shapes, do: open(vm, shape, carrier, flood?)
    [[_pid, shim] | _] = trees
    assert Enum.all?(trees, fn [pid, shim] -> Observer.alive?(pid) and Observer.alive?(shim) end)
    %{vm: vm, carrier: carrier, trees: Enum.concat(trees), shim: shim}
  end

  defp open(vm, shape, carrier, flood?) do
    program = command(shape, carrier)

    code = """
    port = Leash.open_port(#{inspect(program[:command])}, #{inspect(program[:args])}, [:binary, line: 1000, stop: [sigterm: 300]])
    {:os_pid, shim} = Port.info(port, :os_pid)
    line = receive do {^port, {:data, {:eol, "ready " <> line}}} -> line after 10_000 -> raise "not ready" end
    if #{flood?}, do: Port.command(port, :binary.copy("x", 300_000), [:nosuspend])
    {shim, line}
    """

    {shim, line} = VM.eval(vm, code)
    [pid | _] = line |> String.split() |> Enum.map(&String.to_integer/1)
    for each <- [pid, shim], do: Observer.identity(each)
  end

  defp assert_all_gone(ports, ms) do
    took = assert_gone(ports.carrier, ms)
    assert_eventually(fn -> not Enum.any?(ports.trees, &Observer.alive?/1) end)
    took
  end

  @tag :slow
  test "an application stop ends them, and leaves no record" do
    dir = tmp_dir!()
    ports = vm_with_ports(run_dir: dir)
    assert [_record] = Path.wildcard(Path.join(dir, "*.json"))
    decoy = start_decoy("of another tree", argv: ["--run-id=#{ports.vm.run_id}"])
    # The number of processes that monitor the caller: the keeper of each port monitors its
    # caller.
    count = "length(elem(Process.info(self(), :monitored_by), 1))"
    others = VM.eval(ports.vm, count) - length(@shapes)
    # A port that stays open when its program is gone.
    VM.eval(ports.vm, "Leash.open_port(\"sleep\", [\"60\"], [:eof]) && :ok")
    held = "Enum.all?(Leash.Registry.all(), & &1.shim_fd)"
    assert_eventually(fn -> VM.eval(ports.vm, held) end)
    assert VM.ask(ports.vm, "app_stop", 10_000) == ":ok"
    # The stop itself has waited for them.
    assert_all_gone(ports, 0)
    assert Path.wildcard(Path.join(dir, "*.json")) == []
    assert_eventually(fn -> VM.eval(ports.vm, count) == others end)
    assert_unharmed(decoy)

    assert VM.eval(
             ports.vm,
             "try do Leash.open_port(\"true\") rescue e -> {e.__struct__, Exception.message(e)} end"
           ) ==
             {Leash.Error, Leash.Error.format(:not_running)}
  end

  @tag :slow
  test "System.halt ends them" do
    # With data waiting, a halt that flushes waits for ever. Then no code of Leash runs, and the
    # VM lives.
    ports = vm_with_ports([], false)
    VM.command(ports.vm, "halt")
    assert_all_gone(ports, 3_000)
  end

  @tag :slow
  test "a halt that does not flush ends them with data waiting" do
    ports = vm_with_ports()
    VM.command(ports.vm, "eval " <> Base.encode64(":erlang.halt(0, flush: false)"))
    assert_all_gone(ports, 3_000)
  end

  @tag :slow
  test "SIGTERM to the VM ends them" do
    ports = vm_with_ports()
    VM.signal(ports.vm, "TERM")
    assert_all_gone(ports, 5_000)
  end

  @tag :slow
  test "SIGKILL to the VM ends them" do
    ports = vm_with_ports()
    VM.signal(ports.vm, "KILL")
    assert_all_gone(ports, 3_000)
  end

  test "a crash of the Reaper, and its restart, lose none of them" do
    ports = vm_with_ports()

    code = """
    reaper = Process.whereis(Leash.Reaper)
    Process.exit(reaper, :kill)
    {length(Leash.list()), length(for row <- Leash.list(), Process.alive?(row.pid), do: row)}
    """

    assert VM.eval(ports.vm, code) == {4, 4}
    assert Enum.all?(ports.trees, &Observer.alive?/1)

    code = """
    wait = fn wait -> if Process.whereis(Leash.Reaper), do: :ok, else: wait.(wait) end
    wait.(wait)
    for port <- Port.list(), {:name, name} <- [Port.info(port, :name)], to_string(name) =~ "leash-shim", do: Port.close(port)
    :ok
    """

    assert VM.eval(ports.vm, code) == :ok
    assert_all_gone(ports, 3_000)
    assert_eventually(fn -> VM.eval(ports.vm, "Leash.list()") == [] end)
  end
end
