defmodule Leash.Build.ReadmeTest do
  # Serial: Mix in other VMs takes both cores, and tests that measure times run beside async ones.
  use ExUnit.Case, async: false

  @moduletag :slow

  alias Leash.Build.Sandbox
  alias Leash.Test.{Observer, Ports}

  @moduletag :build
  @moduletag timeout: 240_000

  @readme File.read!("README.md")

  defp blocks(language) do
    for [_all, code] <- Regex.scan(~r/^```#{language}\n(.*?)^```$/ms, @readme), do: code
  end

  setup_all do
    parent = Path.join(System.tmp_dir!(), Leash.Test.Name.of_suite("leash-readme"))
    directory = Path.join(parent, "my_app")
    File.mkdir_p!(parent)
    on_exit(fn -> File.rm_rf!(parent) end)
    Sandbox.mix!(parent, ["new", "my_app", "--sup"])
    # The install line says "../leash".
    File.ln_s!(Sandbox.root(), Path.join(parent, "leash"))

    [dependency, worker, calls, config] = blocks("elixir")
    mix_exs = Path.join(directory, "mix.exs")
    generated = File.read!(mix_exs)
    pasted = String.replace(generated, ~r/defp deps do\n    \[\n/, "\\0      #{dependency}")
    refute pasted == generated
    File.write!(mix_exs, pasted)

    # Other suites of this machine may use the same port and directory.
    port = "#{Ports.free()}"
    run_dir = Path.join(parent, "runs")
    assert config =~ "/var/tmp/my_app-leash" and worker =~ "8123"
    File.mkdir_p!(Path.join(directory, "config"))
    config = String.replace(config, "/var/tmp/my_app-leash", run_dir)
    File.write!(Path.join(directory, "config/config.exs"), ["import Config\n", config])

    env = [{"LEASH_PREBUILT", Sandbox.artefacts()}]
    Sandbox.mix!(directory, ["compile", "--warnings-as-errors"], env)
    %{directory: directory, env: env, worker: String.replace(worker, "8123", port), calls: calls}
  end

  test "the worker runs as pasted, and its server ends with a killed VM", context do
    code = context.worker <> ~S|IO.puts("VM #{System.pid()}"); Process.sleep(:infinity)|

    port =
      Port.open({:spawn_executable, System.find_executable("mix")}, [
        :binary,
        line: 1_000,
        args: ["run", "-e", code],
        cd: context.directory,
        env: for({name, value} <- context.env, do: {to_charlist(name), to_charlist(value)})
      ])

    drawn = lines_until(port, "VM ")
    ["VM " <> vm | _] = drawn
    vm = Observer.identity(String.to_integer(vm))
    on_exit(fn -> Observer.signal(vm, "KILL") end)
    assert [line] = Enum.filter(drawn, &(&1 =~ "python3 -u -m http.server"))
    [pid] = Regex.run(~r/(\d+) [A-Z] \[/, line, capture: :all_but_first)
    server = Observer.identity(String.to_integer(pid))
    assert Observer.alive?(vm) and Observer.alive?(server)
    Observer.signal(vm, "KILL")
    assert Observer.eventually(5_000, fn -> not Observer.alive?(server) end)
  end

  # The lines so far, the last one first.
  defp lines_until(port, beginning, lines \\ []) do
    receive do
      {^port, {:data, {:eol, line}}} ->
        if String.starts_with?(line, beginning),
          do: [line | lines],
          else: lines_until(port, beginning, [line | lines])
    after
      60_000 -> flunk("no line #{inspect(beginning)} after #{inspect(lines)}")
    end
  end

  test "the other calls run as pasted", context do
    code = context.calls <> ~S|IO.puts("done: #{Leash.run_id()}")|
    output = Sandbox.mix!(context.directory, ["run", "-e", code], context.env)
    assert output =~ ~r/done: [0-9a-z]{7}/
  end

  test "the commands of a console are files that can be executed" do
    commands =
      for block <- blocks("console"), "$ " <> command <- String.split(block, "\n"), do: command

    assert commands == ["script/demo", "script/test"]

    for command <- commands,
        do: assert(Bitwise.band(File.stat!(command).mode, 0o111) == 0o111, command)
  end

  test "it has at most 120 lines" do
    assert length(String.split(@readme, "\n")) <= 121
  end
end
