# Compiler tasks in lib/ would not be compiled yet when the first compilation needs them.
Code.require_file("mix/leash_native.exs", __DIR__)
Code.require_file("mix/leash_erlang_docs.exs", __DIR__)

defmodule Leash.MixProject do
  use Mix.Project

  # The version is written down once, for the crates and for the application.
  @external_resource Path.join(__DIR__, "Cargo.toml")
  @version Mix.Tasks.Compile.LeashNative.version(__DIR__)

  # The address of the repository, once there is a public one.
  @source_url nil

  def project do
    [
      app: :leash,
      version: @version,
      elixir: "~> 1.14",
      description: "Every OS process your BEAM app starts, on a leash.",
      package: package(),
      start_permanent: Mix.env() == :prod,
      compilers: [:leash_native] ++ Mix.compilers() ++ [:leash_erlang_docs],
      elixirc_paths: elixirc_paths(Mix.env()),
      # Programs of the scripts, and no tests. Elixir asks from 1.19 on.
      test_ignore_filters: [&String.starts_with?(&1, "test/stress/")],
      source_url: @source_url,
      docs: docs(),
      deps: deps(Mix.env())
    ]
  end

  # Nothing needs a package to build, test or use Leash. `MIX_ENV=docs mix docs` renders the
  # documentation where Hex can be reached.
  defp deps(:docs), do: [{:ex_doc, "~> 0.34", runtime: false}]
  defp deps(_env), do: []

  defp docs do
    [
      main: "readme",
      source_ref: "v#{@version}",
      # Two files with one name would be one page.
      extras:
        ~w(README.md guides/install.md guides/cheatsheet.cheatmd) ++
          (Path.wildcard("guides/*.md") -- ["guides/install.md"]) ++
          ~w(CHANGELOG.md CONTRIBUTING.md SECURITY.md DESIGN.md LICENSE) ++
          ["bench/README.md": [filename: "bench"]],
      groups_for_extras: [
        Start: ~r{guides/(install|cheatsheet|migrating|erlang)},
        Operate: ~r{guides/(cli|systemd|containers|systems|platforms|troubleshooting|escapes)},
        Guides: ~r{guides/}
      ],
      groups_for_modules: [
        Start: [
          Leash,
          Leash.Worker,
          Leash.Pool,
          Leash.Ladder,
          Leash.Limits,
          Leash.Cgroup,
          Leash.Identity
        ],
        Look: [
          Leash.Tree,
          Leash.OSProcess,
          Leash.Cluster,
          Leash.Telemetry,
          Leash.Logger,
          Leash.Dashboard
        ],
        "Runs and sweeps": [Leash.RunId, Leash.Sweep, Leash.Operator],
        "Results and errors": [Leash.Exit, Leash.Error, Leash.OptionsError, Leash.CommandError]
      ],
      filter_modules: fn module, _metadata -> module != Leash.Worker.Machine end
    ]
  end

  def application do
    [
      mod: {Leash.Application, []},
      extra_applications: [:logger]
    ]
  end

  defp elixirc_paths(:test), do: ["lib", "test/support"]
  defp elixirc_paths(_env), do: ["lib"]

  defp package do
    [
      licenses: ["Apache-2.0"],
      links: if(@source_url, do: %{"Source" => @source_url}, else: %{}),
      files:
        ~w(lib src mix mix.exs rebar.config native .cargo Cargo.toml Cargo.lock .formatter.exs) ++
          ~w(README.md DESIGN.md CHANGELOG.md CONTRIBUTING.md SECURITY.md LICENSE guides) ++
          ~w(bench/README.md bench/figures) ++
          ~w(examples/*.exs examples/erlang examples/rebar3 examples/release/mix.exs) ++
          ~w(examples/release/lib examples/release/rel)
    ]
  end
end
