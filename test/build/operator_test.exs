defmodule Leash.Build.OperatorTest do
  # An operator in a project and in a release that depend on Leash. Serial: it sweeps.
  use Leash.Test.Case, async: false

  @moduletag :slow

  alias Leash.Build.Sandbox

  @moduletag :build
  @moduletag needs: :operator
  @moduletag timeout: 240_000

  # A start of the application leaves a file.
  @code """
  defmodule Kennel do
    use Application

    def start(_type, _args) do
      File.write!(System.fetch_env!("KENNEL_STARTED"), "")
      Supervisor.start_link([], strategy: :one_for_one)
    end
  end
  """

  setup_all do
    directory = Path.join(System.tmp_dir!(), Leash.Test.Name.of_suite("leash-operator"))
    File.rm_rf!(directory)
    on_exit(fn -> File.rm_rf!(directory) end)
    Sandbox.dependant!(directory, @code)

    mix = Path.join(directory, "mix.exs")
    started = ~s|[mod: {Kennel, []}, extra_applications: [:logger]]|
    File.write!(mix, String.replace(File.read!(mix), "[extra_applications: [:logger]]", started))

    runs = Path.join(directory, "runs")
    File.mkdir!(runs)
    File.chmod!(runs, 0o700)
    File.mkdir!(Path.join(directory, "config"))

    File.write!(Path.join(directory, "config/config.exs"), """
    import Config
    config :leash, run_dir: System.get_env("KENNEL_BUILT_WITH", "/nonexistent")
    """)

    env = [
      {"LEASH_PREBUILT", Sandbox.artefacts()},
      {"LEASH_RUN_DIR", Path.join(directory, "not this one")},
      {"KENNEL_STARTED", Path.join(directory, "started")},
      {"LC_ALL", "C.UTF-8"}
    ]

    %{directory: directory, env: env, runs: runs}
  end

  @line "setsid sh -c 'echo ready $$; exec sleep 90' & wait"

  defp vm(runs) do
    worker = [command: "sh", args: ["-c", @line], group: :pool, stop: [sigterm: 500]]
    start_vm([{"w", worker}], run_dir: runs, env: [sweep: false])
  end

  defp refute_started(context),
    do: refute(File.exists?(Path.join(context.directory, "started")), "something was started")

  # Looks, ends, and checks the statuses of both, for each way to call `leash`.
  defp looks_and_ends(context, leash) do
    live = vm(context.runs)
    dead = vm(context.runs)
    :ok = kill_all(dead)
    [orphan] = dead.trees["w"]
    {pid, _ticks} = orphan

    assert {json, 0} = leash.(["ps", "--json"])
    # The output is one document, whatever Mix prints.
    assert [~s|{"format":1,| <> _ = document] = String.split(json, "\n", trim: true)
    assert document =~ ~s|"run_dir":"#{context.runs}"|
    assert document =~ ~s|"pid":#{pid},|

    assert {output, 0} = leash.(["runs"])
    assert output =~ ~r/^#{live.run_id} +alive/m
    assert output =~ ~r/^#{dead.run_id} +DEAD/m
    refute output =~ "\e["
    assert {output, 0} = leash.(["tree", live.run_id])
    assert output =~ "shim of worker 1"

    assert {output, 3} = leash.(["kill", live.run_id])
    assert output =~ "--force"
    assert {_output, 1} = leash.(["kill", "zzzzzzz"])
    assert Observer.alive?(orphan)
    assert {_output, 0} = leash.(["sweep"])
    refute Observer.alive?(orphan)
    for one <- [live.identity | live.trees["w"]], do: assert(Observer.alive?(one))

    assert {_output, 1} = leash.(["stop", "nobody"])
    assert {output, 0} = leash.(["stop", ":pool", "--deadline", "3000"])
    assert output =~ "ended 1 worker"
    for one <- live.trees["w"], do: refute(Observer.alive?(one))
    assert Observer.alive?(live.identity)
    refute_started(context)
    VM.stop(live)
  end

  test "mix leash.* in a project, of which nothing is started", context do
    # A setting that only the runtime configuration has.
    runtime = Path.join(context.directory, "config/runtime.exs")
    File.write!(runtime, "import Config\nconfig :leash, run_dir: #{inspect(context.runs)}\n")
    on_exit(fn -> File.rm!(runtime) end)
    Sandbox.mix!(context.directory, ["compile"], context.env)
    # Gives Mix something to compile and to print.
    File.write!(Path.join(context.directory, "lib/kennel.ex"), @code <> "# Changed.\n")
    decoy = start_decoy("sleeps beside it")

    looks_and_ends(context, fn [command | arguments] ->
      Sandbox.mix(context.directory, ["leash." <> command | arguments], context.env)
    end)

    help = Sandbox.mix!(context.directory, ["help"], context.env)
    for name <- ~w(ps tree runs sweep stop kill), do: assert(help =~ "mix leash.#{name} ")
    assert_unharmed(decoy)
  end

  test "Leash.Operator in a release, of which nothing is started", context do
    # A setting from build time, which only a loaded application has.
    env = [{"KENNEL_BUILT_WITH", context.runs} | context.env]
    Sandbox.mix!(context.directory, ["release", "--quiet", "--overwrite"], env)
    release = Path.join(context.directory, "_build/prod/rel/kennel")
    assert [command] = Path.wildcard(Path.join(release, "lib/leash-*/priv/leash"))
    assert %File.Stat{type: :regular, mode: mode} = File.lstat!(command)
    assert Bitwise.band(mode, 0o555) == 0o555

    looks_and_ends(context, fn arguments ->
      code = "Leash.Operator.run(#{inspect(arguments)}) |> System.halt()"

      System.cmd(Path.join(release, "bin/kennel"), ["eval", code],
        env: context.env,
        stderr_to_stdout: true
      )
    end)
  end

  test "without the command it is one sentence", context do
    # A machine without Rust may have this build: the library works, and the command is missing.
    prebuilt = Path.join(context.directory, "prebuilt")
    File.mkdir!(prebuilt)

    for name <- ~w(leash_nif.so leash-shim),
        do: File.cp!(Path.join(Sandbox.artefacts(), name), Path.join(prebuilt, name))

    env = [{"LEASH_PREBUILT", prebuilt} | List.keydelete(context.env, "LEASH_PREBUILT", 0)]
    {output, status} = Sandbox.mix(context.directory, ["leash.ps"], env)
    assert status != 0

    assert output =~
             ~r/^\*\* \(RuntimeError\) the command leash is not installed in .*priv: compile/m
  end
end
