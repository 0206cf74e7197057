defmodule Leash.Build.UmbrellaTest do
  # Serial: Mix in other VMs takes both cores, and tests that measure times run beside async ones.
  use ExUnit.Case, async: false

  alias Leash.Build.Sandbox

  @moduletag :slow
  @moduletag :build
  @moduletag :tmp_dir
  @moduletag timeout: 240_000

  @code """
  defmodule Kennel do
    use Application

    def start(_type, _arguments) do
      options = Application.get_env(:kennel, :worker, [])
      children = if options == [], do: [], else: [{Leash.Worker, options}]
      Supervisor.start_link(children, strategy: :one_for_one)
    end
  end
  """

  test "a record names umbrella or application, and a mistake is a sentence", %{tmp_dir: dir} do
    kennel = Path.join(dir, "apps/kennel")
    Sandbox.dependant!(kennel, @code)

    config = """
    lockfile: "../../mix.lock", deps_path: "../../deps", build_path: "../../_build",
          config_path: "../../config/config.exs",
    """

    exs = Path.join(kennel, "mix.exs")

    File.write!(
      exs,
      exs
      |> File.read!()
      |> String.replace("[app: :kennel,", "[#{String.trim(config)} app: :kennel,")
      |> String.replace("[extra_applications", "[mod: {Kennel, []}, extra_applications")
    )

    File.mkdir_p!(Path.join(dir, "config"))
    File.write!(Path.join(dir, "config/config.exs"), "import Config\n")

    File.write!(Path.join(dir, "mix.exs"), """
    defmodule Shop.Umbrella.MixProject do
      use Mix.Project
      def project, do: [apps_path: "apps", version: "1.0.0"]
    end
    """)

    env = [
      {"LEASH_PREBUILT", Sandbox.artefacts()},
      {"LEASH_RUN_DIR", Path.join(dir, "runs")}
    ]

    code = ~S|IO.puts("app: " <> Leash.Run.current!().config.app)|
    assert Sandbox.mix!(dir, ["run", "-e", code], env) =~ "app: Shop.Umbrella\n"
    assert Sandbox.mix!(kennel, ["run", "-e", code], env) =~ "app: kennel\n"

    File.write!(Path.join(dir, "config/config.exs"), """
    import Config
    config :kennel, worker: [command: "true", reday: 1]
    """)

    assert {output, 1} = Sandbox.mix(dir, ["run", "-e", code], env)
    assert output =~ "(Leash.OptionsError) invalid options: expected one of"
    assert output =~ "did you mean :ready?"
    refute output =~ "%Leash.OptionsError{"

    File.write!(Path.join(dir, "config/config.exs"), """
    import Config
    config :leash, sweep: [scop: :app]
    """)

    assert {output, 1} = Sandbox.mix(dir, ["run", "-e", code], env)
    assert output =~ "invalid options in :sweep: expected one of"
    assert output =~ "did you mean :scope?"
    refute output =~ "%Leash.OptionsError{"
  end
end
