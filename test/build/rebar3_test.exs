defmodule Leash.Build.Rebar3Test do
  @moduledoc """
  A rebar3 project that has Leash as a git dependency: the example, compiled and released
  without a network.
  """

  # Serial: Mix in another VM takes both cores, and the release's sweeps look at every process.
  use Leash.Test.Case, async: false

  alias Leash.Build.Sandbox
  alias Leash.Test.Name

  @moduletag :slow
  @moduletag :build
  @moduletag timeout: 300_000

  if System.find_executable("rebar3") == nil do
    @moduletag skip: "rebar3 is not installed"
  end

  @example Path.join(Sandbox.root(), "examples/rebar3")

  setup_all do
    directory = Path.join(System.tmp_dir!(), Name.of_suite("leash-rebar3"))
    File.rm_rf!(directory)
    on_exit(fn -> File.rm_rf!(directory) end)
    repository = Sandbox.repository!(Path.join(directory, "leash"))
    project = Path.join(directory, "kennel")
    File.cp_r!(@example, project)
    config = Path.join(project, "rebar.config")
    address = "file://#{repository}"
    text = File.read!(config)
    assert text =~ "file:///srv/git/leash"
    File.write!(config, String.replace(text, "file:///srv/git/leash", address))

    env = [
      {"LEASH_PREBUILT", Sandbox.artefacts()},
      {"LEASH_RUN_DIR", Path.join(directory, "runs")},
      {"REBAR_CACHE_DIR", Path.join(directory, "cache")},
      {"REBAR_COLOR", "none"},
      {"MIX_ENV", "test"}
    ]

    %{project: project, env: env, output: rebar3!(project, ["compile"], env)}
  end

  defp rebar3!(project, arguments, env) do
    {output, status} =
      System.cmd("rebar3", arguments, cd: project, env: env, stderr_to_stdout: true)

    assert status == 0, output
    output
  end

  test "rebar3 compiles Leash with mix, once, and without a warning", context do
    assert context.output =~ "Generated leash app"
    refute context.output =~ ~r/warning/i
    ebin = Path.join(context.project, "_build/default/lib/leash/ebin")
    assert {:ok, [{:application, :leash, keys}]} = :file.consult(Path.join(ebin, "leash.app"))
    assert Leash.Worker in keys[:modules]
    assert keys[:vsn] == :leash |> Application.spec(:vsn)
    again = rebar3!(context.project, ["compile"], context.env)
    refute again =~ "leash app"
    assert {:ok, [{:application, :leash, ^keys}]} = :file.consult(Path.join(ebin, "leash.app"))
  end

  test "the release runs the program, and after SIGKILL nothing of it is left", context do
    rebar3!(context.project, ["release"], context.env)
    bin = Path.join(context.project, "_build/default/rel/kennel/bin/kennel")
    carrier = new_carrier()
    decoy = start_decoy("rebar3")
    line = Carrier.enter(carrier) <> "exec #{bin} foreground >/dev/null 2>&1 </dev/null"
    port = Port.open({:spawn_executable, "/bin/sh"}, args: ["-c", line], env: charlists(context))
    on_exit(fn -> Carrier.clear(carrier) end)

    program = fn -> members(carrier, &(&1 == ["sleep", "1000"])) end
    assert_eventually(fn -> program.() != [] end, 30_000)
    # The script has become the VM, and keeps its name.
    assert [vm] = members(carrier, &("-root" in &1))
    tree = program.() ++ members(carrier, &(hd(&1) =~ ~r/leash-shim$/))
    # Warden, shim and program. The port mapper is nothing that Leash starts.
    assert length(tree) == 3
    Observer.signal(vm, "KILL")
    assert_eventually(fn -> not Enum.any?(tree, &Observer.alive?/1) end, 10_000)
    assert_unharmed(decoy)
    assert Port.info(port) == nil or Port.close(port)
  end

  defp members(carrier, condition) do
    for {pid, _ticks} = identity <- Carrier.members(carrier),
        [_program | _args] = argv <- [Observer.argv(pid)],
        condition.(argv),
        do: identity
  end

  defp charlists(%{env: env}),
    do: for({name, value} <- env, do: {String.to_charlist(name), String.to_charlist(value)})
end
